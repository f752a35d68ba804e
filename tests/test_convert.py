"""A converted checkpoint leaves a folder like that of a trained run."""

import importlib
import json
import logging

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import jdyn
from configs import base
from jdyn import build, evaluate, report
from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.load import load
from jdyn.data.sealed import read_sealed
from jdyn.data.sources import SOURCES
from jdyn.training import result, variables
from jdyn.training.checkpoint import CheckpointError
from jdyn.training.convert import convert, convert_encoder
from jdyn.training.workdir import WorkdirError
from tests import toys
from tests.interop import released_mm_dynamics, small_esanet, torch_files
from tests.interop.released_esanet import Released

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


def test_a_gated_network_needs_no_warm_up(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(result, 'predictor', small_esanet.scored_at_random)
  config = small_esanet.config('nyuv2_tiny_dyn')
  assert list(config.warm_up) == ['random_exits']
  config.pretrained.depth = 'weights/depth'
  drawn = small_esanet.checkpoint(tmp_path / 'model.pth', config)
  with caplog.at_level(logging.INFO):
    page = convert('esanet', tmp_path / 'model.pth', config, tmp_path / 'run')
  assert "starts with ['random_exits', 'weights/depth']" in caplog.text
  assert 'Gate usage by class' in page.read_text()
  found = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert (found['warm_up'], found['pretrained']['depth']) == ({}, '')
  assert [path.name for path in (tmp_path / 'run' / 'stages').iterdir()] == ['main']
  run = jdyn.load(tmp_path / 'run')
  got = variables.load_best(
    tmp_path / 'run/stages/main', run.stage, small_esanet.SPEC, 1
  )
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y), got, drawn)


@pytest.fixture
def classifier(tmp_path):
  """A file as torchvision's, and its tensors, for `toys.esanet()`'s encoders."""
  rng, released = np.random.default_rng(0), Released('basic', (1, 1), (4, 5))
  shapes = {**dict(released.encoder('', 3)), 'fc.weight': (7, 5), 'fc.bias': (7,)}
  tensors = {name: rng.standard_normal(s, np.float32) for name, s in shapes.items()}
  return torch_files.save(tmp_path / 'resnet.pth', tensors), tensors


@pytest.mark.parametrize('model', ['esanet', 'gated_stages'])
@pytest.mark.parametrize('modality', ['rgb', 'depth'])
def test_a_run_starts_with_a_converted_encoder(tmp_path, classifier, modality, model):
  path, tensors = classifier
  config = toys.config(toys.MODELS[model], **{f'pretrained__{modality}': 'weights'})
  folder = tmp_path / 'weights'
  key = convert_encoder('imagenet_resnet', path, config, modality, folder)
  assert key == f'config.pretrained.{modality}'
  stage = build.stage(config, toys.SCENES)
  ((place, where),) = stage.pretrained.items()
  assert where == 'weights'
  got = variables.load_pretrained(folder, place, stage, toys.SCENES, seeds=(3, 4))
  for seed in range(2):
    kernel = tensors['conv1.weight'].transpose(2, 3, 1, 0)
    if modality == 'depth':
      kernel = kernel.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(
      got['params']['first']['conv']['kernel'][seed], kernel, rtol=1e-6
    )
    np.testing.assert_array_equal(
      got['batch_stats']['stages_1']['block_0']['layer_0']['norm']['var'][seed],
      tensors['layer2.0.bn1.running_var'],
    )
  used = [name for name, x in tensors.items() if name[:3] != 'fc.' and x.shape]
  assert len(flatten_dict(got)) == len(used)
  assert read_sealed(folder / 'weights.json') == {
    'kind': 'imagenet_resnet',
    'modality': modality,
    'source': 'resnet.pth',
    'source_sha256': sha256_file(path),
  }


def test_the_first_of_several_stages_starts_with_an_encoder(tmp_path, classifier):
  config = toys.config(toys.MODELS['gated_stages'])
  config.warm_up.hard = base.stage(toys.MODELS['gated_stages'])
  config.warm_up.hard.warm_up.random = base.stage(toys.MODELS['gated_stages'])
  key = convert_encoder('imagenet_resnet', classifier[0], config, 'rgb', tmp_path / 'w')
  assert key == 'config.warm_up.hard.warm_up.random.pretrained.rgb'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(blocks=(2, 1)), "weights holds other layers than 'encoders_rgb' here has"),
    (dict(widths=(4, 6)), r'weights: .*float32\[1, 5\] in the checkpoint'),
  ],
)
def test_an_encoder_of_another_size_is_refused(tmp_path, classifier, change, message):
  model = toys.esanet()
  convert_encoder(
    'imagenet_resnet', classifier[0], toys.config(model), 'rgb', tmp_path / 'weights'
  )
  model['encoders'] = {
    name: {**encoder, **change} for name, encoder in model['encoders'].items()
  }
  stage = build.stage(toys.config(model), toys.SCENES)
  with pytest.raises(CheckpointError, match=message):
    variables.load_pretrained(
      tmp_path / 'weights', 'encoders_rgb', stage, toys.SCENES, seeds=(0,)
    )


def _only_depth():
  model = toys.esanet()
  return {**model, 'encoders': {'depth': model['encoders']['depth']}}


@pytest.mark.parametrize(
  ('model', 'folder', 'error', 'message'),
  [
    (_only_depth(), 'new', build.ConfigError, r"'rgb'; expected one of \['depth'\]"),
    (toys.unimodal('text'), 'new', build.ConfigError, r"'rgb'; expected one of \[\]"),
    (
      {**toys.esanet(), 'encoders': {'rgb': toys.mlp(3)}},
      'new',
      build.ConfigError,
      r"model\.encoders\.rgb is no 'resnet'",
    ),
    (toys.esanet(), '.', WorkdirError, 'is there and not empty; give another --out'),
    (toys.esanet(), 'resnet.pth', WorkdirError, 'is there and not empty'),
    (toys.MODELS['mmtm'], 'new', DataError, 'only the file has layer2'),
  ],
)
def test_no_encoder_is_written_in_vain(
  tmp_path, classifier, model, folder, error, message
):
  with pytest.raises(error, match=message):
    convert_encoder(
      'imagenet_resnet', classifier[0], toys.config(model), 'rgb', tmp_path / folder
    )
  assert not (tmp_path / 'new').exists()
