"""Equilibrium fusion beside the original's code, on the CPU.

  python -m benchmarks.deq [--data ROSMAP] [--json FILE]
    [--original DIR --original-python PYTHON] [--threads N]

DIR is a checkout of jinhong-ni/DEQFusion, PYTHON an interpreter with torch. Without
them only this library is measured. Three comparisons, in float32:

- `layer`: three views of 300 features, at initial weights, each side as it comes: the
  original's solver runs to its cap of 105 evaluations (106 backward) and finds nothing.
  Evaluations, the relative residual per example that is left, and times.
- `same map`: the original's map with weights scaled so that it is a contraction, one
  problem for both sides, to a relative residual of 1e-3. The original stops by the
  batch's norm, this library example by example; the residuals that are left are given.
- `step`: full-batch training steps on ROSMAP (or its stand-in): the equilibrium model
  and the same model with concatenation, each side with its own settings.

The sides take turns; a time is the median of the rounds.
"""

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.other import Other
from benchmarks.rows import row, write_rows
from benchmarks.throughput import Ours as Training
from jdyn import build
from jdyn.data.load import load
from jdyn.evaluators.latency import device_name
from jdyn.fusions import FUSIONS
from jdyn.interop import deq_fusion
from jdyn.interop.state_dict import read_params
from jdyn.layers.equilibrium import JointCell
from jdyn.ops import solvers
from jdyn.ops.fixed_point import fixed_point

VIEWS, WIDTH, TOL = ('mrna', 'methylation', 'mirna'), 300, 1e-3
FORMAT = '{:34}{:>12}{:>12}{:>10}'


def seconds(run, repeat: int) -> list[float]:
  """Times of a compiled function without arguments, after one call."""
  jax.block_until_ready(run())
  found = []
  for _ in range(repeat):
    start = time.perf_counter()
    jax.block_until_ready(run())
    found.append(time.perf_counter() - start)
  return found


def our_layer(features, repeat: int) -> dict:
  """What the original's `layer` answers, of the default fusion."""
  fusion = FUSIONS['equilibrium']()
  variables = fusion.init(jax.random.key(0), features, train=False)

  @jax.jit
  def forward(variables, features):
    return fusion.apply(variables, features, train=False)

  @jax.jit
  def both(variables, features):
    def loss(variables, features):
      return jnp.sum(jnp.sin(fusion.apply(variables, features, train=True).value))

    return jax.value_and_grad(loss, (0, 1))(variables, features)

  aux = forward(variables, features).aux
  blocks = (*features, 'fused')
  residual = np.stack([aux[f'solver/{name}/residual'] for name in blocks])
  # The blocks of the modalities are evaluated together.
  steps = [float(aux[f'solver/{name}/steps'].max()) for name in blocks]
  return {
    'forward': seconds(lambda: forward(variables, features), repeat),
    'both': seconds(lambda: both(variables, features), repeat),
    'evaluations': max(max(steps[:-1]), steps[-1]),
    'median': float(np.median(residual.max(axis=0))),
    'worst': float(residual.max()),
  }


def our_contraction(features, weights: Path, repeat: int) -> dict:
  """What the original's `contraction` answers, by solver."""
  features = {
    name: x / jnp.sqrt(jnp.mean(jnp.square(x))) for name, x in features.items()
  }
  total = sum(features.values())
  cell = JointCell()
  zeros = jnp.zeros((len(total), WIDTH * (len(features) + 1)))
  template = jax.eval_shape(
    lambda: cell.init(jax.random.key(0), zeros, features, total)
  )
  places = deq_fusion.places(VIEWS)
  with np.load(weights) as file:
    tensors = {name: file[name] for name in file.files}
  params = read_params(weights, tensors, places, {'map': template['params']})
  answer = {}
  for name, solver in {
    'picard': solvers.picard(),
    'anderson': solvers.anderson(),
    'broyden': solvers.broyden(),
  }.items():
    run = jax.jit(
      lambda params, solver=solver: fixed_point(
        lambda z, params: cell.apply({'params': params}, z, features, total),
        zeros,
        params,
        solver=solver,
        max_steps=100,
        tol=TOL,
      )
    )
    found = run(params['map'])
    answer[name] = {
      'seconds': seconds(lambda run=run: run(params['map']), repeat),
      'evaluations': float(found.steps.max()),
      'median': float(jnp.median(found.residual)),
      'worst': float(found.residual.max()),
    }
  return answer


def training(dataset, fusion) -> Training:
  """Our training loop on all patients at once, with another inner fusion."""
  config = importlib.import_module('configs.rosmap_deq').get_config()
  config.batch_size = len(dataset.splits['train'])
  if fusion == 'concat':
    config.loss.jacobian = 0.0
    with config.unlocked():
      config.model.fusion.fusion = {'name': 'concat', 'flatten': True}
  build.run(config)
  return Training(config, dataset)


