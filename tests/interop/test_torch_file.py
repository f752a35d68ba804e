"""Tensors of PyTorch files are read exactly; all else is refused, and nothing runs."""

import contextlib
import os
import pickle
import zipfile

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.interop.torch_file import read_torch
from tests.interop import torch_files
from tests.interop.torch_files import ORDERED_DICT, mapping, storage, tensor, text

_RNG = np.random.default_rng(0)
_VALUES = _RNG.standard_normal(24).astype('f4')
_DATA = {'archive/data/0': _VALUES.tobytes()}
_OLD_DATA = {'0': torch_files.old_storage(_VALUES)}


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'model.pt'


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
@pytest.mark.parametrize('dtype', torch_files.KINDS)
def test_values_come_back_in_their_types(path, dtype, old):
  values = (10 * _RNG.standard_normal((3, 2))).astype(dtype)
  tensors = {'a.weight': values, 'a.bias': values[0]}
  got = read_torch(torch_files.save(path, tensors, old=old))
  assert list(got) == ['a.weight', 'a.bias']
  np.testing.assert_array_equal(got['a.weight'], values, strict=True)
  np.testing.assert_array_equal(got['a.bias'], values[0], strict=True)


def test_shapes_and_strides_are_those_of_the_tensor(path):
  source = storage('0', 24)
  program = mapping(
    {
      'whole': tensor(source, (4, 6), (6, 1)),
      'transposed': tensor(source, (6, 4), (1, 6)),
      'sliced': tensor(source, (2, 3), (12, 2), offset=1),
      'scalar': tensor(source, (), (), offset=23),
      'empty': tensor(source, (0, 5), (5, 1)),
    }
  )
  got = read_torch(torch_files.write(path, program, _DATA))
  whole = _VALUES.reshape(4, 6)
  want = dict(
    whole=whole,
    transposed=whole.T,
    sliced=whole[::2, 1::2],
    scalar=np.asarray(whole[3, 5]),
    empty=np.zeros((0, 5), 'f4'),
  )
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, strict=True)
  with pytest.raises(ValueError, match='read-only'):
    got['whole'][0] = 1


def test_a_checkpoint_of_several_things(path):
  plain = b'}(' + text('epoch') + b'I7\n' + text('model')
  weights = mapping({'w': tensor(storage('0', 24), (24,), (1,))})
  losses = text('losses') + b'](G?\xe0\x00\x00\x00\x00\x00\x00Ne'
  got = read_torch(torch_files.write(path, plain + weights + losses + b'u', _DATA))
  assert got['epoch'] == 7
  assert got['losses'] == [0.5, None]
  assert type(got['model']) is dict
  np.testing.assert_array_equal(got['model']['w'], _VALUES)


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
def test_what_stands_beside_the_tensors(path, old):
  got = read_torch(torch_files.save(path, {'w': _VALUES}, old=old, training=True))
  assert (got['epoch'], got['best_miou']) == (3, 0.5)
  momentum = got['optimizer']['state'][0]['momentum_buffer']
  for values in (got['state_dict']['w'], momentum):
    np.testing.assert_array_equal(values, _VALUES, strict=True)


@pytest.mark.parametrize('order', ['little', 'big'])
def test_the_byte_order_is_that_of_the_file(path, order):
  data = _VALUES.astype('<f4' if order == 'little' else '>f4').tobytes()
  records = {'archive/byteorder': order.encode(), 'archive/data/0': data}
  program = tensor(storage('0', 24), (24,), (1,))
  got = read_torch(torch_files.write(path, program, records))
  np.testing.assert_array_equal(got, _VALUES, strict=True)


