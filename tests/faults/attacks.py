"""Files written by hand to run code, exhaust memory or time, or lead elsewhere."""

import functools
import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.sparse

from tests.faults.readers import (
  READERS,
  hdf5_file,
  idx,
  image,
  in_torch_zip,
  matlab_file,
  npy,
  npz,
  own_arrays,
  png_chunks,
)
from tests.interop import torch_files

_CORPUS = Path(__file__).parent / 'corpus'
_HUGE = 2**40
_DEEP = 10**5


class Attack(NamedTuple):
  """A hostile file.

  Attributes:
    what: it tries.
    content: of the file.
    refused: whether it must not be read; else it only must do no harm.
  """

  what: str
  content: bytes
  refused: bool = True


def attacks(name: str) -> list[Attack]:
  """Those on a reader; files of another format among them."""
  common = {
    'empty': b'',
    'zero bytes': bytes(1000),
    'a line of a million letters': b'a' * 10**6,
    'a pickle that runs a command': _SYSTEM,
    'an archive': npz({'x': np.zeros(3)}),
    'beyond ASCII': 'é\ufeff\u2028\x1b[31m"\',;'.encode() * 9,
  }
  if name.startswith(('csv', 'tsv', 'list')):
    common.pop('empty')  # May be a table without rows.
  found = [Attack(what, data, refused=False) for what, data in common.items()]
  found += [
    Attack(*attack)
    for kind, make in _KINDS.items()
    if kind(name)
    for attack in make(name)
  ]
  return found


def corpus(name: str) -> Iterator[tuple[str, bytes]]:
  """What fuzzing has found before, as files of `corpus/<reader>`."""
  for path in sorted((_CORPUS / name).glob('*')):
    yield path.name, path.read_bytes()


@functools.cache
def bomb(size: int, wbits: int = 15) -> bytes:
  """A deflate stream of `size` MiB of zeros, of which nothing is compressed twice."""
  head, tail = {15: (b'\x78\x9c', b''), -15: (b'', b''), 31: (b'', b'')}[wbits]
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
  body = block * size + b'\x03\x00'
  total = size * 2**20
  if wbits == 15:
    tail = struct.pack('>I', (total % 65521) << 16 | 1)
  elif wbits == 31:
    head = gzip.compress(b'', mtime=0)[:10]
    tail = struct.pack('<II', _crc_of_zeros(size), total % 2**32)
  return head + body + tail


@functools.cache
def _crc_of_zeros(size: int) -> int:
  crc = 0
  for _ in range(size):
    crc = zlib.crc32(bytes(2**20), crc)
  return crc


# Pickles.

_SYSTEM = b"cos\nsystem\n(S'touch /tmp/jdyn-was-here'\ntR."
_KEY = b'Ns.'  # The value, the item of the dict, and the end.


def laughs(levels: int, width: int) -> Any:
  """A list of lists ... of lists, all of a level the same: small, until one looks."""
  value: Any = 'lol'
  for _ in range(levels):
    value = [value] * width
  return value


def _opcodes() -> dict[str, bytes]:
  return {
    'GLOBAL and REDUCE': _SYSTEM,
    'STACK_GLOBAL': b'\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.',
    'INST': b"(S'true'\nios\nsystem\n.",
    'OBJ': b"(cos\nsystem\nS'true'\no.",
    'NEWOBJ': b'cbuiltins\nobject\n)\x81.',
    'NEWOBJ_EX': b'\x80\x04cbuiltins\ndict\n)}\x92.',
    'EXT1': b'\x80\x02\x82\x01.',
    'EXT2': b'\x80\x02\x83\x01\x00.',
    'EXT4': b'\x80\x02\x84\x01\x00\x00\x00.',
    'PERSID': b'Pos.system\n.',
    'BINPERSID': b"S'os'\nQ.",
    'BUILD': b'}}b.',
    'BUILD of an array': b'cnumpy.core.multiarray\n_reconstruct\n)R}b.',
    'a partial call': b'cfunctools\npartial\n(cos\nsystem\nU\x04truetR.',
    'getattr': b"c__builtin__\ngetattr\n(cos\nS'system'\ntR.",
    'numpy.load': b"cnumpy\nload\n(S'x'\nNI01\ntR.",
    'another codec': b'c_codecs\nencode\n(X\x01\x00\x00\x00ax\x03\x00\x00\x00hextR.',
    'NEXT_BUFFER': b'\x80\x05\x97\x98.',
    'a name that is no module': b'\x80\x04\x8c\x03../\x8c\x01x\x93)R.',
    'the machine itself': b'cjdyn.data.restricted_pickle\nload_arrays\n(U\x01xtR.',
  }


def _structures() -> dict[str, bytes]:
  deep = b'K\x00' + b'\x85' * _DEEP
  shared = b')' + b'2\x86' * 64
  wide = b']q\x00' + b'(' + b'h\x00' * 100 + b'lq\x00'
  return {
    'nested lists': b']' * _DEEP + b'a' * (_DEEP - 1) + b'.',
    'nested tuples': deep + b'.',
    'nested dicts': b'}' + b'K\x00}' * _DEEP + b's' * _DEEP + b'.',
    'a nested key': b'}' + b'K\x00' + b'\x85' * 2 * _DEEP + _KEY,
    'a shared key': b'}' + shared + _KEY,
    'a shared key among items': b'}(' + shared + b'Nu.',
    'a shared key of DICT': b'(' + shared + b'Nd.',
    'a shared persistent id': shared + b'Q.',
    'a list in itself': b']q\x00h\x00a.',
    'a dict as its own key': b'}q\x00h\x00Ns.',
    'an array as a key': b'}cnumpy.core.multiarray\n_reconstruct\n)RNs.',
    'shared lists': wide[:3] + wide[3:] * 40 + b'.',
    'no value': b'.',
    'no mark': b'\x80\x04t.',
    'pops of nothing': b'0000.',
    'no end': b'\x80\x04]',
    'protocol 200': b'\x80\xc8N.',
    'a memo at 2**32 - 1': b'Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.',
    'a memo below 0': b'Np-1\n.',
  }


def _lengths() -> dict[str, bytes]:
  promised = struct.pack('<Q', 2**60)
  return {
    'BINBYTES8': b'\x80\x04\x8e' + promised + b'.',
    'BINUNICODE8': b'\x80\x04\x8d' + promised + b'.',
    'BYTEARRAY8': b'\x80\x05\x96' + promised + b'.',
    'FRAME': b'\x80\x04\x95' + promised + b'N.',
    'BINSTRING below 0': b'T\xff\xff\xff\xff.',
    'LONG4': b'\x80\x02\x8b\xff\xff\xff\x7f.',
    'LONG4 below 0': b'\x80\x02\x8b\xff\xff\xff\xff.',
    'LONG of a million digits': b'L' + b'9' * 10**6 + b'L\n.',
    'INT of a million digits': b'I' + b'9' * 10**6 + b'\n.',
    'FLOAT of a million digits': b'F' + b'9' * 10**6 + b'x\n.',
    'STRING of escapes': b"S'" + b'\\' * 9999 + b"'\n.",
    'UNICODE of escapes': b'V\\u12\n.',
  }


