"""Builds datasets that nobody may pass on, from parts that everybody may fetch.

`python -m jdyn.prepare avmnist --mnist DIR --fsdd DIR --out DIR`
`python -m jdyn.prepare fastmri --volumes DIR --annotations knee.csv
  --files knee_file_list.csv --out DIR`
`python -m jdyn.prepare nyuv2 --mat nyu_depth_v2_labeled.mat --splits splits.mat
  --classes classMapping40.mat --out DIR`
`python -m jdyn.prepare sunrgbd --images SUNRGBD --toolbox SUNRGBDtoolbox --out DIR`
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and runs the sub-command; exits with 1 on bad input."""
  parser = argparse.ArgumentParser(prog='python -m jdyn.prepare', description=__doc__)
  commands = parser.add_subparsers(dest='dataset', required=True)
  _add_avmnist(commands)
  _add_fastmri(commands)
  _add_nyuv2(commands)
  _add_sunrgbd(commands)
  options = parser.parse_args(arguments)
  # Imports wait until here, so that --help is quick.
  from jdyn.data.dataset import DataError

  try:
    options.run(options)
  except (DataError, ValueError, OSError) as error:
    parser.exit(1, f'\nerror: {error}\n')


def _add_avmnist(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
    'avmnist',
    help='AV-MNIST from MNIST and the Free Spoken Digit Dataset',
    description='Pairs every MNIST digit, reduced by a PCA, with the spectrogram of a '
    'recording of the same digit. No test speaker is heard in training.',
  )
  add = parser.add_argument
  add('--mnist', type=Path, required=True, help='folder of the four idx files')
  add('--fsdd', type=Path, required=True, help='folder of {digit}_{speaker}_{no}.wav')
  add('--out', type=Path, required=True, help='folder to create')
  add(
    '--pca-components', type=int, default=4, help='components kept of 784 (%(default)s)'
  )
  add(
    '--pca-fit',
    choices=('train', 'separate'),
    default='train',
    help='fit the PCA on the training images, or on each part by itself (%(default)s)',
  )
  add(
    '--audio-split',
    choices=('speaker', 'index'),
    default='speaker',
    help='hold out speakers, or recordings 40 and up of everybody (%(default)s)',
  )
  add(
    '--test-speakers',
    default='george,lucas',
    help='comma-separated, for --audio-split speaker (%(default)s)',
  )
  add(
    '--noise-snr-db',
    type=float,
    help='add synthetic pink noise at this signal-to-noise ratio in decibel; the '
    'published set used recorded noise, ESC-50 (none)',
  )
  add('--seed', type=int, default=0, help='of pairing and noise (%(default)s)')
  add('--limit-train', type=int, help='use the first training images only (all)')
  add('--limit-test', type=int, help='use the first test images only (all)')
  parser.set_defaults(run=_avmnist)


def _avmnist(options: argparse.Namespace) -> None:
  from jdyn.data.prepare_avmnist import Recipe, prepare_avmnist
  from jdyn.training.logging import ProgressLine

  recipe = Recipe(
    pca_components=options.pca_components,
    pca_fit=options.pca_fit,
    audio_split=options.audio_split,
    test_speakers=tuple(name.strip() for name in options.test_speakers.split(',')),
    noise_snr_db=options.noise_snr_db,
    seed=options.seed,
    limit_train=options.limit_train,
    limit_test=options.limit_test,
  )
  start = time.monotonic()
  prepare_avmnist(options.mnist, options.fsdd, options.out, recipe, ProgressLine())
  _report(options.out, start)


def _add_fastmri(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
    'fastmri',
    help='slices of fastMRI knees, with the findings of fastMRI+',
    description='Cuts single-coil knee volumes into one file per slice and splits '
    'them 70/15/15 by volume.',
  )
  add = parser.add_argument
  add(
    '--volumes',
    type=Path,
    required=True,
    help='folder of singlecoil_train and singlecoil_val, or of their files',
  )
  add('--annotations', type=Path, required=True, help='knee.csv of fastMRI+')
  add('--files', type=Path, required=True, help='knee_file_list.csv of fastMRI+')
  add('--out', type=Path, required=True, help='folder to create')
  parser.set_defaults(run=_fastmri)


def _fastmri(options: argparse.Namespace) -> None:
  from jdyn.data.prepare_fastmri import prepare_fastmri
  from jdyn.training.logging import ProgressLine

  start = time.monotonic()
  counts = prepare_fastmri(
    options.volumes,
    options.annotations,
    options.files,
    options.out,
    progress=ProgressLine(),
  )
  _report(options.out, start)
  print(
    '{slices} slices of {volumes} volumes; left out: {absent} listed but absent, '
    '{wide} too wide, {unlisted} not listed'.format(**counts),
    file=sys.stderr,
  )


def _add_nyuv2(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
    'nyuv2',
    help='images of NYU Depth v2, with labels of 40 and 13 classes',
    description='Writes colour, depth and labels of every image of NYU Depth v2 as '
    'PNG, split 795 to 654 as published. The first file is on '
    'https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, the others in '
    'https://github.com/VainF/nyuv2-python-toolkit.',
  )
  add = parser.add_argument
  add('--mat', type=Path, required=True, help='nyu_depth_v2_labeled.mat, 2.8 GB')
  add('--splits', type=Path, required=True, help='splits.mat')
  add('--classes', type=Path, required=True, help='classMapping40.mat')
  add('--classes13', type=Path, help='class13Mapping.mat (its table is built in)')
  add('--out', type=Path, required=True, help='folder to create')
  parser.set_defaults(run=_nyuv2)


def _nyuv2(options: argparse.Namespace) -> None:
  from jdyn.data.prepare_nyuv2 import prepare_nyuv2
  from jdyn.training.logging import ProgressLine

  start = time.monotonic()
  counts = prepare_nyuv2(
    options.mat,
    options.splits,
    options.classes,
    options.out,
    classes13=options.classes13,
    progress=ProgressLine(),
  )
  _report(options.out, start)
  print('{train} training and {test} test images'.format(**counts), file=sys.stderr)


def _add_sunrgbd(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
    'sunrgbd',
    help='images and labels of SUN RGB-D, listed by split',
    description='Links, or copies where that is impossible, the images of SUN RGB-D, '
    'writes their labels beside them, and lists of both, split 5285 to 5050 as '
    'published.',
  )
  add = parser.add_argument
  add('--images', type=Path, required=True, help='folder SUNRGBD, unpacked')
  add('--toolbox', type=Path, required=True, help='folder SUNRGBDtoolbox, unpacked')
  add('--out', type=Path, required=True, help='folder to create')
  parser.set_defaults(run=_sunrgbd)


def _sunrgbd(options: argparse.Namespace) -> None:
  from jdyn.data.prepare_sunrgbd import prepare_sunrgbd
  from jdyn.training.logging import ProgressLine

  start = time.monotonic()
  counts = prepare_sunrgbd(
    options.images, options.toolbox, options.out, progress=ProgressLine()
  )
  _report(options.out, start)
  print(
    '{train} training and {test} test images; {linked} files linked, {copied} '
    'copied'.format(**counts),
    file=sys.stderr,
  )


def _report(out: Path, start: float) -> None:
  """Overwrites the line of progress with the size of what was built."""
  size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file())
  text = f'{out}: {size / 2**20:.0f} MiB in {time.monotonic() - start:.0f} s'
  print(f'\r{text:<60}', file=sys.stderr)


if __name__ == '__main__':
  main()