_SYSTEM = b"cposix\nsystem\n(S'touch marker'\ntR"
_FLAT = tensor(storage('0', 24), (24,), (1,))
_REFUSED = {
  'call of os.system': (_SYSTEM, r'posix\.system'),
  'call in a state dict': (mapping({'w': _SYSTEM}), r'posix\.system'),
  'call as an argument': (tensor(_SYSTEM, (1,), (1,)), r'posix\.system'),
  'call as attributes': (ORDERED_DICT + _SYSTEM + b'b', r'posix\.system'),
  'call as a persistent id': (_SYSTEM + b'Q', r'posix\.system'),
  'eval': (b"c__builtin__\neval\n(S'1'\ntR", r'__builtin__\.eval'),
  'module class': (b'cmodel\nMMDynamic\n)\x81}b', r'model\.MMDynamic'),
  'other function of torch': (b'ctorch.hub\nload\n)R', r'torch\.hub\.load'),
  'numpy': (b'cnumpy\nndarray\n)R', r'numpy\.ndarray'),
  'instance': (b"(S'touch marker'\nios\nsystem\n", 'INST'),
  'new object': (ORDERED_DICT + b')\x81', 'NEWOBJ'),
  'text as persistent id': (b'P0\n', 'PERSID'),
  'other persistent id': (
    b'(' + text('module') + text('a') * 4 + b'tQ',
    r"persistent id \('module'",
  ),
  'persistent id of another kind': (
    b'(' + text('module') + b'ctorch\nFloatStorage\n' + text('0') * 2 + b'I24\ntQ',
    r"persistent id \('module'",
  ),
  'call of a storage type': (b'ctorch\nFloatStorage\n)R', 'a call of torch.FloatSt'),
  'storage type as a value': (b'ctorch\nFloatStorage\n', 'a Global as a value'),
  'storage as a value': (storage('0', 24), 'a _Storage as a value'),
  'state of a tensor': (_FLAT + b'}b', 'a state for a (ndarray|NoneType)'),
}


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
@pytest.mark.parametrize('case', _REFUSED)
def test_what_is_no_tensor_is_refused_and_never_run(path, monkeypatch, case, old):
  program, message = _REFUSED[case]
  monkeypatch.chdir(path.parent)
  if old:
    torch_files.write_old(path, program, _OLD_DATA)
  else:
    torch_files.write(path, program, _DATA)
  with pytest.raises(DataError, match=rf'model\.pt: .*{message}'):
    read_torch(path)
  assert os.listdir(path.parent) == ['model.pt']


def test_the_call_would_run_elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pickle.loads(b'\x80\x02' + _SYSTEM + b'.')
  assert os.listdir(tmp_path) == ['marker']


_TENSOR_AS_STORAGE = tensor(tensor(storage('0', 24), (1,), (1,)), (1000,), (1,))
_WRONG = {
  'fewer bytes than promised': (tensor(storage('0', 25), (5,), (1,)), '25 promised'),
  'more bytes than promised': (tensor(storage('0', 23), (5,), (1,)), '23 promised'),
  'another type': (tensor(storage('0', 24, 'Double'), (5,), (1,)), '24 promised'),
  'no such storage': (tensor(storage('1', 24), (5,), (1,)), 'no record archive/data/1'),
  'storage outside': (tensor(storage('../version', 1), (1,), (1,)), 'no record'),
  'too long': (tensor(storage('0', 24), (25,), (1,)), r'shape \(25,\)'),
  'too far': (tensor(storage('0', 24), (5,), (1,), offset=20), 'at 20'),
  'too wide': (tensor(storage('0', 24), (5,), (6,)), r'strides \(6,\)'),
  'expanded': (tensor(storage('0', 24), (10**12,), (0,)), 'strides'),
  'huge': (tensor(storage('0', 24), (2**62, 4), (0, 0)), 'strides'),
  'backwards': (tensor(storage('0', 24), (5,), (-1,), offset=9), r'strides \(-1,\)'),
  'before the start': (tensor(storage('0', 24), (5,), (1,), offset=-1), 'at -1'),
  'shape without strides': (tensor(storage('0', 24), (5, 1), (1,)), 'ValueError'),
  'tensor as storage': (_TENSOR_AS_STORAGE, 'without a storage'),
  'list as storage': (tensor(b']', (1,), (1,)), 'without a storage'),
}


@pytest.mark.parametrize('case', _WRONG)
def test_sizes_that_do_not_fit_are_errors(path, case):
  program, message = _WRONG[case]
  torch_files.write(path, program, _DATA)
  with pytest.raises(DataError, match=rf'model\.pt: .*{message}'):
    read_torch(path)