def _array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
  """An array of this shape, dtype and data."""
  kind = b'cnumpy\ndtype\n(U' + bytes([len(dtype)]) + dtype + b'I0\nI1\ntR'
  made = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR'
  return made + b'(K\x01' + shape + kind + b'\x89' + data + b'tb.'


def _array_pickles() -> dict[str, bytes]:
  huge = b'\x8a\x08' + struct.pack('<q', 2**62)
  four = b'U\x04abcd'
  return {
    'a huge array': _array(b'(' + huge + b't', b'f4', four),
    'an empty array of 2**62 rows': _array(b'(' + huge + b'K\x00t', b'f4', b'U\x00'),
    'an array below 0': _array(b'(I-1\nt', b'f4', four),
    'an array of shared shape': _array(b')' + b'2\x86' * 64, b'f4', four),
    'an array of huge integers': _array(b'(' + b'\x8b\xff\xff\0\0' * 1, b'f4', four),
    'an array of objects': _array(b'(K\x01t', b'O8', four),
    'a huge text': _array(b'(K\x01t', b'U999999999999', four),
    'text beyond Unicode': _array(b'(K\x01t', b'U1', b'U\x04\xff\xff\xff\x7f'),
    'records': _array(b'(K\x01t', b'f4,f4', four * 2),
    'bytes of nothing': _array(b'(K\x01t', b'V4', four),
  }


def _pickle_attacks(name: str) -> Iterator[tuple]:
  wrap = {
    'torch pickle': in_torch_zip,
    'torch zip': in_torch_zip,
    'torch networks': in_torch_zip,
    'torch old': _as_old,
  }.get(name, bytes)
  for what, program in _opcodes().items():
    yield what, wrap(program)
  for table in (_structures(), _lengths(), _array_pickles()):
    for what, program in table.items():
      yield what, wrap(program), False


def _as_old(program: bytes) -> bytes:
  """As the third of the pickles of a file before PyTorch 1.6."""
  return torch_files.MAGIC + b'.I1001\n.}.' + program


def _multibench_attacks(_name: str) -> Iterator[tuple]:
  ids = {
    'ids of shared lists': [laughs(9, 50), 'b'],
    'ids of many parts': [['x' * 1000] * 10**5, 'b'],
    'one id of ten million letters': ['x' * 10**7, 'b'],
    'an id beyond Unicode': np.array([2**31 - 1, 65], '<u4').view('<U1'),
    'a single id': np.array('a'),
    'ids that are numbers': np.arange(2.0),
    'a dict as ids': {0: 'a', 1: 'b'},
  }
  whole = pickle.loads(READERS['multibench'].seeds()[0])
  for what, value in ids.items():
    whole['train']['id'] = value
    yield what, pickle.dumps(whole), False
  for field in ('text', 'labels', 'id'):
    for what, value in {
      'no rows': np.zeros((0, 2, 300)),
      'no values': np.zeros((2, 0, 300)),
      'a number': 3,
      'one value': np.array(1.0),
      'shared lists': laughs(10, 100),
      'infinity': np.full((2, 2, 300), np.inf, 'f2'),
    }.items():
      part = whole['valid'] | {field: value}
      yield f'{field}: {what}', pickle.dumps(whole | {'valid': part}), False


# Weights.


def _zip(records: Iterable[tuple[Any, bytes]], **options: Any) -> bytes:
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', **options) as archive:
    for record, data in records:
      archive.writestr(record, data)
  return content.getvalue()


def _zip_attacks(
  records: list[tuple[str, bytes]], victim: str, size: int = 2048
) -> Iterator[tuple]:
  """What can be done to an archive, of which `victim` is one record.

  Bombs are of `size` MiB.
  """
  data = dict(records)[victim]
  others = [(name, content) for name, content in records if name != victim]
  whole = _zip(records)
  for what, method in (('bzip2', zipfile.ZIP_BZIP2), ('lzma', zipfile.ZIP_LZMA)):
    yield (
      f'a bomb of {what}',
      _zip([*others, (victim, bytes(2**22))], compression=method),
    )
  yield 'a bomb', _deflated(others, victim, bomb(size, -15), size * 2**20)
  small = _deflated(others, victim, bomb(size, -15), 100)
  yield 'a bomb that says it is small', small
  for place, size in (('<I', 2**32 - 2), ('<I', 2**30)):
    lie = struct.pack(place, size)
    yield f'records of {size} bytes', _patched(whole, {20: lie, 24: lie}), True
  yield 'encrypted records', _patched(whole, {8: b'\x01\x00'}, {6: b'\x01\x00'})
  yield 'another method', _patched(whole, {10: b'\x63\x00'}, {8: b'\x63\x00'})
  yield 'records before the file', _patched(whole, {42: b'\xff\xff\xff\xff'})
  yield 'all records in one place', _patched(whole, {42: bytes(4)})
  yield 'ZIP64 without its sizes', _patched(whole, {20: b'\xff' * 8})
  for bad in (
    f'../../{victim}',
    f'/{victim}',
    f'C:\\{victim}',
    f'{victim}\0.txt',
    'x' * 60000,
  ):
    yield f'a record {bad!r:.40}', _zip([*others, (bad, data)]), False
  link = zipfile.ZipInfo(victim)
  link.external_attr = 0o120777 << 16
  yield 'a symbolic link', _zip([*others, (link, b'/etc/hostname')])
  yield 'two records of a name', _twice(records, victim), False
  yield 'a folder', _zip([*others, (f'{victim}/', b'')])
  yield 'without it', _zip(others)
  many = ((f'x/{i}', b'') for i in range(10**4))
  yield 'ten thousand records', _zip([*records, *many]), False
  yield 'directory cut', whole[:-30]
  yield 'directory of 2**32 bytes', whole[:-10] + b'\xff' * 8 + whole[-2:]


def _twice(records: list[tuple[str, bytes]], victim: str) -> bytes:
  other = victim[:-1] + '#'
  content = _zip([*records, (other, b'\x93NUMPY')])
  return content.replace(other.encode(), victim.encode())


