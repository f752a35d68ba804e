"""DynMM on ESANet: the gate alone, and the whole network with its five exits."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.linen import linear

from jdyn.layers.batch_norm import BatchNorm
from jdyn.ops.pixel_loss import pixel_loss
from jdyn.typing import weighted_mean
from tests.reference import esanet
from tests.reference.esanet import first, hparams, last, resource

BACKBONES = ['r18basic', 'r34nbt1d', 'r50']
WHOLE = pytest.mark.usefixtures('compile_fast')
SCALES = {'full': 1, 'down8': 8, 'down16': 16, 'down32': 32}


@pytest.mark.parametrize('double', [False, True], ids=['float32', 'float64'])
def test_gate(load, double):
  reference = load('skipgate_gate', double=double)
  meta = reference.meta

  def run(weights, inputs):
    maps = jnp.concatenate([last(inputs['rgb']), last(inputs['depth'])], axis=-1)
    module, losses, found = esanet.gate(weights, ''), {}, {}
    for mode, train in (('eval', False), ('train', True)):
      for i, temperature in enumerate(meta['constructor']['T']):
        for kind, hard in (('soft', False), ('hard', True)):
          gated, state = esanet.run(
            module,
            weights,
            '',
            maps,
            train=train,
            hparams=hparams(temperature, hard),
          )
          cost = resource(gated.weights, meta['depth_enc_flop'])
          name = f'{kind}_t{i}'
          losses[f'{mode}_{name}'] = (
            jnp.sum(gated.weights * inputs['cot']) + 0.05 * cost
          )
          found[f'{mode}/{name}'] = gated.weights
          found[f'{mode}/resource_{name}'] = cost
      found[f'{mode}/logits'] = gated.logits
      found |= {f'{mode}/{key}': value for key, value in state.items()}
    return losses, found

  reference.check_losses(run)
  reference.finish({'out/train/state/*.num_batches_tracked': 'we have no counter'})


@WHOLE
@pytest.mark.parametrize('backbone', BACKBONES)
def test_every_exit_and_every_gate(load, backbone):
  reference = load(f'skipgate_{backbone}_eval')
  meta = reference.meta
  count, temperature = meta['constructor']['B'], meta['constructor']['Ts']
  costs = meta['depth_enc_flop']
  exits = len(costs)

  def run(weights, inputs):
    model = esanet.gated_stages(weights)
    images = {name: last(inputs[name]) for name in ('rgb', 'depth')}
    variables, _ = esanet.bind(
      model, weights, '', images, train=False, hparams=hparams(1.0, False)
    )

    def apply(method, *args, **options):
      return model.apply(variables, *args, train=False, method=method, **options)

    (_, maps), state = apply(
      'route', images, hparams=hparams(1.0, False), capture_intermediates=True
    )
    (fused,) = state['intermediates']['network']['fusions_0']['__call__']
    outputs = {'mid/fuse0': first(fused)}

    one_hot = jnp.eye(exits)
    asked = {
      f'exit{k}': jnp.broadcast_to(one_hot[k], (count, exits)) for k in range(exits)
    }
    asked['exit_mixed'] = one_hot[(jnp.arange(count) + 1) % exits]
    asked['forced'] = inputs['weight']
    for name, given in {
      'T1': hparams(1.0, False),
      'Ts': hparams(temperature, False),
      'hard': hparams(1.0, True),
    }.items():
      gated, _ = apply('route', images, hparams=given)
      outputs[f'gate_{name}'] = gated.weights
      outputs[f'resource_{name}'] = resource(gated.weights, costs)
      asked['hard' if name == 'hard' else f'soft_{name}'] = gated.weights
    outputs['gate_logits'] = gated.logits
    outputs['resource_forced'] = resource(inputs['weight'], costs)
    outputs['resource_exits'] = jnp.stack(
      [resource(asked[f'exit{k}'], costs) for k in range(exits)]
    )

    # Rows do not see each other, so that all answers are one batch.
    names = list(asked)
    tiled = [jnp.tile(x, (len(names), 1, 1, 1)) for x in maps]
    blended, state = apply(
      'blend',
      jnp.concatenate([asked[name] for name in names]),
      tiled,
      capture_intermediates=True,
    )

    def part(x, name):
      return first(x.reshape(len(names), count, *x.shape[1:])[names.index(name)])

    for name in names:
      outputs[name] = part(blended.logits, name)
    layers = state['intermediates']['network']
    decoder = layers['decoder']
    middle = {
      'context': layers['context'],
      'conv_out': decoder['out'],
      **{f'skip{i + 1}': layers[f'skip_layers_{i}'] for i in range(3)},
    }
    for name, layer in middle.items():
      outputs[f'mid/{name}'] = part(layer['__call__'][0], 'soft_T1')
    for i in range(3):
      ((decoded, _),) = decoder[f'module_{i}']['__call__']
      outputs[f'mid/dec{i + 1}'] = part(decoded, 'soft_T1')
    return outputs

  reference.check(run)
  reference.finish()


def objectives(reference, weights, inputs):
  """Losses and outputs with a soft and a hard gate, and the soft one's statistics."""
  meta = reference.meta
  model = esanet.gated_stages(weights)
  images = {name: last(inputs[name]) for name in ('rgb', 'depth')}
  labels = {k: inputs[f'label{k}'].astype(jnp.int32) for k in SCALES.values()}

  def one(hard):
    outputs, state = esanet.run(
      model,
      weights,
      '',
      images,
      train=True,
      hparams=hparams(meta['constructor']['T'], hard),
    )
    logits = [outputs.logits] + [outputs.aux[f'down_{k}'] for k in (8, 16, 32)]
    losses = [
      weighted_mean(*pixel_loss(x, label, inputs['class_weights'])).compute()
      for x, label in zip(logits, labels.values(), strict=True)
    ]
    chosen = jnp.stack([outputs.weights[path] for path in model.paths], axis=-1)
    found = dict(zip(SCALES, map(first, logits), strict=True))
    found['weight'] = chosen
    found['gate_logits'] = outputs.aux['gate_logits']
    found['ce'] = jnp.stack(losses)
    found['resource'] = resource(chosen, meta['depth_enc_flop'])
    return found, state

  # One program for both kinds: compiling takes longer than running.
  found, state = jax.vmap(one)(jnp.array([False, True]))
  losses, outputs = {}, {}
  for i, kind in enumerate(('soft', 'hard')):
    mine = {name: value[i] for name, value in found.items()}
    losses[kind] = mine['ce'].sum() + 1e-4 * mine['resource']
    losses[f'{kind}_flop'] = mine['resource']
    outputs |= {f'{kind}/{name}': value for name, value in mine.items()}
  return losses, outputs, {name: value[0] for name, value in state.items()}


