"""The released DEQ fusion, opened: what it reads and finds, with given probes."""

import contextlib
import dataclasses
import functools
from unittest import mock

import jax

from jdyn.fusions import equilibrium_released
from jdyn.fusions.equilibrium_released import ReleasedEquilibrium
from jdyn.layers.equilibrium import JointCell
from jdyn.ops.fixed_point import solve
from tests.reference import convert

# Broyden's solver reaches machine precision, for which Anderson's as released would
# need hundreds of steps.
_EXACT = dict(solver='broyden', stop='rel', max_steps=60, adjoint_steps=60)

_apply = jax.jit(JointCell.apply, static_argnums=0)


def exact(double):
  """Options that solve forward and backward to machine precision."""
  return _EXACT | {'tol': 1e-15 if double else 1e-7}


def apply(cell, *args):
  """`cell.apply` as a compiled function that is called.

  Inlined, the map would be compiled dozens of times in one program.
  """
  return _apply(cell, *args)


@contextlib.contextmanager
def opened(probes, fused=None):
  """With these probes and, if given, fused features, instead of the module's own.

  Yields lists of the features that it reads and of the solutions that it finds.
  """
  features, solutions = [], []

  def watched(*args):
    solutions.append(solve(*args))
    return solutions[-1]

  with contextlib.ExitStack() as stack:
    replace = functools.partial(mock.patch.object, equilibrium_released)
    stack.enter_context(replace('check_shapes', features.append))
    stack.enter_context(replace('solve', watched))
    stack.enter_context(replace('draw_probes', return_value=probes))
    stack.enter_context(mock.patch.object(JointCell, 'apply', apply))
    if fused is not None:
      given = mock.patch.object(ReleasedEquilibrium, '_fuse', return_value=fused)
      stack.enter_context(given)
    yield features, solutions


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


def channel_variables(weights, names):
  """Variables of the CMU-MOSI code, which has BatchNorm in the cells."""
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