def _deflated(
  others: list[tuple[str, bytes]], victim: str, stream: bytes, size: int
) -> bytes:
  """An archive with a record whose deflate stream and size are given."""
  marker = bytes(range(7, 47))
  content = _zip([(victim, marker), *others])
  at = content.index(marker)
  whole = content[:at] + stream + content[at + len(marker) :]
  grown = len(stream) - len(marker)
  # The sizes of the local header, then of the directory, all of whose places move.
  sizes = struct.pack('<II', len(stream), size)
  whole = whole[:8] + b'\x08\x00' + whole[10:18] + sizes + whole[26:]
  start = whole.index(b'PK\x01\x02')
  end = whole.rindex(b'PK\x05\x06')
  head, directory, tail = whole[:start], bytearray(whole[start:end]), whole[end:]
  place = 0
  while place < len(directory):
    n, m, k = struct.unpack_from('<HHH', directory, place + 28)
    (offset,) = struct.unpack_from('<I', directory, place + 42)
    if offset:
      struct.pack_into('<I', directory, place + 42, offset + grown)
    else:
      struct.pack_into('<H', directory, place + 10, 8)
      struct.pack_into('<II', directory, place + 20, len(stream), size)
    place += 46 + n + m + k
  return head + directory + tail[:16] + struct.pack('<I', len(head)) + tail[20:]


def _patched(
  whole: bytes, directory: Mapping[int, bytes], local: Mapping[int, bytes] = {}
) -> bytes:
  """With bytes of every entry of the directory, and of every record, replaced."""
  content = bytearray(whole)
  for mark, patches in ((b'PK\x01\x02', directory), (b'PK\x03\x04', local)):
    at = content.find(mark)
    while at >= 0:
      for place, data in patches.items():
        content[at + place : at + place + len(data)] = data
      at = content.find(mark, at + 4)
  return bytes(content)


def _torch_attacks(_name: str) -> Iterator[tuple]:
  program = zipfile.ZipFile(io.BytesIO(READERS['torch zip'].seeds()[0]))
  records = [(info.filename, program.read(info)) for info in program.infolist()]
  yield from _zip_attacks(records, 'archive/data/0')
  for what, source in _programs().items():
    yield what, in_torch_zip(b'\x80\x02' + source + b'.'), False


def _programs() -> dict[str, bytes]:
  storage, tensor = torch_files.storage, torch_files.tensor
  mapping, text = torch_files.mapping, torch_files.text
  shared = b')' + b'2\x86' * 64
  lists = pickle.dumps(laughs(12, 100), 2)[2:-1]
  float_storage = b'ctorch\nFloatStorage\n'
  huge = 2**62
  return {
    'a tensor beyond its storage': mapping(
      {'a.bias': tensor(storage('0', 6), (7,), (1,))}
    ),
    'a tensor of stride 0': tensor(storage('0', 6), (huge,), (0,)),
    'a tensor below 0': tensor(storage('0', 6), (-1,), (1,)),
    'an empty tensor of 2**62 rows': tensor(storage('0', 6), (huge, 0), (1, 1)),
    'a tensor of a hundred axes': tensor(storage('0', 6), (1,) * 100, (1,) * 100),
    'a storage that promises more': tensor(storage('0', huge), (huge,), (1,)),
    'a storage elsewhere': tensor(storage('../../../etc/hostname', 6), (6,), (1,)),
    'a storage of shared name': b'('
    + text('storage')
    + float_storage
    + shared
    + b'NK\x06tQ',
    'a shape of shared tuples': torch_files.TENSOR
    + b'('
    + storage('0', 6)
    + b'K\x00'
    + shared
    + shared
    + b'tR',
    'a state dict of shared lists': mapping({'a.bias': lists, 'a.weight': lists}),
    'a state dict of texts': mapping({'a.bias': text('x'), 'a.weight': b'N'}),
    'a state dict with a number as a name': b'}K\x05Ns',
    'networks of shared lists': mapping({'clf.0.weight': lists, 'clf.0.bias': lists}),
  }


def _old_torch_attacks(_name: str) -> Iterator[tuple]:
  values = {'0': torch_files.old_storage(np.zeros(6, 'f4'))}
  program = torch_files.tensor(torch_files.storage('0', 6, view=b'N'), (6,), (1,))
  shared = b')' + b'2\x86' * 64
  names = {
    'names that are shared lists': pickle.dumps([laughs(9, 50), laughs(9, 50)], 2)[
      2:-1
    ],
    'a shared tuple as names': shared,
    'no names': b']',
    'another name': b'](' + torch_files.text('../x') + b'e',
    'a number as names': b'K\x00',
  }
  for what, listed in names.items():
    yield what, _old_file(program, values, listed)
  lie = {'0': struct.pack('<Q', 2**62) + bytes(24)}
  yield 'a storage of 2**62 values', _old_file(program, lie, None)
  for what, source in _programs().items():
    yield what, _old_file(source, values, None), False


def _old_file(
  program: bytes, storages: Mapping[str, bytes], names: bytes | None
) -> bytes:
  own = b'](' + b''.join(map(torch_files.text, storages)) + b'e'
  pickles = [torch_files.MAGIC, b'I1001\n', b'}', program, names or own]
  frames = [b'\x80\x02' + each + b'.' for each in pickles]
  return b''.join([*frames, *storages.values()])


# HDF5.

_VICTIMS = {
  'hdf5 arrays': ('train/x', np.zeros((8, 2), 'f4')),
  'hdf5 mmimdb': ('features', np.zeros((3, 300), 'f4')),
  'hdf5 slice': ('sc_kspace', np.zeros((8, 5), 'c8')),
  'hdf5 frames': ('images', np.zeros((2, 3, 4, 5), 'u1')),
  'hdf5 cells': ('SUNRGBD2Dseg/seglabel', np.empty((2, 1), h5py.ref_dtype)),
}


