"""DEQ fusion as released: its map, solvers, fixed points and gradients.

A state is one vector per example: those of the modalities in their order, then the
fused one.
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.fusions.equilibrium_released import ReleasedEquilibrium
from jdyn.interop import deq_fusion
from jdyn.interop.state_dict import read_params
from jdyn.layers.equilibrium import (
  BatchNormCell,
  JointCell,
  PurifyCombine,
  WeightedSum,
)
from jdyn.ops import jacobian
from jdyn.ops.fixed_point import Criterion, solve
from jdyn.ops.solvers import picard
from tests.reference import convert, deq
from tests.reference.loader import Reference

OPTIONS = {
  'deq_fusion_m2': {},
  'deq_fusion_m3': {},
  'deq_mmimdb': {'relu_last': True},
  'deq_brca': {'weighted': False},
  'deq_brca_identity': {'weighted': False, 'cell': 'features'},
  'deq_mosi': {
    'weighted': False,
    'cell': 'batch_norm',
    'groups': 1,
    'over_steps': True,
  },
}
IN_FLOAT32 = ('deq_brca_identity', 'deq_mosi')  # The residual cell: mmdynamics_deq.


def _variables(options, weights, features):
  names, cell = sorted(features), options.get('cell', 'residual')
  if cell == 'batch_norm':
    return deq.channel_variables(weights, names)
  module = ReleasedEquilibrium(**options)
  make = functools.partial(module.init, jax.random.key(0), train=False)
  template = jax.eval_shape(make, features)['params']
  places = deq_fusion.places(names, weighted=options.get('weighted', True))
  if cell == 'features':  # The original has parameters that it does not use.
    places = {name: place for name, place in places.items() if 'combine' in place}
    weights = {name: weights[name] for name in places}
  return {'params': read_params(Path('reference'), weights, places, template)}


class _Original:
  """What a file stores, from its weights and inputs."""

  def __init__(self, options, reference, weights, inputs):
    self.meta, self.inputs, self.double = reference.meta, inputs, reference.double
    size = self.meta['constructor']
    self.options, self.count = options, size['M']
    self.layout = (deq.Channels if 'n' in size else deq.Vectors)(self.count + 1)
    read = self.layout.features
    self.features = {f'x{i}': read(inputs[f'x{i}']) for i in range(self.count)}
    self.variables = _variables(options, weights, self.features)
    self.probes = jax.vmap(self.layout.state)(inputs['probe'])
    if options.get('weighted', True):
      params = {'params': self.variables['params']['injection']}
      self.fused = WeightedSum().apply(params, self.features)
    else:
      self.fused = read(inputs['x_fuse'])

  def map(self, z):
    """One application."""
    options = {k: v for k, v in self.options.items() if k != 'weighted'}
    cell = JointCell(**options, parent=None, name='map')
    variables = {kind: tree.get('map', {}) for kind, tree in self.variables.items()}
    return deq.apply(cell, variables, z, self.features, self.fused)

  def apply(self, *, train, **more):
    """The fused state, what the module says, and the solution it found, if any."""
    module = ReleasedEquilibrium(**self.options | more)
    given = None if self.options.get('weighted', True) else self.fused
    with deq.opened(self.probes, given) as (_, solutions):
      fused = module.apply(
        self.variables, self.features, train=train, rngs={'probe': jax.random.key(0)}
      )
    z_f = self.layout.their_features(fused.value)
    return z_f, fused.aux, (solutions[0] if solutions else None)

  def loss(self, z_f):
    return jnp.sum(jnp.sin(z_f) @ self.inputs['c'])

  def at_the_solution(self):
    z_f, aux, solution = self.apply(train=True, **deq.exact(self.double))
    unrolled, *_ = self.apply(train=True, layers=self.meta['constructor']['K'])
    losses = {
      'ift': self.loss(z_f),
      'jac': aux['jacobian'].mean(),
      'unroll': self.loss(unrolled),
    }
    (vjp,) = jax.vjp(self.map, solution.iterate)[1](self.probes[0])
    return losses, {
      'zstar': self.layout.their_state(solution.iterate),
      'z_f': z_f,
      'vjp': self.layout.their_state(vjp),
      'jac_loss': losses['jac'],
      'unroll/z_f': unrolled,
    }

  def applications(self):
    first = self.map(jnp.zeros_like(self.probes[0]))
    random = self.layout.state(self.inputs['z_rand'])
    size = jacobian.squared_norm(self.map, random, self.probes)
    theirs = self.layout.their_state
    return {
      'x_fuse': self.layout.features(self.fused),
      'f1': theirs(first),
      'f2': theirs(self.map(first)),
      'f_rand': theirs(self.map(random)),
      'jac_loss_rand': size.mean(),
    }

  def picard(self):
    every = Criterion(30, tol=0.0, floor=0.0, together=True)
    start = jnp.zeros_like(self.probes[0])
    return {'picard_rel': solve(self.map, start, picard(), every).trace[:, 0]}

  def as_published(self):
    z_f, aux, solution = self.apply(train=True, tol=self.meta['eps_default'])
    return {'paper': self.loss(z_f)}, {
      'paper/z': self.layout.their_state(solution.iterate),
      'paper/abs_trace': solution.trace[:, 0],
      'paper/nstep': jnp.argmin(solution.trace[:, 0]),
      'paper/z_f_train': z_f,
      'paper/jac_loss': aux['jacobian'].mean(),
    }

  def steps(self, solver, count, tol):
    """By name, the result of so many steps, its index, and its traces.

    Theirs has both traces in each result, although it stops by one.
    """
    run = functools.partial(self.apply, train=False, solver=solver, max_steps=count)
    solutions = {stop: run(stop=stop, tol=tol)[2] for stop in ('abs', 'rel')}
    results = {}
    for stop, solution in solutions.items():
      name = f'{solver}{count}' + (f'_{stop}' if solver == 'anderson' else '')
      results[f'{name}/z'] = self.layout.their_state(solution.iterate)
      results[f'{name}/nstep'] = jnp.argmin(solution.trace[:, 0])
      for kind, other in solutions.items():
        trace = other.trace[:, 0]
        if solver == 'broyden':  # Theirs lacks the start, and ends with the least.
          trace = jnp.append(trace[1:], trace.min())
        results[f'{name}/{kind}_trace'] = trace
    return results

  def batch_statistics(self):
    """One application in training mode."""
    *states, fused = jnp.split(
      self.layout.state(self.inputs['z_rand']), self.count + 1, axis=1
    )
    of_map = {kind: self.variables[kind]['map'] for kind in self.variables}
    new, found = {}, {}
    for i, (name, x) in enumerate(self.features.items()):
      cell = {kind: tree[f'cell_{name}'] for kind, tree in of_map.items() if tree}
      new[name], state = BatchNormCell().apply(
        cell, states[i].reshape(x.shape), x, train=True, mutable=['batch_stats']
      )
      key = f'func_.branches.{i}.gn2'
      stored = convert.state(key, state['batch_stats']['norm'])
      found |= {f'bn_train/{key}': value for key, value in stored.items()}
    combine = PurifyCombine('sum', groups=1, over_steps=True)
    params = {'params': of_map['params']['combine']}
    last = combine.apply(params, fused.reshape(x.shape), self.fused, new)
    rows = [state.reshape(x.shape[0], -1) for state in (*new.values(), last)]
    together = self.layout.their_state(jnp.concatenate(rows, axis=1))
    return found | {'bn_train/f_rand': together}


@pytest.mark.usefixtures('compile_fast')
@pytest.mark.parametrize(
  ('name', 'double'),
  [*((name, True) for name in OPTIONS), *((name, False) for name in IN_FLOAT32)],
)
def test_original(load, name, double):
  reference = load(name, double=double)

  def run(weights, inputs):
    original = _Original(OPTIONS[name], reference, weights, inputs)
    losses, found = original.at_the_solution()
    found |= original.applications()
    if OPTIONS[name].get('cell') == 'batch_norm':
      found |= original.batch_statistics()
    if double:
      published, more = original.as_published()
      losses |= published
      found |= more | original.picard() | original.steps('anderson', 12, 1e-13)
      if 'out/broyden12/z' in reference.arrays:
        found |= original.steps('broyden', 12, 1e-13)
    return losses, found

  reference.check_losses(run)
  counter = 'out/bn_train/state/*.num_batches_tracked'
  reference.finish({counter: 'our BatchNorm has a fixed momentum, no counter'})


_RENAMED = {
  'x': 'in/x',
  'z_rand': 'in/z_rand',
  'jac_v': 'in/probe',
  'loss_c': 'in/c',
  'loss': 'out/loss/ift',
  'z_fuse_train': 'out/z_f',
  'grad/x': 'grad/ift/in/x',
  'grad/func_': 'grad/ift/param/func_',
  'anderson12/': 'out/anderson12_abs/',
  'anderson60/': 'out/anderson60_abs/',
}


def _rename(key):
  """As the other files call it."""
  start = max((k for k in _RENAMED if key.startswith(k)), key=len, default='')
  name = _RENAMED.get(start, 'out/') + key.removeprefix(start)
  return re.sub('/(abs|rel)$', r'/\1_trace', name)


@pytest.mark.usefixtures('compile_fast')
def test_original_with_stored_weights(fixtures_dir):
  """An older file, without tolerances."""
  with np.load(fixtures_dir / 'deqfusion_ref_f64.npz', allow_pickle=False) as file:
    stored = {key: file[key] for key in file.files}
  weights = {k[3:]: v for k, v in stored.items() if k.startswith('sd/')}
  arrays = {_rename(k): v for k, v in stored.items() if not k.startswith('sd/')}
  inputs = {k[3:]: v for k, v in arrays.items() if k.startswith('in/')}
  atol = {key: 1e-10 * np.abs(value).max() for key, value in arrays.items()}
  meta = {
    'constructor': {'M': sum(key.startswith('in/x') for key in arrays) - 1, 'K': 1},
    'tolerance_f64': {'rtol': 1e-9, 'atol': atol},
  }
  reference = Reference(meta, arrays, weights, inputs, double=True)

  def run(weights, inputs):
    original = _Original({'weighted': False}, reference, weights, inputs)
    losses, found = original.at_the_solution()
    found |= original.applications()
    found |= original.steps('anderson', 12, 1e-13)
    found |= original.steps('anderson', 60, 1e-13)
    # Between their last two residuals, absolute and relative.
    found |= original.steps('broyden', 60, 4e-13)
    found = {name: value for name, value in found.items() if f'out/{name}' in arrays}
    return {'ift': losses['ift']}, found

  reference.check_losses(run)
  reference.finish()
