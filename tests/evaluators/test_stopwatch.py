"""A budget in milliseconds on machines that are not what was measured."""

import numpy as np
import pytest

from jdyn.evaluators.stopwatch import Stopwatch

MACS = np.array([1.0, 2.0, 4.0]) * 1e6
SECONDS = np.array([1.0, 1.5, 4.0]) * 1e-4
SIZE, BATCHES = 32, 24

MACHINES = {
  'as measured': lambda batch: 1.0,
  'slower': lambda batch: 1.3,
  'faster': lambda batch: 0.75,
  'slower and slower': lambda batch: 0.9 + 0.4 * batch / BATCHES,
  'suddenly slower': lambda batch: 1.0 if batch < 12 else 1.25,
}


def _run(watch, machine, noise=0.0, batches=BATCHES):
  """Seconds per example of a stream on a machine, and the MACs of every batch."""
  rng = np.random.default_rng(0)
  total, macs = 0.0, []
  for batch in range(batches):
    macs.append(watch.macs)
    ideal = SIZE * np.interp(watch.macs, MACS, SECONDS)
    seconds = ideal * machine(batch) * np.exp(noise * rng.standard_normal())
    watch.book(seconds, SIZE)
    total += seconds
  return total / (batches * SIZE), np.array(macs)


@pytest.mark.parametrize('noise', [0.0, 0.1])
@pytest.mark.parametrize('asked', [1.6e-4, 2e-4, 2.6e-4])
@pytest.mark.parametrize('machine', MACHINES)
def test_what_is_delivered_is_what_was_asked(machine, asked, noise):
  delivered, _ = _run(Stopwatch(asked, MACS, SECONDS), MACHINES[machine], noise)
  assert delivered == pytest.approx(asked, rel=0.05)


def test_the_first_batch_is_as_the_table_says_and_a_true_table_stays():
  _, macs = _run(Stopwatch(2.75e-4, MACS, SECONDS), MACHINES['as measured'])
  np.testing.assert_allclose(macs, 3e6)


@pytest.mark.parametrize(('slowness', 'end'), [(10.0, 1e6), (0.1, 4e6)])
def test_out_of_reach_it_takes_the_nearest_end(slowness, end):
  _, macs = _run(Stopwatch(2e-4, MACS, SECONDS), lambda batch: slowness)
  assert macs[1:].tolist() == [end] * (BATCHES - 1)
