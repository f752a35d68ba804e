"""DynMM's gate: soft and hard weights at every temperature, two and more paths."""

import jax.numpy as jnp

from jdyn.encoders.identity import Identity
from jdyn.gates.learned import LearnedGate
from tests.reference import convert


def _gate(weights, x, prefix, hard, temperature):
  head, variables = convert.mlp(weights, prefix)
  gate = LearnedGate(encoder=Identity(), head=head)
  hparams = {'gate_temperature': temperature, 'gate_hard': jnp.asarray(hard)}
  params = {'params': {'head': variables['params']}}
  return gate.apply(params, x, train=False, hparams=hparams)


def _cases(meta):
  """Name -> prefix of the weights, suffix of the inputs, hardness, temperature."""
  for kind in ('soft', 'hard'):
    for i, temperature in enumerate(meta['constructor']['taus']):
      yield f'{kind}_t{i}', ('gate.', '', kind == 'hard', temperature)
    yield f'{kind}_n', ('gate_n.', '_n', kind == 'hard', 1.0)


def test_gate(load):
  reference = load('dynmm_gate')
  for name, case in _cases(reference.meta):

    def run(weights, inputs, name=name, case=case):
      prefix, suffix, hard, temperature = case
      gated = _gate(weights, inputs['x'], prefix, hard, temperature)
      loss = jnp.sum(gated.weights * inputs[f'cot{suffix}'])
      return loss, {name: gated.weights, f'logits{suffix}': gated.logits}

    reference.check_loss(name, run)
  reference.finish()
