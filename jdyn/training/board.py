"""Curves for TensorBoard, written as they come.

`tensorboardX.SummaryWriter` writes in a thread: where the disk is full, the thread
dies, and training waits for it for ever.
"""

import socket
import struct
import time
from pathlib import Path


class Board:
  """A file of TensorBoard's events."""

  def __init__(self, folder: Path, resume_step: int = 0):
    """Begins a file; what older ones say of the steps after `resume_step` is hidden."""
    from tensorboardX.proto import event_pb2  # Not needed for `--help`.

    self._event = event_pb2.Event
    folder.mkdir(parents=True, exist_ok=True)
    name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}'
    self._file = open(folder / name, 'ab', buffering=0)  # noqa: SIM115
    self._write(file_version='brain.Event:2')
    if resume_step:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(step=resume_step + 1, session_log=start)

  def scalar(self, name: str, value: float, step: int) -> None:
    """A point of the curve `name`."""
    from tensorboardX import summary

    self._write(step=step, summary=summary.scalar(name, value))

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _write(self, **fields) -> None:
    """Writes an event as a record: its length and its bytes, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    content = self._event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack('<Q', len(content))
    parts = [
      part
      for piece in (length, content)
      for part in (piece, struct.pack('<I', masked_crc32c(piece)))
    ]
    self._file.write(b''.join(parts))