def frozen(next_fn, args, kwargs, context):
  """Every BatchNorm on its running statistics."""
  if isinstance(context.module, BatchNorm):
    kwargs = {**kwargs, 'train': False}
  return next_fn(*args, **kwargs)


@WHOLE
@pytest.mark.parametrize('backbone', BACKBONES)
def test_gradients(load, backbone):
  reference = load(f'skipgate_{backbone}_frozen')

  def run(weights, inputs):
    with nn.intercept_methods(frozen):
      losses, outputs, _ = objectives(reference, weights, inputs)
    return losses, outputs

  reference.check_losses(run)
  reference.finish()


def as_product(x, kernel, strides, padding, **options):
  """A convolution as one matrix product of windows and kernel.

  XLA has no fast convolution in float64 on CPU.
  """
  del options
  height, width, _, features = kernel.shape
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    (size - side) // stride + 1
    for size, side, stride in zip(x.shape[1:3], (height, width), strides, strict=True)
  )
  windows = [
    x[:, i :: strides[0], j :: strides[1]][:, :rows, :columns]
    for i in range(height)
    for j in range(width)
  ]
  return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, features)


@WHOLE
@pytest.mark.parametrize('backbone', BACKBONES)
def test_training(load, backbone, monkeypatch):
  monkeypatch.setattr(linear.lax, 'conv_general_dilated', as_product)
  reference = load(f'skipgate_{backbone}_train', double=True)

  def run(weights, inputs):
    losses, outputs, state = objectives(reference, weights, inputs)
    statistics = {key.removeprefix('state/'): value for key, value in state.items()}
    rows = [statistics[key] for key in reference.meta['table_keys']]
    outputs['train_state_table'] = jnp.stack(
      [jnp.stack([jnp.mean(row), jnp.linalg.norm(row)]) for row in rows]
    )
    for key, value in statistics.items():
      if f'out/train_state/{key}' in reference.arrays:
        outputs[f'train_state/{key}'] = value
    return losses, outputs

  skip = {'out/train_state/*.num_batches_tracked': 'we have no counter'}
  if backbone == BACKBONES[0]:
    reference.check_losses(run)
  else:
    reference.check(lambda *args: run(*args)[1])
    reason = (
      'half a minute; tested with running statistics, and on the smallest network'
    )
    skip |= {'*grad/*': reason, 'out/loss/*': reason}
  reference.finish(skip)
