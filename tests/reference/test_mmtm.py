"""MMTM: two streams that scale each other's channels."""

import jax.numpy as jnp

from jdyn.layers.multimodal_transfer import MultimodalTransfer
from tests.reference import convert
from tests.reference.esanet import first, last


def test_transfer(load):
  reference = load('qmf_mmtm')
  sizes = reference.meta['constructor']
  transfer = MultimodalTransfer(sizes['ratio'])
  widths = {name: sizes[f'dim_{name}'] for name in ('visual', 'skeleton')}

  def run(weights, inputs):
    weights = convert.sorted_inputs(weights, 'fc_squeeze', widths)
    params = {'squeeze': convert.dense(weights, 'fc_squeeze')}
    params |= {
      f'excite_{name}': convert.dense(weights, f'fc_{name}') for name in widths
    }
    maps = {name: last(inputs[name]) for name in widths}
    scaled = transfer.apply({'params': params}, maps)
    return (
      {'sq': sum(jnp.sum(y**2) for y in scaled.values())},
      {name: first(y) for name, y in scaled.items()},
    )

  reference.check_losses(run)
  reference.finish()
