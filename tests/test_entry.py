"""The commands: what they say before they work, and what a run leaves."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.faults import kills, kills_config

COMMANDS = ('train', 'convert', 'sweep', 'evaluate', 'prepare', 'report')


def _python(*arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=kills.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )


@pytest.mark.parametrize('command', COMMANDS)
def test_help_is_quick(command):
  """It would not be if it imported JAX; the bound is for a busy machine."""
  done = _python('-X', 'importtime', '-m', f'jdyn.{command}', '--help')
  assert done.returncode == 0
  assert f'python -m jdyn.{command}' in done.stdout
  imported = {line.rsplit('|', 1)[-1].strip() for line in done.stderr.splitlines()}
  assert not imported & {'jax', 'flax', 'orbax', 'grain', 'sklearn', 'matplotlib'}
  assert len(imported) > 10


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.epoch=3'], 'Did you mean "epochs"'),
    (['--config.loss.budgte=1'], 'Did you mean "budget"'),
    (['--config.experts.both.optimizer.nmae=x'], 'Did you mean "name"'),
    (['batch_size=3'], "Unknown arguments ['batch_size=3']"),
  ],
)
def test_a_mistyped_key_fails_with_the_nearest(arguments, message):
  done = _python('-m', 'jdyn.train', '--config', kills.CONFIG, *arguments)
  assert done.returncode != 0
  assert message in done.stderr + done.stdout


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--config.gate.mode=hardd', "error: main: gate.mode='hardd'; expected one of"),
    ('--config.data.root=nowhere', "error: data.root='nowhere'"),
    ('--config.experts.both.holdout=1.5', 'error: both: holdout=1.5 must lie in'),
    ("--config.model.paths=('coarse',)", 'must name the experts'),
  ],
)
def test_what_the_user_can_mend_is_one_line(argument, message, tmp_path):
  options = ('--config', kills.CONFIG, '--workdir', str(tmp_path), argument)
  done = _python('-m', 'jdyn.train', *options)
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


def test_a_run_leaves_its_files():
  _, workdir = kills.undisturbed()
  config = json.loads((workdir / 'config.json').read_text())
  assert config['experts']['both']['epochs'] == config['epochs'] == kills_config.EPOCHS
  data = json.loads((workdir / 'data.json').read_text())
  assert data['origin'] == 'bundled'
  assert data['hashes']
  assert len(data['spec']['class_names']) == 10
  environment = json.loads((workdir / 'environment.json').read_text())
  assert environment['devices'] == ['cpu']
  report = (workdir / 'report.html').read_text()
  assert report.lower().startswith('<!doctype html>')

  steps_per_epoch = -(-data['sizes']['train'] // config['batch_size'])
  for stage in kills.STAGES:
    folder = workdir / 'stages' / stage
    names = {path.name for path in folder.iterdir()}
    assert names >= {'best', 'checkpoints', 'metrics.jsonl', 'result.json'}
    assert list((folder / 'tensorboard').glob('events.out.tfevents.*'))
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    valid = [line for line in lines if line['split'] == 'valid']
    assert [line['epoch'] for line in valid] == list(range(1, kills_config.EPOCHS + 1))
    assert lines[-1]['step'] == kills_config.EPOCHS * steps_per_epoch
    for line in lines:
      assert len(line['loss']) == 1
      assert line['split'] == 'valid' or line['batch_hash']
    result = json.loads((folder / 'result.json').read_text())
    for split, size in data['sizes'].items():
      if split != 'train':
        with np.load(folder / f'predictions_{split}.npz') as file:
          assert file['logits'].shape == (1, size, 10)
        assert result['splits'][split]['n'] == size
    assert result['origin'] == 'bundled'
    assert result['parameters'] > 0
  assert set(result['macs']['paths']) == {'coarse', 'both'}
  # Chance is a tenth: even two epochs learn something.
  assert result['splits']['test']['model']['accuracy'][0] > 0.5
