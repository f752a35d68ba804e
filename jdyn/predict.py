"""`python -m jdyn.predict --workdir W --rgb FILE --depth FILE --out overlay.png`.

What each pixel shows, by a finished run: the image under the colours of its classes,
the classes that are there and their shares, which exit the gate took and how long that
took. Images are of any size, and are resized for the network as those of the run's
dataset. With folders instead of files, images of one scene have the same name but for
the suffix; there is an overlay for each in the folder --out, and a line in its
predictions.csv.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
  import numpy as np

  from jdyn.inference import TrainedRun

_SUFFIXES = ('.png', '.jpg', '.jpeg')
_LISTED = 5

Files = Mapping[str, Path]
"""Of one scene, by modality."""


class _Seen(NamedTuple):
  """What was found in one scene.

  Attributes:
    image: to draw on, `u8[H, W, 3]`.
    classes: `u8[H, W]`, one more than the class.
    path: that the gate chose; empty for a model without a choice.
    ms: milliseconds that its batch took, by the size of the batch.
    size: of the batch.
  """

  image: 'np.ndarray'
  classes: 'np.ndarray'
  path: str
  ms: float
  size: int


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and predicts; exits with 1 on bad input."""
  parser = argparse.ArgumentParser(prog='python -m jdyn.predict', description=__doc__)
  add = parser.add_argument
  add('--workdir', type=Path, required=True, help='folder of the run')
  add('--rgb', type=Path, help='colour image, 8 bits, or a folder of such')
  add('--depth', type=Path, help='depth image, 16 bits, in the unit of the dataset')
  add('--out', type=Path, required=True, help='the overlay, .png or .jpg, or a folder')
  add('--labels', type=Path, help='also write classes, from 1 on, as PNG of 8 bits')
  add('--budget', help='per image, for the gate to keep to: 5M or 30ms')
  add(
    '--policy', default='auto', help='auto, dense, switch, ladder, buckets, each (auto)'
  )
  add('--seed', type=int, help='one of those of the run (the first)')
  add('--batch-size', type=int, default=1, help='images per call (%(default)s)')
  options = parser.parse_args(arguments)
  # Imports wait until here, so that --help is quick.
  from jdyn.training.checkpoint import CheckpointError
  from jdyn.training.workdir import WorkdirError

  try:
    _predict(options)
  except (ValueError, OSError, CheckpointError, WorkdirError) as error:
    parser.exit(1, f'error: {error}\n')


def _predict(options: argparse.Namespace) -> None:
  from jdyn.data.image_files import write
  from jdyn.data.rgbd import class_colors
  from jdyn.evaluators.overlay import overlay, shares
  from jdyn.inference import TrainedRun
  from jdyn.training.logging import ProgressLine
  from jdyn.training.workdir import read_spec

  run = TrainedRun(options.workdir)
  names = read_spec(options.workdir).class_names
  colors = class_colors(len(names))
  given = _check(run, options)
  many = next(iter(given.values())).is_dir()
  scenes = _pair(given) if many else {options.out.stem: given}
  targets = _targets(options, many, scenes)
  about = _about(run, options)
  progress, lines = ProgressLine(), []
  for done, (name, seen) in enumerate(_stream(run, scenes, options), 1):
    drawn = overlay(seen.image, seen.classes, names, colors, about(seen))
    for target, image in zip(targets[name], (drawn, seen.classes), strict=False):
      write(target, image)
    share = shares(seen.classes, len(names))
    lines.append([name, seen.path, f'{seen.ms:.4g}', *(f'{s:.4f}' for s in share)])
    if many:
      progress('images', done, len(scenes))
  if not many:
    print('\n'.join(about(seen)))
    print(f'Written: {", ".join(map(str, targets[name]))}')
    return
  with open(options.out / 'predictions.csv', 'w', newline='') as file:
    header = ['file', 'exit', 'ms', *(f'share/{name}' for name in names)]
    csv.writer(file).writerows([header, *lines])
  print(f'\nWritten: {len(scenes)} overlays and predictions.csv in {options.out}')


def _check(run: 'TrainedRun', options: argparse.Namespace) -> dict[str, Path]:
  """The images that were given, by modality, if the run is one to judge them."""
  from jdyn.models.input_names import input_names
  from jdyn.tasks import Segmentation

  if not isinstance(run.stage.task, Segmentation):
    raise ValueError(
      f'{options.workdir} is no run of segmentation; `jdyn.load(...).predict` takes '
      'the inputs of any run.'
    )
  if options.batch_size < 1:
    raise ValueError(f'--batch-size={options.batch_size} must be at least 1.')
  reads = input_names(run.stage.model)
  given = {name: path for name in ('rgb', 'depth') if (path := getattr(options, name))}
  for name in ('rgb', 'depth'):
    if (name in reads) != (name in given):
      what = 'give' if name in reads else 'leave out'
      raise ValueError(
        f'{options.workdir} reads {" and ".join(sorted(reads))}; {what} --{name}.'
      )
  for name, path in given.items():
    if not path.exists():
      raise ValueError(f'--{name}={path}: no such file or folder.')
  if len({path.is_dir() for path in given.values()}) > 1:
    raise ValueError('--rgb and --depth must be two files or two folders.')
  return given


