"""TensorBoard's files, read by its own reader of records."""

import struct

import pytest

from jdyn.training.board import Board


def _events(path):
  """The events of a file, by the format that TensorFlow documents for records."""
  from tensorboardX.crc32c import _crc32c
  from tensorboardX.proto.event_pb2 import Event

  content = path.read_bytes()
  while content:
    (length,) = struct.unpack('<Q', content[:8])
    data = content[12 : 12 + length]
    for piece, at in ((content[:8], 8), (data, 12 + length)):
      crc = _crc32c(piece)
      masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
      assert struct.unpack('<I', content[at : at + 4]) == (masked,)
    yield Event.FromString(data)
    content = content[16 + length :]


@pytest.mark.parametrize('resume_step', [0, 5])
def test_every_point_is_on_disk_at_once(tmp_path, resume_step):
  board = Board(tmp_path, resume_step)
  board.scalar('train/loss', 0.25, 6)
  (path,) = tmp_path.glob('events.out.tfevents.*')
  version, *purge, point = _events(path)
  assert version.file_version == 'brain.Event:2'
  assert [(event.step, event.session_log.status) for event in purge] == (
    [(6, 1)] if resume_step else []
  )
  (value,) = point.summary.value
  assert (point.step, value.tag, value.simple_value) == (6, 'train/loss', 0.25)
  board.close()