def test_damaged_archives_are_errors(path):
  torch_files.write(path, _FLAT, _DATA, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(DataError, match=r'model\.pt: .*compressed'):
    read_torch(path)
  torch_files.write(path, _FLAT, {**_DATA, 'other/data.pkl': b'N.'})
  with pytest.raises(DataError, match=r'model\.pt: .*2 records data\.pkl'):
    read_torch(path)
  with pytest.warns(UserWarning, match='Duplicate'):
    torch_files.write(path, _FLAT, {**_DATA, 'archive/data.pkl': b'N.'})
  with pytest.raises(DataError, match=r'model\.pt: .*two records of one name'):
    read_torch(path)
  torch_files.write(path, _FLAT, _DATA)
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('archive/more', b'')
    archive.filelist[1].file_size = 10**9
  with pytest.raises(DataError, match=r'model\.pt: .*larger than the file'):
    read_torch(path)


_OLD = tensor(storage('0', 24, view=b'N'), (24,), (1,))
_OLD_WRONG = {
  'another magic number': (_OLD, _OLD_DATA, {'magic': b'I1\n'}, 'magic number'),
  'another version': (_OLD, _OLD_DATA, {'version': 1002}, 'version'),
  'a storage less': (_OLD, {}, {}, '1 storages promised, 0 there'),
  'a storage more': (b'N', _OLD_DATA, {}, '0 storages promised, 1 there'),
  'no list of storages': (_OLD, _OLD_DATA, {'names': b'N'}, 'not a whole file'),
  'a length that is no integer': (
    tensor(
      b'(' + text('storage') + b'ctorch\nFloatStorage\n' + text('0') * 2 + b'F24\nNtQ',
      (24,),
      (1,),
    ),
    _OLD_DATA,
    {},
    'not a whole file',
  ),
  'another length': (
    tensor(storage('0', 23, view=b'N'), (23,), (1,)),
    _OLD_DATA,
    {},
    'storage 0: 23 values promised, and not there',
  ),
  'two lengths': (
    b'](' + _OLD + tensor(storage('0', 23, view=b'N'), (23,), (1,)) + b'e',
    {'0': torch_files.old_storage(_VALUES[:23])},
    {},
    'storage 0: 24 promised, 23 there',
  ),
  'two types': (
    b'](' + _OLD + tensor(storage('0', 24, 'Double', b'N'), (24,), (1,)) + b'e',
    _OLD_DATA,
    {},
    'storage 0 is cut off',
  ),
  'negative length': (
    tensor(storage('0', -1, view=b'N'), (0,), (1,)),
    {'0': b'\xff' * 8},
    {},
    'storage 0: -1 values promised',
  ),
  'huge length': (
    tensor(storage('0', 2**60, view=b'N'), (1,), (1,)),
    {'0': (2**60).to_bytes(8, 'little')},
    {},
    'storage 0 is cut off',
  ),
  'a view of another storage': (
    tensor(storage('0', 24, view=b'(' + text('1') + b'I0\nI24\nt'), (24,), (1,)),
    _OLD_DATA,
    {},
    'the persistent id',
  ),
}


@pytest.mark.parametrize('case', _OLD_WRONG)
def test_files_of_the_older_format_that_do_not_fit_are_errors(path, case):
  program, storages, options, message = _OLD_WRONG[case]
  torch_files.write_old(path, program, storages, **options)
  with pytest.raises(DataError, match=rf'model\.pt: .*{message}'):
    read_torch(path)


def test_a_name_that_leads_out_of_the_archive_is_no_path(path):
  torch_files.write(path, _FLAT, {**_DATA, '../../evil': b'x', '/tmp/evil': b'x'})
  np.testing.assert_array_equal(read_torch(path), _VALUES)
  assert os.listdir(path.parent) == ['model.pt']


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
def test_every_truncation_is_an_error(path, old):
  data = torch_files.save(path, {'w': _VALUES}, old=old).read_bytes()
  for size in range(0, len(data), 3):
    path.write_bytes(data[:size])
    with pytest.raises(DataError, match=r'model\.pt'):
      read_torch(path)


def test_a_changed_byte_of_the_older_format_is_no_other_error(path):
  data = bytearray(torch_files.save(path, {'w': _VALUES}, old=True).read_bytes())
  for place in range(len(data) - _VALUES.nbytes):
    data[place] ^= 0xFF
    path.write_bytes(data)
    with contextlib.suppress(DataError):
      read_torch(path)
    data[place] ^= 0xFF


def test_a_changed_byte_is_an_error_or_of_no_effect(path):
  data = bytearray(torch_files.save(path, {'w': _VALUES}).read_bytes())
  errors = 0
  for place in range(len(data)):
    data[place] ^= 0xFF
    path.write_bytes(data)
    try:
      np.testing.assert_array_equal(read_torch(path)['w'], _VALUES)
    except DataError:
      errors += 1
    data[place] ^= 0xFF
  assert errors > len(data) / 2


def test_a_storage_that_many_share_is_read_once(path, monkeypatch):
  program = b'](' + tensor(storage('0', 24), (24,), (1,)) * 100 + b'e'
  torch_files.write(path, program, _DATA)
  read, names = zipfile.ZipFile.read, []

  def spy(self, record):
    names.append(record.filename)
    return read(self, record)

  monkeypatch.setattr(zipfile.ZipFile, 'read', spy)
  assert len(read_torch(path)) == 100
  assert names.count('archive/data/0') == 1


def test_a_file_that_is_absent_or_too_large(path):
  with pytest.raises(DataError, match='no such file'):
    read_torch(path)
  torch_files.save(path, {'w': _VALUES})
  with pytest.raises(DataError, match='max_bytes=100'):
    read_torch(path, max_bytes=100)
