"""A run that is asked to end, or is killed, goes on bit by bit as if it were not.

This is the short version of `python -m tests.kill`.
"""

import random
import shutil
import signal

from tests import kill


def test_a_disturbed_run_ends_as_one_that_was_not(tmp_path):
  """One run in four processes: asked to end, killed, killed, and left alone."""
  runner, undisturbed = kill.undisturbed()
  seed = random.randrange(10**6)
  print(f'moments drawn with seed {seed}')
  chance = random.Random(seed)
  total = kill.count_lines(undisturbed)
  thirds = [range(1 + i * total // 3, (i + 1) * total // 3) for i in range(3)]
  workdir = tmp_path / 'disturbed'

  status, log = runner.disturb(workdir, chance.choice(thirds[0]), 0.0, signal.SIGTERM)
  assert status == 0, log
  assert 'Asked to end' in log
  assert 'Traceback' not in log
  for third in thirds[1:]:
    moment = chance.choice(third), chance.uniform(0, 0.1)
    status, log = runner.disturb(workdir, *moment, signal.SIGKILL)
    assert status == -signal.SIGKILL, log
  runner.finish(workdir)
  assert kill.differences(workdir, undisturbed) == []


def test_the_comparison_sees_a_single_number(tmp_path):
  _, undisturbed = kill.undisturbed()
  other = tmp_path / 'other'
  shutil.copytree(undisturbed, other)
  log = other / 'stages' / 'main' / 'metrics.jsonl'
  log.write_text(log.read_text().replace('"step": 9', '"step": 8', 1))
  assert kill.differences(other, undisturbed) == ['main/metrics.jsonl']
