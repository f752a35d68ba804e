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

_PROTO, _STOP = b'\x80\x02', b'.'
MAGIC = b'\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'
"""The op code that pushes the magic number of files before PyTorch 1.6."""


def text(value: str) -> bytes:
  """The op codes that push a string."""
  data = value.encode()
  return b'X' + len(data).to_bytes(4, 'little') + data


def numbers(values: Sequence[int]) -> bytes:
  """Those that push a tuple of integers."""
  return b'(' + b''.join(b'I%d\n' % value for value in values) + b't'


def storage(key: str, count: int, kind: str = 'Float', view: bytes = b'') -> bytes:
  """Those that push a storage; older files say of what it is a view: None."""
  name = f'ctorch\n{kind}Storage\n'.encode()
  start = b'(' + text('storage') + name + text(key) + text('cpu')
  return start + b'I%d\n' % count + view + b'tQ'


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
    archive.writestr('archive/data.pkl', _PROTO + program + _STOP)
    for name, data in records.items():
      archive.writestr(name, data)
    archive.writestr('archive/version', b'3\n')
  return path


def write_old(
  path: Path,
  program: bytes,
  storages: Mapping[str, bytes],
  magic: bytes = MAGIC,
  version: int = 1001,
  names: bytes | None = None,
) -> Path:
  """A file as before PyTorch 1.6; storages have their length before their bytes."""
  own = b'](' + b''.join(map(text, storages)) + b'e'
  pickles = [magic, b'I%d\n' % version, b'}', program, names or own]
  frames = [_PROTO + pickle + _STOP for pickle in pickles]
  path.write_bytes(b''.join([*frames, *storages.values()]))
  return path


def old_storage(values: np.ndarray) -> bytes:
  """What `write_old` takes as a storage."""
  return values.size.to_bytes(8, 'little') + values.tobytes()


def save(
  path: Path,
  tensors: Mapping[str, np.ndarray],
  *,
  old: bool = False,
  training: bool = False,
) -> Path:
  """What `torch.save` makes of a state dict.

  Args:
    path: of the file.
    tensors: by their names.
    old: as PyTorch before 1.6.
    training: as a part of a checkpoint with the epoch, a score that is a NumPy
      scalar, and the optimizer's state.
  """
  items, storages = {}, {}
  for i, (name, value) in enumerate(tensors.items()):
    strides = [step // value.itemsize for step in value.strides]
    kind = KINDS[value.dtype.str.lstrip('<|')]
    source = storage(str(i), value.size, kind, b'N' if old else b'')
    items[name] = tensor(source, value.shape, strides)
    storages[str(i)] = value
  program = mapping(items)
  if training:
    momentum = b'}I0\n' + b'}' + text('momentum_buffer') + next(iter(items.values()))
    pairs = {
      'epoch': b'I3\n',
      'state_dict': program,
      'optimizer': b'}' + text('state') + momentum + b'sss',
      'best_miou': _FLOAT64,
    }
    program = b'}(' + b''.join(text(key) + v for key, v in pairs.items()) + b'u'
  if old:
    old_storages = {key: old_storage(value) for key, value in storages.items()}
    return write_old(path, program, old_storages)
  records = {f'archive/data/{key}': v.tobytes() for key, v in storages.items()}
  return write(path, program, records)


# As NumPy writes the float64 0.5 for Python 2's protocol.
_FLOAT64 = (
  b'cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n('
  + text('f8')
  + b'I0\nI1\ntR('
  + b'I3\n'
  + text('<')
  + b'NNNI-1\nI-1\nI0\ntb'
  + b'c_codecs\nencode\n('
  + text('\0\0\0\0\0\0\xe0?')
  + text('latin1')
  + b'tRtR'
)