def show(name: str, unit: str, ours: float, theirs: float | None, digits: int = 1):
  """Prints one line of a table and gives its row."""
  ratio = theirs and theirs / ours
  cells = [f'{ours:.{digits}f}', '' if theirs is None else f'{theirs:.{digits}f}']
  print(FORMAT.format(f'{name}, {unit}', *cells, f'{ratio:.1f}x' if ratio else ''))
  return row(f'deq {name}', ours, unit, theirs, ratio)


def show_residuals(name: str, ours: dict, theirs: dict | None):
  """Prints the residuals that are left."""
  cells = [f'{found["worst"]:.0e}' if found else '' for found in (ours, theirs)]
  print(FORMAT.format(f'{name}, worst residual', *cells, ''))
  return row(
    f'deq {name} residual', ours['worst'], '', theirs and theirs['worst'], None
  )


def milliseconds(found: list[float]) -> float:
  return 1e3 * statistics.median(found)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--original', type=Path, help='checkout to compare with')
  parser.add_argument('--original-python', default=sys.executable)
  parser.add_argument('--data', default='', help="ROSMAP's folder")
  parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument('--repeat', type=int, default=3)
  parser.add_argument('--json', type=Path, help='where to write the rows')
  args = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  with tempfile.TemporaryDirectory() as folder:
    rows = measure(args, Path(folder))
  if args.json:
    write_rows(args.json, rows)


def measure(args, folder: Path) -> list[dict]:
  """All three tables."""
  config = importlib.import_module('configs.rosmap_deq').get_config()
  dataset = load(build.source(config), args.data, cache=folder)
  train = dataset.splits['train']
  random = np.random.default_rng(0)
  size = (len(VIEWS), len(train), WIDTH)
  # As small as what the views of ROSMAP give at first.
  arrays = 0.05 * np.maximum(random.standard_normal(size, np.float32), 0)
  features = dict(zip(VIEWS, jnp.asarray(arrays), strict=True))
  original = None
  if args.original:
    views = [train.inputs[name] for name in VIEWS]
    np.savez(folder / 'data.npz', features=arrays, views=views, label=train.label)
    driver = Path(__file__).with_name('original_deq.py')
    original = Other(
      args.original_python,
      [driver, args.original.resolve(), folder / 'data.npz', '--threads', args.threads],
    )
  load_now = os.getloadavg()[0]
  print(f'{device_name()}; load {load_now:.1f}; original on {args.threads} threads')
  print(FORMAT.format('', 'ours', 'original', 'ratio'))

  theirs = original and original.ask(what='layer', repeat=args.repeat)
  ours = our_layer(features, 5 * args.repeat)
  rows = [
    show(
      'layer: evaluations',
      'of 1',
      ours['evaluations'],
      theirs and theirs['evaluations'],
    ),
    show_residuals('layer', ours, theirs),
  ]
  for key, name in {
    'forward': 'layer: forward',
    'both': 'layer: with gradient',
  }.items():
    other = theirs and milliseconds(theirs[key])
    rows.append(show(name, 'ms', milliseconds(ours[key]), other))

  if original:
    weights = folder / 'weights.npz'
    theirs = original.ask(
      what='contraction', repeat=args.repeat, tol=TOL, save=str(weights)
    )
    found = our_contraction(features, weights, 5 * args.repeat)
    for name, ours in found.items():
      other = theirs.get(name)
      title = f'same map, {name}'
      rows += [
        show(
          f'{title}: evaluations',
          '',
          ours['evaluations'],
          other and other['evaluations'],
          0,
        ),
        show_residuals(title, ours, other),
        show(
          title,
          'ms',
          milliseconds(ours['seconds']),
          other and milliseconds(other['seconds']),
        ),
      ]

  times = {}
  for fusion in ('concat', 'deq'):
    steps = 100 if fusion == 'concat' else 20
    side, mine, other = training(dataset, fusion), [], []
    side.time_epoch('memory', steps)
    for _ in range(args.repeat):
      mine.append(side.time_epoch('memory', steps)['seconds'] / steps)
      if original:
        few = 20 if fusion == 'concat' else 1
        answer = original.ask(what='steps', model=fusion, steps=few)
        other.append(answer['seconds'] / few)
    times[fusion] = milliseconds(mine), milliseconds(other) if other else None
    rows.append(show(f'step, {fusion}', 'ms', *times[fusion]))
  ratios = [
    deq and concat and deq / concat
    for deq, concat in zip(times['deq'], times['concat'], strict=True)
  ]
  rows.append(show('step, deq over concat', 'x', *ratios))
  if original:
    original.close()
  return rows


if __name__ == '__main__':
  main()