def _hdf5_attacks(name: str) -> Iterator[tuple]:
  place, values = _VICTIMS[name]
  whole = READERS[name].seeds()[0]
  shape, dtype = values.shape, values.dtype

  def changed(fill) -> bytes:
    """The valid file with another thing in the place of one dataset."""

    def edit(file):
      with h5py.File(io.BytesIO(whole), 'r') as seed:
        for child in seed:
          seed.copy(child, file)
        file.attrs.update(seed.attrs)
      del file[place]
      fill(file)

    return hdf5_file(edit)

  def put(value):
    return changed(lambda file: file.__setitem__(place, value))

  def create(**options):
    given = {'shape': shape, 'dtype': dtype} | options
    return changed(lambda file: file.create_dataset(place, **given))

  def virtual(file):
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource('/etc/hostname', 'x', shape)
    file.create_virtual_dataset(place, layout)

  def sparse(file):
    file.create_dataset(
      place, huge, dtype, chunks=(1, *shape[1:]), fillvalue=dtype.type(1)
    )[0] = 1

  yield 'an external link', put(h5py.ExternalLink('/etc/hostname', 'x'))
  yield 'a soft link', put(h5py.SoftLink('/other'))
  yield 'soft links in a circle', put(h5py.SoftLink(f'/{place}'))
  yield 'a virtual dataset', changed(virtual)
  yield 'a group', changed(lambda file: file.create_group(place))
  yield 'the file itself', changed(lambda file: file.__setitem__(place, file['/']))
  yield (
    'no space',
    changed(lambda file: file.create_dataset(place, data=h5py.Empty('f4'))),
  )
  yield 'a single value', create(shape=()), False
  for what, other in {
    'records': np.dtype([('x', 'f4'), ('y', h5py.ref_dtype)]),
    'an enumeration': h5py.enum_dtype({'a': 1, 'b': 2}),
    'opaque bytes': np.dtype('V3'),
    'references': h5py.ref_dtype,
    'regions': h5py.regionref_dtype,
    'lists': h5py.vlen_dtype(np.dtype('i4')),
    'texts': h5py.string_dtype(),
    'arrays': np.dtype(('f4', (2, 2))),
    'long doubles': np.dtype('g'),
  }.items():
    yield what, create(dtype=other, fillvalue=None), False
  if dtype == h5py.ref_dtype:
    return
  huge = (_HUGE, *shape[1:])
  yield 'bytes in another file', create(external=[('/etc/passwd', 0, 2**20)])
  yield 'a fill value 2**40 times', changed(sparse)
  yield 'never written', create(shape=huge, chunks=(1, *shape[1:]))
  yield (
    'no rows but 2**40 columns',
    create(shape=(0, _HUGE), chunks=(1, 1), maxshape=(None, None)),
    False,
  )
  yield (
    'a bomb of many chunks',
    changed(lambda file: _chunked(file, place, shape, dtype, 64)),
  )
  for what, data, filters in (
    ('a bomb in a chunk', bomb(1024), 1),
    ('a bomb in a bomb', zlib.compress(bomb(1024)), 2),
  ):
    yield what, changed(lambda f, d=data, n=filters: _stream(f, place, shape, d, n))
  yield (
    'one text in all rows',
    _same_texts(
      lambda file, texts: file.create_dataset(
        place, data=texts, dtype=h5py.string_dtype()
      )
    ),
  )


def _chunked(file, place: str, shape, dtype, count: int) -> None:
  """Chunks of 64 MiB of zeros each."""
  width = dtype.itemsize * int(np.prod(shape[1:]))
  rows = 2**26 // width
  dataset = file.create_dataset(
    place,
    (rows * count, *shape[1:]),
    dtype,
    chunks=(rows, *shape[1:]),
    compression='gzip',
  )
  data = zlib.compress(bytes(rows * width))
  for row in range(0, rows * count, rows):
    dataset.id.write_direct_chunk((row, *[0] * (len(shape) - 1)), data)


def _stream(file, place: str, shape, data: bytes, filters: int = 1) -> None:
  """One chunk of few values, whose compressed bytes are given."""
  options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
  options.set_chunk(shape)
  for _ in range(filters):
    options.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (4,))
  space = h5py.h5s.create_simple(shape)
  *groups, last = place.split('/')
  group = file.require_group('/'.join(groups)) if groups else file
  kind = h5py.h5t.IEEE_F32LE
  dataset = h5py.h5d.create(group.id, last.encode(), kind, space, options)
  dataset.write_direct_chunk((0,) * len(shape), data)


def _same_texts(fill) -> bytes:
  """Rows of text that are all the same place of the file."""
  rows, text = 10**5, 'x' * 10**6
  place = ''

  def write(file):
    nonlocal place
    place = fill(file, [text, *[''] * (rows - 1)]).id.get_offset()

  content = hdf5_file(write)
  first = content[place : place + 16]
  return content[:place] + first * rows + content[place + 16 * rows :]


def _mmimdb_attacks(_name: str) -> Iterator[tuple]:
  whole = READERS['hdf5 mmimdb'].seeds()[0]

  def with_names(value: Any) -> bytes:
    def edit(file):
      with h5py.File(io.BytesIO(whole), 'r') as seed:
        for child in seed:
          seed.copy(child, file)
        file.attrs.update(seed.attrs)
      file['genres'].attrs['target_names'] = value

    return hdf5_file(edit, libver='latest')

  for what, value in {
    'nested names': '[' * 10**4,
    'names of a million letters': json.dumps(['x' * 10**6] * 23),
    'a number as names': 3,
    'a name that is no text': json.dumps([{'x': []}] * 23),
    'many names': json.dumps([*map(str, range(10**5))]),
    'names as an array': np.zeros(5000),
  }.items():
    yield what, with_names(value)


def _cells_attacks(_name: str) -> Iterator[tuple]:
  def cells(references, **options):
    def fill(file):
      made = references(file)
      file.create_dataset(
        'SUNRGBD2Dseg/seglabel', data=np.array(made, h5py.ref_dtype), **options
      )

    return hdf5_file(fill)

  yield 'references to nothing', cells(lambda file: [h5py.Reference()])
  yield 'a reference to a group', cells(lambda file: [file['/'].ref])
  elsewhere = cells(lambda file: [file.create_dataset('x', data=1.0).ref])
  with h5py.File(io.BytesIO(elsewhere), 'r') as file:
    place = file['SUNRGBD2Dseg/seglabel'].id.get_offset()
  for address in (0, 1, 96, 2**40, 2**64 - 1):
    lie = struct.pack('<Q', address)
    yield f'a reference to {address}', elsewhere[:place] + lie + elsewhere[place + 8 :]

  def to_huge(file):
    huge = file.create_dataset('x', (2**20, 2**20), 'f4', chunks=(1, 2**20))
    huge[0] = 1
    return [huge.ref] * 1000

  yield 'references to what is huge', cells(to_huge)


def _links_attacks(_name: str) -> Iterator[tuple]:
  def many_links(file):
    _chunked(file, 'train/x', (8, 2), np.dtype('f4'), 1)
    for number in range(200):
      file[f'train/y{number}'] = file['train/x']

  yield 'one dataset under many names', hdf5_file(many_links)

  def circle(file):
    file.create_group('train')['train'] = file['/']
    file['test'] = file['/']

  yield 'groups in a circle', hdf5_file(circle)

  def crowd(file):
    for number in range(5000):
      file.create_group(f'g{number}')

  yield 'thousands of groups', hdf5_file(crowd)
  for what, label in {
    'labels up to 2**31': np.array([0, 2**31 - 2]),
    'labels up to 2**63': np.array([0, 2**63 - 1]),
    'a column of labels for no row': np.zeros((0, 5)),
  }.items():
    arrays = {f'{part}/label': label for part in ('train', 'test')}
    arrays |= {f'{part}/x': np.zeros((len(label), 2)) for part in ('train', 'test')}

    def fill(file, arrays=arrays):
      for key, value in arrays.items():
        file[key] = value

    yield what, hdf5_file(fill), False


