"""A converted checkpoint leaves a folder like that of a trained run."""

import importlib
import json

import numpy as np
import pytest

import jdyn
from jdyn import build, evaluate, report
from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.load import load
from jdyn.data.sources import SOURCES
from jdyn.training.convert import convert
from jdyn.training.workdir import WorkdirError
from tests.interop import released_mm_dynamics, torch_files

pytestmark = pytest.mark.usefixtures('compile_fast')

HIDDEN = 6
VIEWS = ('mrna', 'methylation', 'mirna')  # The order of the files.


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """A file of the released format, and its tensors."""
  widths = dict.fromkeys(VIEWS, 200)
  tensors = released_mm_dynamics.state_dict(widths, HIDDEN, classes=2)
  path = tmp_path_factory.mktemp('checkpoint') / 'checkpoint.pt'
  return torch_files.save(path, tensors), tensors


def _config(name='rosmap_mmdynamics', **options):
  config = importlib.import_module(f'configs.{name}').get_config()
  if name == 'rosmap_mmdynamics':
    config.model.fusion.features = HIDDEN
  for key, value in options.items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  return config.lock()


@pytest.fixture(scope='module')
def run(checkpoint, tmp_path_factory, compile_fast):
  workdir = tmp_path_factory.mktemp('converted') / 'run'
  page = convert('mm_dynamics', checkpoint[0], _config(), workdir)
  assert page == workdir / 'report.html'
  return workdir


def test_predictions_are_those_of_the_checkpoint(run, checkpoint):
  source = SOURCES['rosmap'](scaling='train_file')  # As the released code scales.
  split = load(source, '', run / 'stand_in').splits['test']
  views = [split.inputs[view] for view in VIEWS]
  want = released_mm_dynamics.logits(checkpoint[1], views)
  got = jdyn.load(run).predict(split.inputs).logits
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  result = json.loads((run / 'stages' / 'main' / 'result.json').read_text())
  assert result['best_epoch'] == [0]
  scores = result['splits']['test']
  accuracy = np.mean(want.argmax(axis=1) == split.label)
  assert scores['model']['accuracy'] == pytest.approx([accuracy])
  assert {'f1', 'auc'} <= set(scores['model'])
  assert set(scores['paths']) == set(VIEWS)


def test_the_commands_take_it_for_a_run(run, checkpoint, capsys):
  evaluate.main(['--workdir', str(run), '--split', 'valid'])
  assert 'mirna' in capsys.readouterr().out
  (run / 'report.html').unlink()
  report.main(['--workdir', str(run)])
  page = (run / 'report.html').read_text()
  assert 'Converted from a checkpoint' in page
  assert sha256_file(checkpoint[0]) in page
  config = json.loads((run / 'config.json').read_text())
  assert config['data']['scaling'] == 'train_file'


def test_a_folder_with_a_run_is_left_alone(run, checkpoint):
  before = (run / 'config.json').read_bytes()
  with pytest.raises(WorkdirError, match='holds a run; give another'):
    convert('mm_dynamics', checkpoint[0], _config(seed=1), run)
  assert (run / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
  ('kind', 'config', 'error', 'message'),
  [
    ('mogonet', {}, build.ConfigError, r"Unknown kind .*'mogonet'; .*'mm_dynamics'"),
    ('mm_dynamics', {'num_seeds': 2}, build.ConfigError, 'set num_seeds=1'),
    ('mm_dynamics', {'name': 'rosmap_dyn'}, build.ConfigError, 'without experts'),
    ('mm_dynamics', {'name': 'digits_dyn'}, build.ConfigError, r"\['scaling'\], which"),
    ('mm_dynamics', {'name': 'rosmap_concat'}, DataError, 'only the converter has'),
    ('mm_dynamics', {'model__fusion__features': 7}, DataError, 'other widths'),
  ],
)
def test_what_cannot_be_converted_leaves_no_run(
  tmp_path, checkpoint, kind, config, error, message
):
  with pytest.raises(error, match=message):
    convert(kind, checkpoint[0], _config(**config), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()
