"""Metrics as lines: whole, in order, and the same bytes after a resume."""

import io
import sys

import pytest

from jdyn.data.dataset import DataError
from jdyn.training.logging import LogMark, MetricLog, Progress
from tests import toys

START = LogMark()


def _record(step, split='train'):
  return {
    'split': split,
    'step': step,
    'epoch': step / 3,
    'loss': [1 / (step + 1), 0.1],
    'batch_hash': f'{step:04x}',
  }


def _write(folder, steps, resume_step=0, mark=START):
  """The marks before each step and after the last, by the step that comes next."""
  log = MetricLog(folder, resume_step, mark)
  marks = {resume_step: log.mark()}
  for step in steps:
    log.write(_record(step))
    marks[step] = log.mark()
  log.close()
  return marks


@pytest.mark.parametrize('resume_step', [0, 1, 2, 4])
def test_a_resumed_log_has_the_same_bytes(tmp_path, resume_step):
  for name in ('once', 'twice'):
    (tmp_path / name).mkdir()
  want = _write(tmp_path / 'once', range(1, 6))
  mark = _write(tmp_path / 'twice', range(1, 5))[resume_step]
  got = _write(tmp_path / 'twice', range(resume_step + 1, 6), resume_step, mark)
  assert got[5] == want[5]
  logs = [tmp_path / name / 'metrics.jsonl' for name in ('once', 'twice')]
  assert logs[0].read_bytes() == logs[1].read_bytes()
  assert toys.read_lines(logs[0]) == [_record(step) for step in range(1, 6)]


def test_what_comes_after_the_checkpoint_does_not_matter(tmp_path):
  """A line that a kill cut off, and one that was damaged."""
  path = tmp_path / 'metrics.jsonl'
  mark = _write(tmp_path, [1, 2, 3])[1]
  damaged = bytearray(path.read_bytes()[:-5])
  damaged[mark.size + 3] ^= 1
  path.write_bytes(damaged)
  _write(tmp_path, [2, 3], resume_step=1, mark=mark)
  assert [line['step'] for line in toys.read_lines(path)] == [1, 2, 3]


def test_every_bit_before_the_checkpoint_counts(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  mark = _write(tmp_path, [1, 2])[1]
  whole = path.read_bytes()
  for place in range(8 * mark.size):
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r'metrics\.jsonl: damaged'):
      MetricLog(tmp_path, 1, mark)
  for content in (whole[: mark.size - 1], b''):
    path.write_bytes(content)
    with pytest.raises(DataError, match=r'metrics\.jsonl: damaged'):
      MetricLog(tmp_path, 1, mark)


def test_a_log_without_a_checkpoint_begins_anew(tmp_path):
  _write(tmp_path, [1, 2])
  _write(tmp_path, [1])
  lines = toys.read_lines(tmp_path / 'metrics.jsonl')
  assert [line['step'] for line in lines] == [1]


@pytest.mark.parametrize(('live', 'lines'), [(False, 2), (True, 3)])
def test_progress_shows_throughput_and_the_time_left(monkeypatch, live, lines):
  now = [100.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  stream = io.StringIO()
  stream.isatty = lambda: live
  monkeypatch.setattr(sys, 'stderr', stream)
  progress = Progress('gate', total_steps=7300, batch=64)
  now[0] += 30  # Compiles.
  progress.show(99, 'loss 1.1', epoch_done=False)
  progress.show(100, 'loss 1.0', epoch_done=True)
  now[0] += 10
  progress.show(200, 'loss 0.5', epoch_done=True)
  progress.close()
  text = stream.getvalue()
  assert text.count('[gate]') == lines
  # 100 steps of 64 examples in ten seconds; 7100 steps are left.
  assert '[gate] loss 0.5  640 examples/s  11:50 left' in text
  assert ('\r' in text) == live