# MATLAB.


def _element(kind: int, data: bytes) -> bytes:
  return struct.pack('<II', kind, len(data)) + data + bytes(-len(data) % 8)


def _matrix(kind: int, shape: Iterable[int], *parts: bytes, name: bytes = b'') -> bytes:
  """An array of MATLAB's class `kind`."""
  sizes = [*shape]
  head = _element(6, struct.pack('<II', kind, 0))
  head += _element(5, struct.pack(f'<{len(sizes)}i', *sizes)) + _element(1, name)
  return _element(14, head + b''.join(parts))


def _matlab_file(*elements: bytes) -> bytes:
  return b'MATLAB 5.0'.ljust(124) + b'\x00\x01IM' + b''.join(elements)


def _packed(element: bytes) -> bytes:
  data = zlib.compress(element)
  return struct.pack('<II', 15, len(data)) + data


def _matlab_attacks(name: str) -> Iterator[tuple]:
  victim = b'trainNdxs' if name == 'matlab tables' else b'alltrain'
  cell, struct_, char, sparse, double = 1, 2, 4, 5, 6
  nested = _element(9, struct.pack('<d', 1))
  nested = _matrix(double, (1, 1), nested)
  depth = 20_000
  # All sizes are known beforehand: one level adds 48 bytes.
  levels = [_matrix(cell, (1, 1))[8:] for _ in range(depth)]
  sizes = [len(nested) + (depth - i) * 56 - 8 for i in range(depth)]
  heads = [
    struct.pack('<II', 14, n) + level for n, level in zip(sizes, levels, strict=True)
  ]
  named = _matrix(cell, (1, 1), b''.join(heads), nested, name=victim)
  yield 'nested cells', _matlab_file(named)
  yield 'nested cells, packed', _matlab_file(_packed(named))
  huge = (2**31 - 1, 1)
  yield 'cells that are not there', _matlab_file(_matrix(cell, huge, name=victim))
  yield 'cells of huge axes', _matlab_file(_matrix(cell, [2**31 - 1] * 20, name=victim))
  yield 'cells below 0', _matlab_file(_matrix(cell, (-5, 1), name=victim))
  fields = _element(5, struct.pack('<i', 8))
  none = _matrix(struct_, huge, fields, _element(1, b''), name=victim)
  yield 'records without fields', _matlab_file(none)
  some = _matrix(struct_, huge, fields, _element(1, b'a'.ljust(8, b'\0')), name=victim)
  yield 'records that are not there', _matlab_file(some)
  yield (
    'text that is not there',
    _matlab_file(_matrix(char, (1, 2**31 - 1), _element(16, b'abc'), name=victim)),
  )
  yield (
    'numbers that are not there',
    _matlab_file(
      _matrix(double, (2**16, 2**15), struct.pack('<II', 9, 2**31), name=victim)
    ),
  )
  one = _element(5, struct.pack('<i', 0))
  yield (
    'a sparse matrix',
    _matlab_file(
      _matrix(
        sparse,
        (2**31 - 1, 1),
        one,
        _element(5, struct.pack('<ii', 0, 1)),
        _element(9, struct.pack('<d', 1)),
        name=victim,
      )
    ),
    False,
  )
  diagonal = scipy.sparse.csc_matrix(np.eye(2))
  yield 'another sparse matrix', matlab_file(**{victim.decode(): diagonal}), False
  yield 'a bomb', _matlab_file(struct.pack('<II', 15, len(bomb(2048))) + bomb(2048))
  size = 2**31 - 8
  head = _matrix(double, (2**14, 2**14), name=victim)[8:]
  real = struct.pack('<II', 9, 2**31 - 2**20)
  body = struct.pack('<II', 14, size) + head + real + bytes(2**20)
  yield 'a bomb of numbers', _matlab_file(_with_bomb(body))
  yield (
    'a bomb of text',
    _matlab_file(
      _with_bomb(
        struct.pack('<II', 14, size)
        + _matrix(char, (1, 2**30), name=victim)[8:]
        + struct.pack('<II', 16, 2**30)
        + bytes(2**20)
      )
    ),
  )
  for kind in (3, 16, 17, 18, 99):
    call = _matrix(
      kind, (1, 1), _element(1, b'system'), _element(1, b'ls'), name=victim
    )
    yield f'class {kind}', _matlab_file(call), False
  old = struct.pack('<5i', 0, 2**30, 2**30, 0, 9) + b'trainNdxs\0'
  yield 'version 4', old
  yield 'version 4 of text', struct.pack('<5i', 51, 1, 2**30, 0, 2) + b'x\0'
  yield 'version 7.3', hdf5_file(lambda file: file.create_dataset('x', data=1))
  yield 'without the variable', matlab_file(x=np.zeros(2))


def _with_bomb(start: bytes) -> bytes:
  """A packed element that begins so and goes on with a gigabyte of zeros."""
  packer = zlib.compressobj(9)
  head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
  block = zlib.compressobj(9, zlib.DEFLATED, -15)
  zeros = block.compress(bytes(2**20)) + block.flush(zlib.Z_FULL_FLUSH)
  data = head + zeros * 1024
  return struct.pack('<II', 15, len(data)) + data


# NumPy's formats.


def _npy(header: bytes, data: bytes = b'', version: int = 1) -> bytes:
  size = struct.pack('<H' if version == 1 else '<I', len(header))
  return b'\x93NUMPY' + bytes([version, 0]) + size + header + data


def _described(descr: str, shape: str, data: bytes = bytes(32)) -> bytes:
  text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
  return _npy(text.encode('latin1'), data)


