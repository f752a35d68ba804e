"""What a disk says when it cannot be written to."""

import errno
import os
import re

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OTHERS = (errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO)


def reason(error: Exception) -> str:
  """Why nothing could be written, in a few words; empty if the disk is not the reason.

  Args:
    error: of Python, or of Orbax's storage, which has the system's number in its text.
  """
  number = error.errno if isinstance(error, OSError) else None
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    number = int(found[1])
  if number in _FULL:
    return f'the disk is full ({os.strerror(number)}); make space'
  return os.strerror(number) if number in _OTHERS else ''
