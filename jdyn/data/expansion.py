"""How large the contents of a file may be once they are unpacked.

A file of a kilobyte can claim, or unpack to, any number of gigabytes. So the readers
of compressed files, and of those that may leave out what is empty, ask here before
they allocate anything.
"""

MAX_RATIO = 100
"""Bytes of contents for a byte of the file; MNIST, mostly background, has five."""

FREE_BYTES = 2**26
"""That contents may have in any case: small files of zeros pack much better."""


DEFLATE_RATIO = 1032
"""That zip and gzip reach at most: what may be expected of files of our own."""


def largest(size: int, ratio: int = MAX_RATIO) -> int:
  """The bytes that the contents of a file of `size` bytes may have."""
  return max(FREE_BYTES, ratio * size)


def check(contents: int, size: int, ratio: int = MAX_RATIO) -> None:
  """Raises ValueError if a file of `size` bytes has more contents than it may."""
  if contents > largest(size, ratio):
    raise ValueError(
      f'{contents} bytes of contents in a file of {size}, more than {ratio} times as '
      'many; if you trust it, write it without compression'
    )