def npy_attacks(_name: str = '') -> Iterator[tuple]:
  """Single arrays."""
  objects = io.BytesIO()
  np.lib.format.write_array(objects, np.array([print, {}], object), allow_pickle=True)
  yield 'objects', objects.getvalue()
  yield 'a pickle that runs a command', _SYSTEM
  yield 'objects that run a command', _described("'|O'", '(1,)', _SYSTEM)
  for descr in (
    "'<f4', __import__('os').system('true')",
    "__import__('os').system('true')",
    "[('x', '<f4'), ('y', '|O')]",
    "('<f4', (1000000000,))",
    "('<f4', (-1,))",
    "'<U1000000000'",
    "'|V0'",
    "'|S0'",
    "'<M8[ns]'",
    "'<f4' * 1000000000",
    '(' * 300,
    '-' * 9000 + '1',
    '[' * 90 + ']' * 90,
    '"' * 3,
    '{}',
    "b'\\xff'",
    '1e999999j',
    'f"{print(1)}"',
  ):
    yield f'descr {descr:.40}', _described(descr, '(2,)')
  for shape in (
    '(1099511627776,)',
    '(4294967296, 4294967296)',
    '(4611686018427387904, 4)',
    '(1099511627776, 0)',
    '(0, 1099511627776)',
    '(-1,)',
    '(-2, -2)',
    '(True,)',
    '(2.0,)',
    '(None,)',
    '[2]',
    '2',
    '(1,) * 1000000000',
    f'({"1, " * 100})',
    f'({"9" * 5000},)',
  ):
    yield f'shape {shape:.40}', _described("'<f4'", shape)
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"
  yield 'a header of 2**31 bytes', _npy(b'').replace(b'\x01\0\0\0', b'\x02\0\0\0\0\x80')
  yield 'a header of 10**6 bytes', _npy(header.ljust(10**6) + b'\n', bytes(8), 2)
  yield 'a header beyond ASCII', _npy(header[:-1] + b', "\xff": 1}', bytes(8), 3)
  yield 'version 9', _npy(header, bytes(8), 9)
  yield 'no header', b'\x93NUMPY'
  yield 'more keys', _npy(header[:-1] + b", 'x': 1}", bytes(8))
  yield 'text beyond Unicode', _described("'<U1'", '(2,)', b'\xff' * 8), True


def _npz_attacks(name: str) -> Iterator[tuple]:
  array = npy(own_arrays()['train/x'])
  if name == 'npz predictions':
    with np.load(io.BytesIO(READERS[name].seeds()[0])) as file:
      arrays = {key: npy(file[key]) for key in file.files}
    victim = 'logits.npy'
  else:
    arrays = {key: npy(values) for key, values in own_arrays().items()}
    victim = 'train/x.npy'
  records = [
    (key if key.endswith('.npy') else f'{key}.npy', v) for key, v in arrays.items()
  ]
  # Our own files may pack as well as deflate does, and so take a thousand times more.
  size = 64 if name == 'npz predictions' else 2048
  yield from _zip_attacks(records, victim, size)
  head = _described("'<f4'", f'({size * 2**18},)', b'')
  yield (
    'a bomb of numbers',
    _deflated(
      [r for r in records if r[0] != victim],
      victim,
      _raw_bomb(head, size),
      size * 2**20 + len(head),
    ),
    False,
  )
  for what, content, *_ in npy_attacks():
    yield (
      f'an array: {what}',
      _zip([*((k, v) for k, v in records if k != victim), (victim, content)]),
      False,
    )
  yield 'a member that is no array', _zip([*records, ('train/y', array)]), False
  yield (
    'a member of no split',
    _zip([*records, ('y.npy', array)]),
    name != 'npz predictions',
  )


def _raw_bomb(start: bytes, size: int) -> bytes:
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  return packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH) + bomb(size, -15)


def _labels_attacks(_name: str) -> Iterator[tuple]:
  for what, changes in {
    'labels up to 2**31': {'label': np.array([0, 2**31 - 2])},
    'labels up to 2**63': {'label': np.array([0, 2**63 - 1])},
    'labels that are complex': {'label': np.zeros(2, 'c8')},
    'labels that are text': {'label': np.array(['a', 'b'])},
    'no labels': {'label': np.zeros((0,), int)},
    'labels of no column': {'label': np.zeros((2, 0))},
    'an array of no column': {'x': np.zeros((2, 0))},
    'dates': {'x': np.zeros(2, 'M8[s]')},
    'ids of bytes': {'id': np.array([b'\xff', b'a'])},
    'long ids': {'id': np.array(['x' * 10**6, 'y'])},
    'lengths below 0': {
      'steps': np.zeros((2, 3, 2)),
      'steps_length': np.array([-1, 9]),
    },
    'infinite numbers': {'x': np.array([np.inf, np.nan])},
  }.items():
    part = {'x': np.zeros((2, 3)), 'label': np.array([0, 1])} | changes
    arrays = {
      f'{split}/{key}': v for split in ('train', 'test') for key, v in part.items()
    }
    yield what, npz(arrays), False


# Text.


def _table_attacks(name: str) -> Iterator[tuple]:
  start = {
    'csv slices': b'volume_id,slice_id,labels,data_split',
    'csv annotations': b'file,slice,label',
    'tsv labels': b'text\tlabel',
  }.get(name, b'1,2,3')
  row = {
    'csv slices': b'v,1,[],',
    'csv annotations': b'f,1,x',
    'csv transcripts': b'a_1,x,1,1',
    'csv names': b'x',
    'csv labels': b'1',
    'tsv labels': b'x\t1',
  }.get(name, b'1,2,3')
  head = start if name in ('csv slices', 'csv annotations', 'tsv labels') else row
  lines = {
    'a million columns': b'1,' * 10**6,
    'a cell of 10 MB': b'"' + b'x' * 10**7 + b'"',
    'a quote that never ends': b'"' + row + b'\n' * 10**5,
    'a nul byte': row + b'\0',
    'only nul bytes': bytes(10**5),
    'ragged rows': row + b'\n' + row + b',7',
    'not UTF-8': b'\xff\xfe' + row,
    'UTF-16': row.decode().encode('utf-16'),
    'a byte order mark': b'\xef\xbb\xbf' + row,
    '1e999999': row.replace(b'1', b'1e999999'),
    'NaN': row.replace(b'1', b'nan'),
    'infinity': row.replace(b'1', b'-inf'),
    'hexadecimal': row.replace(b'1', b'0x1p3'),
    'complex': row.replace(b'1', b'1+2j'),
    'an underscore': row.replace(b'1', b'1_0'),
    'a number of 10**5 digits': row.replace(b'1', b'9' * 10**5),
    'digits of another script': row.replace(b'1', '\u0661'.encode()),
    'a superscript': row.replace(b'1', '²'.encode()),
    'a formula': row.replace(b'1', b'=cmd|x!A1'),
    'an escape sequence': row.replace(b'1', b'\x1b[2J'),
    'old ends of lines': row + b'\r' + row,
    'a million empty lines': b'\n' * 10**6,
    'a million separators': b',' * 10**6,
    'a million tabs': b'\t' * 10**6,
    'a line of a million letters': b'x' * 10**6,
    'separators of Unicode': row + '\u2028\x85\x1c'.encode(),
  }
  for what, line in lines.items():
    yield what, head + b'\n' + line + b'\n', False
  wide = start + b''.join(b',c%d' % i for i in range(20_000)) + b'\n'
  yield 'many columns and many rows', wide + (row + b'\n') * 20_000, False


