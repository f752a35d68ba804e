"""Several processes train as one, and one goes on where several were killed.

This is the short version of `python -m tests.faults hosts`.
"""

import random

import jax
import pytest

from jdyn.training.parallel import Parallel
from tests.faults import hosts, kills


def test_two_processes_are_killed_and_one_goes_on(tmp_path):
  runner, undisturbed = kills.undisturbed()
  seed = random.randrange(10**6)
  print(f'moments drawn with seed {seed}')
  chance = random.Random(seed)
  lines = chance.randrange(kills.count_lines(undisturbed) // 2)
  workdir = tmp_path / 'run'
  assert not hosts.kill_one(workdir, 2, lines, runner.cache, chance.randrange(2))
  hosts.finish(workdir, 1, runner.cache)
  found = hosts.distances(workdir, undisturbed)
  assert max(found.values()) < hosts.TOLERANCE, found


class _Remote:
  """Stands for a device of another process."""

  process_index, id = 1, 1


@pytest.mark.parametrize('how', ['jit', 'pmap'])
def test_several_processes_need_one_program(how):
  with pytest.raises(ValueError, match=f"parallel='{how}' works within one process"):
    Parallel(how, [*jax.devices()[:1], _Remote()])
