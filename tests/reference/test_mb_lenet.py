"""MultiBench: `LeNet` on images and on spectrograms."""

import jax.numpy as jnp
import pytest

from tests.reference import convert, loader


@pytest.mark.parametrize('name', ['mb_lenet_image', 'mb_lenet_audio'])
def test_lenet(load, name):
  reference = load(name)

  def apply(weights, x, **options):
    module, variables = convert.lenet(weights, '')
    image = x.transpose(0, 2, 3, 1)
    return module, *module.apply(variables, image, **options)

  def channels_first(module, features, like):
    """The flattened features in torch's order and shape."""
    depth = module.channels << module.blocks
    side = reference.meta['constructor']['size'] >> (module.blocks + 1)
    image = features.reshape(-1, side, side, depth).transpose(0, 3, 1, 2)
    return image.reshape(reference.arrays[like].shape)

  def run_eval(weights, inputs):
    module, features, state = apply(
      weights, inputs['x'], train=False, capture_intermediates=True
    )
    blocks = state['intermediates']
    outputs = {
      f'eval/gp{i}': jnp.mean(blocks[f'block_{i}']['__call__'][0], axis=(1, 2))
      for i in range(module.blocks + 1)
    }
    return {
      'eval/feat': channels_first(module, features, 'out/eval/feat'),
      **outputs,
    }

  def run_train(weights, inputs):
    module, features, state = apply(
      weights, inputs['x'], train=True, mutable=['batch_stats']
    )
    features = channels_first(module, features, 'out/train/feat')
    outputs = {'train/feat': features}
    for block, stats in state['batch_stats'].items():
      index = block.removeprefix('block_')
      outputs |= convert.state(f'bns.{index}', stats['norm'])
    return jnp.sum(features * inputs['cot']), outputs

  reference.check(run_eval)
  reference.check_loss('train', run_train)
  reference.finish(loader.NO_COUNTER)
