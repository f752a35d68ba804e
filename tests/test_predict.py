"""The command that shows what a run sees in images that are in no dataset."""

import csv

import cv2
import numpy as np
import pytest

from jdyn import inference, predict
from jdyn.data.rgbd import class_colors
from jdyn.data.sources.nyuv2 import CLASSES
from jdyn.inference import TrainedRun
from jdyn.interop.converter import Converter
from jdyn.training import convert, result
from tests import toys
from tests.interop import small_esanet
from tests.sealing import rewrite

pytestmark = pytest.mark.usefixtures('compile_fast')

NAMES = CLASSES[small_esanet.CLASSES]
SIZES = {'kitchen': (24, 40), 'office': (30, 20), 'stairs': (24, 40)}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RGB, DEPTH = 'rgb/office.png', 'depth/office.png'
DEPTH_MEAN, DEPTH_STD = 2841.94941272766, 1417.2594281672277


@pytest.fixture(scope='module')
def runs(tmp_path_factory, compile_fast):
  """Runs of random variables, which take no training: gated, and of depth."""
  folder = tmp_path_factory.mktemp('runs')
  configs = {
    'gated': small_esanet.config('nyuv2_tiny_dyn'),
    'depth': small_esanet.config('nyuv2_depth', ('depth',)),
  }
  with pytest.MonkeyPatch.context() as patch:
    # Scores are not looked at here, and compiling what finds them takes long.
    patch.setattr(result, 'predictor', small_esanet.scored_at_random)
    patch.setattr(convert, 'write_report', lambda workdir: workdir)
    read = Converter(lambda path, template: small_esanet.draw(template))
    patch.setitem(convert.CONVERTERS, 'random', read)
    (folder / 'nothing').touch()
    for name, config in configs.items():
      convert.convert('random', folder / 'nothing', config, folder / name)
  return {name: TrainedRun(folder / name) for name in configs}


