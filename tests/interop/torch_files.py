"""Files of `torch.save`, written by hand."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

TENSOR = b'ctorch._utils\n_rebuild_tensor_v2\n'
ORDERED_DICT = b'ccollections\nOrderedDict\n)R'
KINDS = {
  'b1': 'Bool',
  'u1': 'Byte',
  'i1': 'Char',
  'i2': 'Short',
  'i4': 'Int',
  'i8': 'Long',
  'f2': 'Half',
  'f4': 'Float',
  'f8': 'Double',
}


def text(value: str) -> bytes:
  """The op codes that push a string."""
  data = value.encode()
  return b'X' + len(data).to_bytes(4, 'little') + data


def numbers(values: Sequence[int]) -> bytes:
  """Those that push a tuple of integers."""
  return b'(' + b''.join(b'I%d\n' % value for value in values) + b't'


def storage(key: str, count: int, kind: str = 'Float') -> bytes:
  """Those that push a storage."""
  name = f'ctorch\n{kind}Storage\n'.encode()
  return b'(' + text('storage') + name + text(key) + text('cpu') + b'I%d\ntQ' % count


def tensor(
  source: bytes, shape: Sequence[int], strides: Sequence[int], offset: int = 0
) -> bytes:
  """Those that push a tensor on a storage."""
  place = b'I%d\n' % offset + numbers(shape) + numbers(strides)
  return TENSOR + b'(' + source + place + b'\x89' + ORDERED_DICT + b'tR'


def mapping(items: Mapping[str, bytes]) -> bytes:
  """Those that push an ordered dict with the attributes of a state dict."""
  pairs = b''.join(text(key) + value for key, value in items.items())
  attributes = b'}' + text('_metadata') + ORDERED_DICT + b's'
  return ORDERED_DICT + b'(' + pairs + b'u' + attributes + b'b'


def write(path: Path, program: bytes, records: Mapping[str, bytes], **options) -> Path:
  """An archive of a pickle, given without its frame, and of further records."""
  with zipfile.ZipFile(path, 'w', **options) as archive:
    archive.writestr('archive/data.pkl', b'\x80\x02' + program + b'.')
    for name, data in records.items():
      archive.writestr(name, data)
    archive.writestr('archive/version', b'3\n')
  return path


def save(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
  """What `torch.save` makes of a state dict."""
  items, records = {}, {}
  for i, (name, value) in enumerate(tensors.items()):
    strides = [step // value.itemsize for step in value.strides]
    source = storage(str(i), value.size, KINDS[value.dtype.str.lstrip('<|')])
    items[name] = tensor(source, value.shape, strides)
    records[f'archive/data/{i}'] = value.tobytes()
  return write(path, mapping(items), records)