def _list_attacks(name: str) -> Iterator[tuple]:
  good = b'0001' if name == 'list nyuv2' else b'kv1/a/image/1.jpg'
  for what, line in {
    'a path upwards': b'kv1/../../../etc/x.jpg',
    'an absolute path': b'/etc/a/b/passwd',
    'a nul byte': b'kv1/a\0/image/1.jpg',
    'a long name': b'kv1/' + b'a' * 300 + b'/image/1.jpg',
    'a long path': b'kv1/' + b'a/' * 10**4 + b'image/1.jpg',
    'not UTF-8': b'kv1/\xff/image/1.jpg',
    'an escape sequence': b'kv1/\x1b[2J/image/1.jpg',
    'digits of another script': ('\u0661' * 4).encode(),
    'a number upwards': b'../1',
    'another camera': b'x/a/image/1.jpg',
    'a url': b'http://localhost/a/image/1.jpg',
    'a line separator': 'kv1/a\u2028/image/1.jpg'.encode(),
  }.items():
    yield what, line + b'\n' + good + b'\n'
  yield 'ten thousand lines', (good + b'\n') * 10**4


def _json_attacks(name: str) -> Iterator[tuple]:
  ids = [str(row) for row in range(12)]
  good = {'ids': {'train': ids, 'test': ids}}

  def with_first(name: str) -> str:
    return json.dumps({'ids': {'train': [name, *ids[1:]], 'test': ids}})

  for what, text in {
    'nested lists': '[' * _DEEP,
    'nested lists, closed': '{"ids": ' + '[' * _DEEP + ']' * _DEEP + '}',
    'nested objects': '{"a":' * _DEEP,
    'a huge integer': '{"ids": ' + '9' * 10**6 + '}',
    'NaN': '{"ids": NaN}',
    'a number': '1e999999',
    'a list': '[]',
    'null': 'null',
    'keys twice': '{"ids": {}, "ids": 3}',
    'half a character': json.dumps(
      {'ids': {'train': ['\ud800', *ids[1:]], 'test': ids}}
    ),
    'a long id': json.dumps({'ids': {'train': ['x' * 10**6, *ids[1:]], 'test': ids}}),
    'numbers as ids': json.dumps({'ids': {'train': [*range(12)], 'test': ids}}),
    'nested ids': json.dumps({'ids': {'train': [[[]]] * 12, 'test': ids}}),
    'a text as ids': json.dumps({'ids': {'train': 'x' * 12, 'test': ids}}),
    'an escape sequence': json.dumps(
      {'ids': {'train': ['\x1b[2J', *ids[1:]], 'test': ids}}
    ),
    'many ids': json.dumps({'ids': {'train': [''] * 10**5, 'test': ids}}),
    'the same id': json.dumps({'ids': {'train': ['x'] * 12, 'test': ['x'] * 12}}),
  }.items():
    yield what, text.encode('utf-8', 'surrogatepass'), False
  yield 'a byte order mark', b'\xef\xbb\xbf' + json.dumps(good).encode(), False
  yield 'UTF-16', json.dumps(good).encode('utf-16'), False
  sealed = {'files': {'../../etc/hostname': 'x'}, 'sha256': 'x'}
  yield 'another file', json.dumps(sealed).encode(), name == 'sealed json'


# Images and sound.


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + bytes(4)


def _png(
  width=4, height=4, bits=8, color=2, *, interlace=0, before=(), data=None, method=0
):
  header = struct.pack('>IIBBBBB', width, height, bits, color, method, 0, interlace)
  pixels = zlib.compress(bytes(4 * 13)) if data is None else data
  parts = [
    _chunk(b'IHDR', header),
    *before,
    _chunk(b'IDAT', pixels),
    _chunk(b'IEND', b''),
  ]
  return png_chunks(b'\x89PNG\r\n\x1a\n' + b''.join(parts))


def _png_attacks(_name: str) -> Iterator[tuple]:
  for width, height in (
    (2**31 - 1, 2**31 - 1),
    (2**32 - 1, 1),
    (1, 2**27),
    (0, 4),
    (4, 0),
  ):
    yield f'{width} by {height} pixels', _png(width, height)
  yield 'as many pixels as there may be, and none there', _png(2**13, 2**13), False
  yield 'half a million columns', _png(2**26, 1), False
  yield 'a bomb', _png(data=bomb(2048)), False
  for bits in (1, 2, 4, 8, 16, 3, 200):
    for color in (0, 2, 3, 4, 6, 7):
      yield f'{bits} bits of type {color}', _png(bits=bits, color=color), False
  yield 'a palette that is not there', _png(color=3)
  yield 'an empty palette', _png(color=3, before=[_chunk(b'PLTE', b'')])
  yield (
    'a palette of 300 colours',
    _png(color=3, before=[_chunk(b'PLTE', bytes(900))]),
    False,
  )
  yield 'two headers', _png(before=[_chunk(b'IHDR', bytes(13))]), False
  yield 'interlaced', _png(interlace=1), False
  yield 'interlaced in another way', _png(interlace=9), False
  yield 'another method', _png(method=7), False
  text = b'Comment\0\0'
  for kind, data in {
    b'zTXt': text + bomb(2048),
    b'iCCP': text + bomb(2048),
    b'iTXt': b'Comment\0\x01\0\0\0' + bomb(2048),
    b'tEXt': text + bytes(10**6),
    b'eXIf': b'MM\0*' + b'\xff' * 99,
    b'tRNS': bytes(999),
    b'sBIT': b'\xff' * 4,
    b'hIST': bytes(512),
    b'acTL': struct.pack('>II', 2**31 - 1, 0),
    b'fcTL': struct.pack('>IIIIIHHBB', 0, 2**30, 2**30, 0, 0, 0, 0, 0, 0),
    b'fdAT': bytes(4) + bomb(512),
  }.items():
    yield f'a chunk {kind.decode()}', _png(before=[_chunk(kind, data)]), False
  animated = [
    _chunk(b'acTL', struct.pack('>II', 10**6, 0)),
    _chunk(b'fcTL', struct.pack('>IIIIIHHBB', 0, 4, 4, 0, 0, 1, 1, 0, 0)),
  ]
  yield 'an animation', _png(before=animated), False
  yield 'a million chunks', _png(before=[_chunk(b'tEXt', b'')] * 10**5), False
  whole = image('.png', np.zeros((4, 4, 3), 'u1'))
  yield 'a wrong checksum', whole.replace(b'IDAT', b'IDAT\xff'), False
  yield (
    'a chunk of 2**32 - 1 bytes',
    whole.replace(b'\0\0\0\x00IEND', b'\xff' * 4 + b'IEND'),
  )
  yield 'no pixels', _png(data=b'')


