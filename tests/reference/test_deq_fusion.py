"""DEQ fusion as released: its map, solvers, fixed points and gradients.

A state is one vector per example: those of the modalities in their order, then the
fused one.
"""

import contextlib
import dataclasses
import functools
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.fusions import equilibrium_released
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
from tests.reference import convert
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
IN_FLOAT32 = ('deq_fusion_m2', 'deq_mosi')
# Broyden's solver reaches machine precision, for which Anderson's as released would
# need hundreds of steps.
EXACT = dict(solver='broyden', stop='rel', max_steps=40, adjoint_steps=40)


def exact(double):
  """Options that solve forward and backward to machine precision."""
  return EXACT | {'tol': 1e-15 if double else 1e-7}


@contextlib.contextmanager
def opened(probes, fused=None):
  """With these probes, and these fused features; gives the solutions that are found.

  The map is a compiled function, which is called: inlined, it would be compiled many
  times over.
  """
  found = []

  def watched(*args):
    found.append(solve(*args))
    return found[-1]

  with contextlib.ExitStack() as stack:
    enter = functools.partial(mock.patch.object, equilibrium_released)
    stack.enter_context(enter('solve', watched))
    stack.enter_context(enter('draw_probes', lambda *_: probes))
    stack.enter_context(mock.patch.object(JointCell, 'apply', _call))
    if fused is not None:
      given = mock.patch.object(ReleasedEquilibrium, '_fuse', lambda *_: fused)
      stack.enter_context(given)
    yield found


_compiled = jax.jit(JointCell.apply, static_argnums=0)


def _call(cell, *args):
  return _compiled(cell, *args)


@dataclasses.dataclass
class Vectors:
  """The layout of states that are vectors: theirs and ours are the same."""

  blocks: int

  def state(self, z):
    """Theirs to ours."""
    return z

  def their_state(self, z):
    """Ours to theirs."""
    return z

  def features(self, x):
    """One block, theirs to ours."""
    return x

  def their_features(self, x):
    """One block, ours to theirs, flat."""
    return x


class Channels(Vectors):
  """Of states `[B, channels, channels]`: channels come first, in ours last."""

  def state(self, z):
    size = round((z[0].size / self.blocks) ** 0.5)
    blocks = z.reshape(z.shape[0], self.blocks, size, size)
    return blocks.swapaxes(2, 3).reshape(z.shape[0], -1)

  def their_state(self, z):
    return self.state(z)[..., None]

  def features(self, x):
    return x.swapaxes(1, 2)

  def their_features(self, x):
    return self.features(x).reshape(x.shape[0], -1)


def _variables(options, weights, features):
  names, cell = sorted(features), options.get('cell', 'residual')
  if cell == 'batch_norm':
    return channel_variables(weights, names)
  module = ReleasedEquilibrium(**options)
  make = functools.partial(module.init, jax.random.key(0), train=False)
  template = jax.eval_shape(make, features)['params']
  places = deq_fusion.places(names, weighted=options.get('weighted', True))
  if cell == 'features':  # The original has parameters that it does not use.
    places = {name: place for name, place in places.items() if 'combine' in place}
    weights = {name: weights[name] for name in places}
  return {'params': read_params(Path('reference'), weights, places, template)}


def channel_variables(weights, names):
  """Of the CMU-MOSI code, with BatchNorm in the cells."""
  layer = f'func_.branches.{len(names)}'
  params = {
    'combine': {
      'gate': convert.dense(weights, f'{layer}.gate'),
      'fuse': convert.dense(weights, f'{layer}.fuse'),
      'norm': {'norm': convert.norm(weights, f'{layer}.gn3')},
    }
  }
  stats = {}
  for i, name in enumerate(names):
    layer = f'func_.branches.{i}'
    params[f'cell_{name}'] = {
      'linear1': convert.dense(weights, f'{layer}.conv1'),
      'linear2': convert.dense(weights, f'{layer}.conv2'),
      'norm': convert.norm(weights, f'{layer}.gn2'),
    }
    stats[f'cell_{name}'] = {'norm': convert.statistics(weights, f'{layer}.gn2')}
  return {'params': {'map': params}, 'batch_stats': {'map': stats}}


class _Original:
  """What a file stores, from its weights and inputs."""

  def __init__(self, options, reference, weights, inputs):
    self.meta, self.inputs, self.double = reference.meta, inputs, reference.double
    size = self.meta['constructor']
    self.options, self.count = options, size['M']
    self.layout = (Channels if 'n' in size else Vectors)(self.count + 1)
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
    return _compiled(cell, variables, z, self.features, self.fused)

  def apply(self, *, train, **more):
    """The fused state, what the module says, and the solution it found, if any."""
    module = ReleasedEquilibrium(**self.options | more)
    given = None if self.options.get('weighted', True) else self.fused
    with opened(self.probes, given) as solutions:
      fused = module.apply(
        self.variables, self.features, train=train, rngs={'probe': jax.random.key(0)}
      )
    z_f = self.layout.their_features(fused.value)
    return z_f, fused.aux, (solutions[0] if solutions else None)

  def loss(self, z_f):
    return jnp.sum(jnp.sin(z_f) @ self.inputs['c'])

  def at_the_solution(self):
    z_f, aux, solution = self.apply(train=True, **exact(self.double))
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

  def twelve_steps(self, solver):
    """Theirs has both traces in each result; the tolerance is never reached."""
    run = functools.partial(self.apply, train=False, solver=solver, max_steps=12)
    solutions = {stop: run(stop=stop, tol=1e-13)[2] for stop in ('abs', 'rel')}
    results = {}
    for stop, solution in solutions.items():
      name = 'broyden12' if solver == 'broyden' else f'anderson12_{stop}'
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
      found |= more | original.picard() | original.twelve_steps('anderson')
      if 'out/broyden12/z' in reference.arrays:
        found |= original.twelve_steps('broyden')
    return losses, found

  reference.check_losses(run)
  counter = 'out/bn_train/state/*.num_batches_tracked'
  reference.finish({counter: 'our BatchNorm has a fixed momentum, no counter'})
