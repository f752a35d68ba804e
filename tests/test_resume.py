"""A run that is asked to end, is killed, or has no space left goes on bit by bit.

This is the short version of `python -m tests.faults kills`.
"""

import dataclasses
import random
import shutil

import pytest

from tests.faults import kills

ONE, FOUR = kills.SETTINGS[0], kills.SETTINGS[2]


@pytest.fixture
def chance():
  """Draws the moments."""
  seed = random.randrange(10**6)
  print(f'moments drawn with seed {seed}')
  return random.Random(seed)


def test_a_disturbed_run_ends_as_one_that_was_not(tmp_path, chance):
  """One run in five processes; each reads with another number of threads."""
  runner, whole = kills.undisturbed()
  faults = (
    kills.ask,
    kills.kill_in_a_save,
    kills.no_space_at_a_write,
    kills.kill_at_a_write,
  )
  found = kills.disturb(runner, tmp_path / 'run', ONE, whole, chance, None, faults)
  assert [wrong for _, wrong in found if wrong] == []
  assert found  # Chance may let it come to its end before the others.


def test_so_does_one_on_four_devices_that_waits_for_its_checkpoints(tmp_path, chance):
  runner, _ = kills.undisturbed()
  whole, waits = tmp_path / 'whole', dataclasses.replace(FOUR, background=False)
  runner.finish(whole, FOUR)
  # The first is within the first half; behind the second's moment may be no save.
  faults = (kills.kill_in_a_save,) * 2
  found = kills.disturb(runner, tmp_path / 'run', waits, whole, chance, None, faults)
  assert found
  assert [wrong for _, wrong in found if wrong] == []


def test_the_comparison_sees_a_single_number(tmp_path):
  _, whole = kills.undisturbed()
  other = tmp_path / 'other'
  shutil.copytree(whole, other)
  log = other / 'stages' / 'main' / 'metrics.jsonl'
  log.write_text(log.read_text().replace('"step": 8', '"step": 9', 1))
  assert kills.differences(other, whole) == ['main/metrics.jsonl']


@pytest.mark.parametrize(
  ('log', 'what'),
  [
    ('Stage both goes on from step 8.', ''),
    ('', ''),  # It ended before it came so far.
    ('First training step 3 s after start', 'both was saved at step 8'),
    ('Stage both goes on from step 4.', 'both was saved at step 8'),
    ('Checkpoint 8 is damaged and not used', 'a checkpoint is damaged'),
  ],
)
def test_what_was_saved_and_is_not_gone_on_with_is_lost(log, what):
  assert kills.forgotten({'both': 8}, log).startswith(what)
  assert bool(kills.forgotten({'both': 8}, log)) == bool(what)
