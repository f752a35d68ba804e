"""The launch scripts: clean shell, flags that exist, and a new start after a kill."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), *ROOT.glob('launch/*.sbatch')])
JOBSET = ROOT / 'launch' / 'kubernetes' / 'jobset.yaml'
SOURCE = (ROOT / 'jdyn' / 'train.py').read_text()
FLAGS = set(re.findall(r"DEFINE_\w+\(\s*'(\w+)'", SOURCE))
OF_GCLOUD = {'command', 'format', 'quiet', 'worker', 'zone'}
RUN = ('--config', 'configs/digits_dyn.py', '--workdir', 'runs/with space')

# Stands for Python: notes its arguments, and then does as the test says.
FAKE = """#!/bin/bash
if [[ $1 == -c ]]; then echo 12345; exit; fi
echo "$(printf '%q ' "$@")" >> "$NOTES"
"""


def test_all_scripts_are_here():
  assert [path.name for path in SCRIPTS] == ['local.sh', 'slurm.sbatch', 'tpu_pod.sh']


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
  shellcheck = Path(sys.executable).with_name('shellcheck')
  done = subprocess.run([shellcheck, path], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('path', [*SCRIPTS, JOBSET], ids=lambda path: path.name)
def test_flags_exist(path):
  text = path.read_text()
  commands = text[text.index('set -uo') :] if path in SCRIPTS else text
  # Behind the name of the program, that is; not those of `srun` before it.
  after = commands.partition('jdyn.train')[2]
  used = set(re.findall(r'--([a-z_]+)\b(?![-a-z])', after))
  assert {'config', 'workdir'} <= FLAGS
  assert used
  assert used - OF_GCLOUD <= FLAGS


def test_usage_is_shown():
  for path in SCRIPTS:
    done = subprocess.run(['bash', path], capture_output=True, text=True)
    assert done.returncode == 2, path
    assert 'usage' in done.stderr


def test_the_jobset_is_consistent():
  (document,) = yaml.safe_load_all(JOBSET.read_text())
  (job,) = document['spec']['replicatedJobs']
  spec = job['template']['spec']
  (container,) = spec['template']['spec']['containers']
  given = dict(re.findall(r'--(\w+)=(\S+)', ' '.join(container['args'])))
  count = int(given['num_processes'])
  assert (spec['completions'], spec['parallelism']) == (count, count)
  name, port = given['coordinator'].split(':')
  jobset = document['metadata']['name']
  assert name == f'{jobset}-{job["name"]}-0-0.{jobset}'
  assert int(port) == container['ports'][0]['containerPort']
  assert spec['completionMode'] == 'Indexed'  # It gives process_id.
  assert (ROOT / given['config']).is_file()
  # The status that says "saved" may not be one that ends the whole set.
  (rule,) = spec['podFailurePolicy']['rules']
  assert int(given['stopped_status']) not in rule['onExitCodes']['values']


@pytest.fixture
def local(tmp_path):
  """Starts `local.sh` with two processes whose Python is a fake."""

  def start(behaviour, **more):
    fake = tmp_path / 'python'
    fake.write_text(FAKE + behaviour)
    fake.chmod(0o755)
    notes = tmp_path / 'notes'
    environment = {**os.environ, 'PYTHON': str(fake), 'NOTES': str(notes), **more}
    process = subprocess.Popen(
      ['bash', ROOT / 'launch' / 'local.sh', '2', *RUN],
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    return process, notes

  return start


def _lines(notes: Path) -> list[list[str]]:
  return [shlex.split(line) for line in notes.read_text().splitlines()]


def test_local_starts_all_processes(local):
  process, notes = local('exit 0')
  assert process.wait(20) == 0
  lines = sorted(_lines(notes))
  assert [line[-1] for line in lines] == ['0', '1']
  for line in lines:
    assert tuple(line[2:6]) == RUN
    assert line[6:10] == ['--coordinator', '127.0.0.1:12345', '--num_processes', '2']


def test_local_starts_all_again_after_a_kill(local):
  process, notes = local(
    'if [[ -e $NOTES.killed ]]; then exit 0; fi\n'
    'if [[ "$*" == *"_id 0"* ]]; then exec sleep 60; fi\n'
    'touch "$NOTES.killed"; kill -9 $$'
  )
  assert process.wait(20) == 0
  assert 'status 137' in process.stderr.read()
  assert [line[-1] for line in _lines(notes)].count('1') == 2


@pytest.mark.parametrize(
  ('behaviour', 'status', 'starts'), [('exit 1', 1, 1), ('kill -9 $$', 137, 3)]
)
def test_local_gives_up(local, behaviour, status, starts):
  """At once on what would only happen again, and after so many restarts."""
  process, _ = local(behaviour, RESTARTS='2')
  assert process.wait(20) == status
  assert process.stderr.read().count('all start again') == starts - 1


def test_local_passes_sigterm_on(local):
  wait = 'trap "echo saved >> $NOTES; exit 75" TERM; while true; do sleep 0.05; done'
  process, notes = local(wait)
  deadline = time.monotonic() + 20
  while not notes.exists() or len(_lines(notes)) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.02)
  time.sleep(0.2)  # Until the traps are set.
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == 75
  assert notes.read_text().count('saved') == 2
