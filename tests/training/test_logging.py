"""Metrics as lines: whole, in order, and the same bytes after a resume."""

import io
import json
import sys

import pytest

from jdyn.training.logging import MetricLog, Progress, read_lines, write_json


def _record(step, split='train'):
  return {
    'split': split,
    'step': step,
    'epoch': step / 3,
    'loss': [1 / (step + 1), 0.1],
    'batch_hash': f'{step:04x}',
  }


def _write(folder, steps, resume_step=0):
  log = MetricLog(folder, resume_step)
  for step in steps:
    log.write(_record(step))
  log.close()
  return (folder / 'metrics.jsonl').read_bytes()


@pytest.mark.parametrize('resume_step', [0, 1, 2, 4])
def test_a_resumed_log_has_the_same_bytes(tmp_path, resume_step):
  for name in ('once', 'twice'):
    (tmp_path / name).mkdir()
  want = _write(tmp_path / 'once', range(1, 6))
  _write(tmp_path / 'twice', range(1, 5))
  got = _write(tmp_path / 'twice', range(resume_step + 1, 6), resume_step)
  assert got == want
  lines = [json.loads(line) for line in want.splitlines()]
  assert lines == [_record(step) for step in range(1, 6)]


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
  _write(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-5])
  assert [line['step'] for line in read_lines(path)] == [1]
  _write(tmp_path, [2, 3], resume_step=1)
  assert [line['step'] for line in read_lines(path)] == [1, 2, 3]


def test_a_missing_log_has_no_lines(tmp_path):
  assert read_lines(tmp_path / 'metrics.jsonl') == []


def test_json_is_replaced_as_a_whole(tmp_path):
  path = tmp_path / 'result.json'
  write_json(path, {'b': 1, 'a': [2]})
  with pytest.raises(TypeError):
    write_json(path, {'b': object()})
  assert json.loads(path.read_text()) == {'b': 1, 'a': [2]}
  assert [p.name for p in tmp_path.iterdir()] == ['result.json']


@pytest.mark.parametrize(('live', 'lines'), [(False, 1), (True, 2)])
def test_progress_shows_throughput_and_the_time_left(monkeypatch, live, lines):
  now = [100.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  stream = io.StringIO()
  stream.isatty = lambda: live
  monkeypatch.setattr(sys, 'stderr', stream)
  progress = Progress('gate', total_steps=7300, first_step=100, batch=64)
  now[0] += 10
  progress.show(150, 'loss 1.0', epoch_done=False)
  progress.show(200, 'loss 0.5', epoch_done=True)
  progress.close()
  text = stream.getvalue()
  assert text.count('[gate]') == lines
  # 100 steps of 64 examples in ten seconds; 7100 steps are left.
  assert '[gate] loss 0.5  640 examples/s  11:50 left' in text
  assert ('\r' in text) == live
