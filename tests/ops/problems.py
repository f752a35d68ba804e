"""Fixed-point problems with known solutions, each one row of a batch."""

import dataclasses

import numpy as np

WIDTH = 4
MAPS = ('linear', 'tanh', 'cos', 'exp', 'log')


@dataclasses.dataclass
class Problem:
  """`z = map(matrix z + shift)`, with a map for each coordinate."""

  matrix: np.ndarray
  shift: np.ndarray
  start: np.ndarray
  maps: tuple[str, ...] = ('linear',) * WIDTH
  solution: np.ndarray | None = None

  def __post_init__(self):
    if self.solution is None and set(self.maps) == {'linear'}:
      self.solution = np.linalg.solve(np.eye(WIDTH) - self.matrix, self.shift)


_RNG = np.random.default_rng(0)
_BASIS = np.linalg.qr(_RNG.normal(size=(WIDTH, WIDTH)))[0]
_SHIFT = _RNG.normal(size=WIDTH)
_ZERO = np.zeros(WIDTH)
_JORDAN = np.diag([0.5] * WIDTH) + np.diag([2.0] * (WIDTH - 1), 1)
_NET = _RNG.normal(size=(WIDTH, WIDTH)) * 0.4


def _linear(matrix, shift=_SHIFT, start=_ZERO):
  return Problem(matrix, shift, start)


def _symmetric(*eigenvalues):
  return _linear(_BASIS * eigenvalues @ _BASIS.T)


def _rotation(angle, radius):
  turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  return _linear(np.kron(np.eye(2), radius * np.array(turn)))


def _first(name, matrix, shift, solution=None):
  """A problem of one coordinate; the others are 0 and stay so."""
  wide = np.zeros((WIDTH, WIDTH))
  wide[0, 0] = matrix
  maps = (name, *['linear'] * (WIDTH - 1))
  solution = None if solution is None else np.eye(WIDTH)[0] * solution
  return Problem(wide, np.eye(WIDTH)[0] * shift, _ZERO, maps, solution)


def _tanh():
  solution = _ZERO
  for _ in range(200):
    solution = np.tanh(_NET @ solution + _SHIFT)
  return Problem(_NET, _SHIFT, _ZERO, ('tanh',) * WIDTH, solution)


def _solved():
  problem = _symmetric(0.9, -0.6, 0.3, 0.1)
  return dataclasses.replace(problem, start=problem.solution)


PROBLEMS = {
  'symmetric': _symmetric(0.9, -0.6, 0.3, 0.1),
  'non_normal': _linear(_JORDAN),
  'cosine': _first('cos', 1.0, 0.0, 0.7390851332151607),
  'tanh': _tanh(),
  'rotation': _rotation(1.0, 1.0),
  'expanding_rotation': _rotation(2.0, 1.05),
  'nearly_singular': _symmetric(1 - 1e-3, 0.5, -0.3, 0.1),
  'almost_singular': _symmetric(1 - 1e-6, 0.5, -0.3, 0.1),
  'diverging': _symmetric(3.0, 0.5, -0.2, 0.1),
  'at_the_solution': _solved(),
  'zero': _linear(_BASIS * 0.5, shift=_ZERO),
  'towards_zero': _linear(np.diag([0.5, 0.4, -0.3, 0.2]), _ZERO, np.ones(WIDTH)),
}
OVERFLOWING = _first('exp', 1.0, 5.0)  # exp(exp(exp(5) + 5) + 5) is infinite.
UNDEFINED = _first('log', 1.0, 0.5)  # The second logarithm is that of 0.5 + log(0.5).


def stack(problems, dtype=np.float64):
  """`start` and `params` of a batch, one problem per row."""
  field = lambda name: np.stack([getattr(p, name) for p in problems]).astype(dtype)  # noqa: E731
  maps = [[MAPS.index(name) for name in p.maps] for p in problems]
  params = {'matrix': field('matrix'), 'shift': field('shift')}
  return field('start'), params | {'maps': np.array(maps)}


def apply(z, params, xp):
  """The map of a batch, or of one row, in NumPy or `jax.numpy`."""
  y = xp.einsum('...ij,...j->...i', params['matrix'], z) + params['shift']
  chosen = dict(zip(MAPS, (params['maps'] == i for i in range(len(MAPS))), strict=True))
  # A map that is not chosen must have a derivative all the same.
  exponent, number = xp.where(chosen['exp'], y, 0), xp.where(chosen['log'], y, 1)
  images = [y, xp.tanh(y), xp.cos(y), xp.exp(exponent), xp.log(number)]
  return xp.select([*chosen.values()], images)