@pytest.fixture
def call(runs, monkeypatch):
  """Calls the command with a run, whose programs are compiled once for all tests."""
  monkeypatch.setattr(inference, 'TrainedRun', lambda workdir: runs[workdir.name])

  def call(name, **options):
    pairs = [f'--{key.replace("_", "-")}={value}' for key, value in options.items()]
    predict.main(['--workdir', str(runs[name].workdir), *pairs])

  return call


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Folders `rgb` and `depth` of scenes."""
  folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for part in ('rgb', 'depth'):
    (folder / part).mkdir()
  for name, size in SIZES.items():
    rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    depth = rng.integers(0, 6000, size, dtype=np.uint16)
    cv2.imwrite(str(folder / 'rgb' / f'{name}.png'), rgb[..., ::-1])
    cv2.imwrite(str(folder / 'depth' / f'{name}.png'), depth)
  (folder / 'rgb' / 'notes.txt').write_text('of no interest')
  return folder


def _read(path):
  image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
  return image[..., ::-1] if image.ndim == 3 else image


def _wanted(trained, images, name, modalities=('rgb', 'depth')):
  """Classes of a scene and the chosen exit, by OpenCV and the whole model."""
  size = (small_esanet.SIZE, small_esanet.SIZE)
  rgb, depth = (_read(images / part / f'{name}.png') for part in ('rgb', 'depth'))
  small = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
  far = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
  inputs = {
    'rgb': (small / 255 - MEAN) / STD,
    'depth': (far[..., None] - DEPTH_MEAN) / DEPTH_STD,
  }
  outputs = trained.predict(
    {name: inputs[name][None].astype(np.float32) for name in modalities}, 'dense'
  )
  whole = cv2.resize(outputs.logits[0], rgb.shape[1::-1])
  paths = [path for path, weight in outputs.weights.items() if weight[0] == 1]
  return whole.argmax(-1) + 1, ''.join(paths)


def test_an_image_under_the_colours_of_its_classes(
  runs, call, images, tmp_path, capsys
):
  files = {part: images / part / 'kitchen.png' for part in ('rgb', 'depth')}
  out, labels = tmp_path / 'new' / 'overlay.png', tmp_path / 'labels.png'
  call('gated', **files, out=out, labels=labels, policy='switch')
  classes, path = _wanted(runs['gated'], images, 'kitchen')
  assert path
  assert len(np.unique(classes)) > 2
  got = _read(labels)
  assert got.dtype == np.uint8
  assert (got == classes).mean() > 0.998  # Sums are rounded otherwise.
  colors = class_colors(len(NAMES)).astype(float)[got]
  wanted = (_read(files['rgb']) + colors) / 2
  corner = _read(out)[: 16 * 24, : 16 * 40]
  np.testing.assert_allclose(corner[8::16, 8::16], wanted, atol=1)
  lines = capsys.readouterr().out.splitlines()
  macs = runs['gated'].stage.costs.paths[path] / 1e6
  assert lines[0] == f'{path} of 3 exits, {macs:.4g} M multiply-accumulates'
  assert ' ms (measured after compilation) on ' in lines[1]
  assert lines[2:] == [f'Written: {out}, {labels}']


def test_folders_are_paired_by_name_and_every_size_is_compiled_first(
  runs, call, images, tmp_path, monkeypatch, capsys
):
  trained, first = runs['gated'], []
  predict_ = trained.predict
  monkeypatch.setattr(
    trained,
    'predict',
    lambda inputs, *how: (
      first.append((len(inputs['rgb']), how)) or predict_(inputs, *how)
    ),
  )
  out = tmp_path / 'out'
  folders = {part: images / part for part in ('rgb', 'depth')}
  call('gated', **folders, out=out, labels=out / 'labels', batch_size=2, policy='dense')
  monkeypatch.undo()
  assert first == [(2, ('dense', None, None)), (1, ('dense', None, None))]
  with open(out / 'predictions.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert [row['file'] for row in rows] == sorted(SIZES)
  assert list(rows[0])[:4] == ['file', 'exit', 'ms', f'share/{NAMES[0]}']
  for row in rows:
    classes, path = _wanted(trained, images, row['file'])
    assert row['exit'] == path
    assert float(row['ms']) > 0
    got = _read(out / 'labels' / f'{row["file"]}.png')
    assert (got == classes).mean() > 0.998
    share = [float(row[f'share/{name}']) for name in NAMES]
    counts = np.bincount(got.ravel(), minlength=len(NAMES) + 1)[1:]
    np.testing.assert_allclose(share, counts / got.size, atol=1e-4)
    assert (out / f'{row["file"]}.png').is_file()
  captured = capsys.readouterr()
  assert 'images 3/3' in captured.err
  assert captured.out == f'\nWritten: 3 overlays and predictions.csv in {out}\n'


def test_a_budget_moves_the_exits(runs, call, images, tmp_path):
  costs = runs['gated'].stage.costs.paths
  folders = {part: images / part for part in ('rgb', 'depth')}
  for path in ('exit_0', 'exit_2'):
    out = tmp_path / path
    call('gated', **folders, out=out, budget=costs[path], policy='switch')
    with open(out / 'predictions.csv', newline='') as file:
      assert {row['exit'] for row in csv.DictReader(file)} == {path}


def test_a_run_of_depth_draws_on_depth(runs, call, images, tmp_path, capsys):
  out, depth = tmp_path / 'overlay.jpg', images / 'depth' / 'office.png'
  labels = tmp_path / 'labels.png'
  call('depth', depth=depth, out=out, labels=labels)
  classes, _ = _wanted(runs['depth'], images, 'office', ('depth',))
  assert (_read(labels) == classes).mean() > 0.998
  assert out.read_bytes()[:2] == b'\xff\xd8'
  assert capsys.readouterr().out.startswith('whole model, ')


def test_a_model_that_was_trained_on_the_stand_in_says_so(
  runs, call, images, tmp_path, capsys
):
  file = runs['depth'].workdir / 'stages/main/result.json'
  before = file.read_text()
  rewrite(file, lambda result: result.update(best_epoch=[3]))
  call('depth', depth=images / DEPTH, out=tmp_path / 'overlay.png')
  file.write_text(before)
  lines = capsys.readouterr().out.splitlines()
  assert lines[2] == 'Trained on synthetic stand-in data: not to be trusted'


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('gated', {'rgb': RGB}, 'reads depth and rgb; give --depth'),
    ('depth', {'rgb': RGB, 'depth': DEPTH}, 'reads depth; leave out --rgb'),
    ('gated', {'rgb': 'no.png', 'depth': DEPTH}, 'no.png: no such file or folder'),
    ('gated', {'rgb': RGB, 'depth': 'depth'}, 'two files or two folders'),
    ('gated', {'rgb': RGB, 'depth': 'depth/stairs.png'}, 'stairs.png: 24 by 40 pixels'),
    ('gated', {'rgb': DEPTH, 'depth': DEPTH}, 'uint16 with 1 channels'),
    ('depth', {'depth': 'rgb/notes.txt'}, 'notes.txt: '),
    ('depth', {'depth': DEPTH, 'out': 'overlay.gif'}, 'ends in .png or .jpg'),
    ('depth', {'depth': DEPTH, 'labels': 'a.jpg'}, 'ends in .png'),
    ('depth', {'depth': DEPTH, 'out': DEPTH}, 'office.png would be overwritten'),
    ('depth', {'depth': 'depth', 'out': 'depth'}, 'kitchen.png would be overwritten'),
    ('depth', {'depth': DEPTH, 'labels': 'o.png'}, '--out and --labels must differ'),
    ('depth', {'depth': 'empty'}, 'no images'),
    ('gated', {'rgb': 'rgb', 'depth': 'fewer'}, 'has no image kitchen, stairs, but'),
    ('depth', {'depth': 'twice'}, 'office.png: two images of one name'),
    ('depth', {'depth': DEPTH, 'batch_size': 0}, '--batch-size=0'),
    ('depth', {'depth': DEPTH, 'budget': '5M'}, 'It takes no budget'),
    ('depth', {'depth': DEPTH, 'seed': 3}, 'seed=3 is none'),
  ],
)
def test_what_cannot_be_done_is_one_line(
  runs, call, images, tmp_path, capsys, name, options, message
):
  for folder, names in (
    ('empty', ()),
    ('fewer', ('office.png',)),
    ('twice', ('office.png', 'office.JPG')),
  ):
    (tmp_path / folder).mkdir()
    for each in names:
      (tmp_path / folder / each).write_bytes((images / DEPTH).read_bytes())
  for folder in ('rgb', 'depth'):
    (tmp_path / folder).symlink_to(images / folder)
  options = {'out': 'o.png'} | options
  paths = {
    key: tmp_path / value if key in ('rgb', 'depth', 'out', 'labels') else value
    for key, value in options.items()
  }
  with pytest.raises(SystemExit) as stop:
    call(name, **paths)
  assert stop.value.code == 1
  error = capsys.readouterr().err
  assert error.startswith('error: ')
  assert error.count('\n') == 1
  assert message in error


def test_only_segmentation_is_drawn(train, tmp_path, capsys):
  workdir = train(toys.config(toys.unimodal('text'), epochs=1))
  for folder, message in (
    (workdir, 'is no run of segmentation'),
    (tmp_path / 'nothing', 'holds no run'),
  ):
    with pytest.raises(SystemExit) as stop:
      predict.main(['--workdir', str(folder), '--rgb=a.png', '--out=b.png'])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