def _pair(folders: Files) -> dict[str, Files]:
  """The files of each scene, by what their names have in common."""
  found = {name: _images(folder) for name, folder in folders.items()}
  everything = sorted(set().union(*found.values()))
  for name, folder in folders.items():
    if lacking := [stem for stem in everything if stem not in found[name]]:
      more = len(lacking) - _LISTED
      raise ValueError(
        f'--{name}={folder} has no image {", ".join(lacking[:_LISTED])}'
        f'{f" and {more} more" if more > 0 else ""}, but the other folder has.'
      )
  if not everything:
    where = ' and '.join(map(str, folders.values()))
    raise ValueError(f'{where}: no images {_SUFFIXES}.')
  return {stem: {name: found[name][stem] for name in found} for stem in everything}


def _images(folder: Path) -> dict[str, Path]:
  found: dict[str, Path] = {}
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() in _SUFFIXES and path.is_file():
      if path.stem in found:
        raise ValueError(f'{found[path.stem]} and {path}: two images of one name.')
      found[path.stem] = path
  return found


def _targets(
  options: argparse.Namespace, many: bool, scenes: Mapping[str, Files]
) -> dict[str, list[Path]]:
  """Where the overlay of each scene goes, and its labels; folders are made."""
  wanted = [path for path in (options.out, options.labels) if path]
  if many:
    targets = {name: [path / f'{name}.png' for path in wanted] for name in scenes}
  else:
    targets = dict.fromkeys(scenes, wanted)
    if wanted[0].suffix.lower() not in _SUFFIXES:
      raise ValueError(f'--out={options.out}: give a name that ends in .png or .jpg.')
    if wanted[1:] and wanted[1].suffix.lower() != '.png':
      raise ValueError(f'--labels={options.labels}: give a name that ends in .png.')
  sources = {path.resolve() for files in scenes.values() for path in files.values()}
  written = [path for paths in targets.values() for path in paths]
  for path in written:
    if path.resolve() in sources:
      raise ValueError(f'{path} would be overwritten; give another --out or --labels.')
  if len({path.resolve() for path in written}) < len(written):
    raise ValueError('--out and --labels must differ.')
  for path in wanted:
    (path if many else path.parent).mkdir(parents=True, exist_ok=True)
  return targets


def _stream(
  run: 'TrainedRun', scenes: Mapping[str, Files], options: argparse.Namespace
) -> Iterator[tuple[str, _Seen]]:
  """What is seen in each scene; nothing that is timed compiles anything."""
  import numpy as np

  from jdyn import build
  from jdyn.ops.resize import bilinear

  source = build.source(run.config)
  names, size = list(scenes), options.batch_size
  batches = [names[start : start + size] for start in range(0, len(names), size)]
  how = (options.policy, options.budget, options.seed)
  handed = 0.0

  def read(batch):
    modalities = scenes[batch[0]]
    return source.read({m: [scenes[name][m] for name in batch] for m in modalities})

  def inputs():
    nonlocal handed
    for batch in batches:
      found = read(batch)
      handed = time.perf_counter()
      yield found

  # Every size is a program of its own.
  for batch in {len(batch): batch for batch in batches}.values():
    run.predict(read(batch), *how)
  outputs = run.stream(inputs(), *how)
  for batch in batches:
    found = next(outputs)
    ms = 1e3 * (time.perf_counter() - handed) / len(batch)
    for row, name in enumerate(batch):
      chosen = [path for path, w in found.weights.items() if w[row] == 1]
      image = _background(scenes[name])
      whole = bilinear(found.logits[row : row + 1], image.shape[:2])
      classes = np.asarray(run.stage.task.predict(whole)[0] + 1).astype(np.uint8)
      yield name, _Seen(image, classes, ''.join(chosen), ms, len(batch))


def _background(files: Files) -> 'np.ndarray':
  """The image to draw on, `u8[H, W, 3]`."""
  from jdyn.data.image_files import DEPTH, RGB, read
  from jdyn.evaluators.overlay import gray

  return (
    read(files['rgb'], RGB) if 'rgb' in files else gray(read(files['depth'], DEPTH))
  )


def _about(
  run: 'TrainedRun', options: argparse.Namespace
) -> Callable[[_Seen], list[str]]:
  """What makes the caption of a scene."""
  from jdyn.evaluators.latency import device_name
  from jdyn.evaluators.run_files import RESULT, read_json

  costs, device = run.stage.costs, device_name()
  result = read_json(options.workdir / 'stages' / 'main' / RESULT)
  # A converted checkpoint was trained elsewhere, and has no best epoch.
  made_up = any(result['best_epoch']) and result['origin'] == 'synthetic stand-in'

  def caption(seen: _Seen) -> list[str]:
    macs = costs.paths[seen.path] if seen.path else costs.total
    chosen = f'{seen.path} of {len(costs.paths)} exits' if seen.path else 'whole model'
    batch = f' per image, {seen.size} at a time' if seen.size > 1 else ''
    return [
      f'{chosen}, {macs / 1e6:,.4g} M multiply-accumulates',
      f'{seen.ms:.3g} ms{batch} (measured after compilation) on {device}',
      *(['Trained on synthetic stand-in data: not to be trusted'] if made_up else []),
    ]

  return caption


if __name__ == '__main__':
  main(sys.argv[1:])