def _jpeg_attacks(_name: str) -> Iterator[tuple]:
  whole = image('.jpg', np.zeros((8, 8, 3), 'u1'))
  frame = whole.index(b'\xff\xc0')

  def sized(height: int, width: int, content: bytes = whole) -> bytes:
    at = max(content.find(b'\xff\xc0'), content.find(b'\xff\xc2'))
    return content[: at + 5] + struct.pack('>HH', height, width) + content[at + 9 :]

  yield '65500 by 65500 pixels', sized(65500, 65500)
  yield 'no height', sized(0, 8)
  yield 'no width', sized(8, 0)
  yield 'as many pixels as there may be, and none there', sized(2**13, 2**13), False
  for kind in range(0xC1, 0xD0):
    content = whole[: frame + 1] + bytes([kind]) + whole[frame + 2 :]
    yield f'a frame of kind {kind:#x}', content, False
  for mark, what in ((0xC4, 'Huffman'), (0xDB, 'quantisation')):
    yield f'without {what} tables', _without(whole, mark), False
  yield 'twelve bits', whole[: frame + 4] + b'\x0c' + whole[frame + 5 :]
  yield 'two hundred components', whole[: frame + 9] + b'\xc8' + whole[frame + 10 :]
  yield 'no end', whole[:-2]
  yield (
    'a thumbnail of zeros',
    whole[:2] + b'\xff\xe1\xff\xff' + bytes(65533) + whole[2:],
    False,
  )
  turned = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\x06'
  segment = b'\xff\xe1' + struct.pack('>H', len(turned) + 2) + turned
  yield 'an orientation', whole[:2] + segment + whole[2:], False
  yield 'fill bytes', whole[:2] + b'\xff' * 10**5 + whole[2:], False
  yield 'ten thousand scans', _scans(10**4)


def _without(whole: bytes, mark: int) -> bytes:
  parts, place = [whole[:2]], 2
  while whole[place + 1] != 0xDA:
    end = place + 2 + int.from_bytes(whole[place + 2 : place + 4], 'big')
    if whole[place + 1] != mark:
      parts.append(whole[place:end])
    place = end
  return b''.join([*parts, whole[place:]])


@functools.cache
def _scans(count: int) -> bytes:
  """A progressive image whose last scan comes again and again."""
  import cv2

  pixels = np.zeros((2**12, 2**12), 'u1')
  _, coded = cv2.imencode(
    '.jpg', cv2.merge([pixels] * 3), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
  )
  whole = coded.tobytes()
  last = whole.rindex(b'\xff\xda')
  return whole[:-2] + whole[last:-2] * count + b'\xff\xd9'


def _idx_attacks(name: str) -> Iterator[tuple]:
  pack = gzip.compress if name == 'idx gz' else bytes
  for shape in (
    (2**30,),
    (2**32 - 1,) * 3,
    (2**32 - 1, 0),
    (2**28,),
    (0,),
    (0, 2**32 - 1),
  ):
    header = struct.pack(f'>HBB{len(shape)}I', 0, 8, len(shape), *shape)
    yield f'shape {shape}', pack(header + bytes(9)), False
  for kind, rank in ((9, 1), (8, 0), (8, 255)):
    yield (
      f'type {kind} of {rank} axes',
      pack(struct.pack('>HBB', 0, kind, rank) + bytes(2000)),
    )
  yield 'more than promised', pack(idx(np.zeros(3)) + bytes(10**6))
  if name == 'idx gz':
    yield 'a bomb', bomb(1024, 31)
    header = struct.pack('>HBBI', 0, 8, 1, 2**30)
    yield 'a bomb that says so', gzip.compress(header) + bomb(1024, 31), False
    yield (
      'many members',
      gzip.compress(b'') * 10**4 + gzip.compress(idx(np.zeros(3))),
      False,
    )
    yield 'a bad checksum', gzip.compress(idx(np.zeros(3)))[:-8] + bytes(8)
    named = gzip.compress(idx(np.zeros(3)))
    yield (
      'a name upwards',
      named[:3] + b'\x08' + named[4:10] + b'../../x\0' + named[10:],
      False,
    )


def _wav_attacks(_name: str) -> Iterator[tuple]:
  def riff(*chunks: tuple[bytes, int, bytes], size: int = 2**32 - 1) -> bytes:
    body = b''.join(name + struct.pack('<I', n) + data for name, n, data in chunks)
    return b'RIFF' + struct.pack('<I', size) + b'WAVE' + body

  def form(kind=1, channels=1, rate=8000, width=2, bits=16) -> tuple[bytes, int, bytes]:
    data = struct.pack('<HHIIHH', kind, channels, rate, rate * 2 % 2**32, width, bits)
    return b'fmt ', 16, data

  sound = (b'data', 4000, bytes(range(250)) * 16)
  yield 'sound that is not there', riff(form(), (b'data', 2**32 - 2, bytes(99)))
  yield 'a file of 20 bytes', riff(form(), sound, size=20)
  yield 'no sound', riff(form())
  yield 'sound before its form', riff(sound, form())
  yield 'two forms', riff(form(), form(channels=2), sound), False
  yield 'a chunk that is not there', riff(form(), (b'LIST', 2**32 - 1, b'x'), sound)
  yield (
    'a hundred thousand chunks',
    riff(form(), *[(b'LIST', 0, b'')] * 10**5, sound),
    False,
  )
  for what, changed in {
    'channels': {'channels': 0},
    'many channels': {'channels': 2**16 - 1},
    'bits': {'bits': 0},
    'many bits': {'bits': 2**16 - 1},
    'rate': {'rate': 0},
    'another code': {'kind': 0x55},
    'an extended form': {'kind': 0xFFFE},
    'floats': {'kind': 3, 'bits': 32},
    'mono of eight bits': {'bits': 8},
  }.items():
    yield what, riff(form(**changed), sound)


def _is(*names: str):
  return lambda name: name in names


_TORCH = ('torch zip', 'torch pickle', 'torch networks')
_KINDS = {
  _is(
    'pickle', 'torch zip', 'torch pickle', 'torch old', 'torch networks'
  ): _pickle_attacks,
  _is('multibench'): _multibench_attacks,
  _is(*_TORCH): _torch_attacks,
  _is('torch old'): _old_torch_attacks,
  _is(*_VICTIMS): _hdf5_attacks,
  _is('hdf5 mmimdb'): _mmimdb_attacks,
  _is('hdf5 cells'): _cells_attacks,
  _is('hdf5 arrays'): _links_attacks,
  lambda name: name.startswith('matlab'): _matlab_attacks,
  _is('npy rows', 'npy map', 'npy label'): npy_attacks,
  _is('npz', 'npz predictions'): _npz_attacks,
  _is('npz', 'npz array'): _labels_attacks,
  lambda name: name.startswith(('csv', 'tsv')): _table_attacks,
  lambda name: name.startswith('list'): _list_attacks,
  _is('manifest', 'sealed json'): _json_attacks,
  lambda name: name.startswith('png'): _png_attacks,
  _is('jpeg'): _jpeg_attacks,
  _is('idx', 'idx gz'): _idx_attacks,
  _is('wav'): _wav_attacks,
}
