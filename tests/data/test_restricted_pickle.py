"""Pickles of arrays are read exactly; all others are refused, and nothing runs."""

import contextlib
import copyreg
import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jdyn.data.dataset import DataError
from jdyn.data.restricted_pickle import load_arrays

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
_RNG = np.random.default_rng(0)

ARRAYS = {
  'float32': _RNG.standard_normal((3, 2, 4)).astype('f4'),
  'big endian': np.arange(5, dtype='>f8'),
  'float16': np.arange(3, dtype='f2'),
  'integers': np.array([[-1, 2**40]]),
  'bytes': np.arange(256, dtype='u1'),
  'bool': np.array([True, False]),
  'complex': np.array([1 + 2j]),
  'fortran': np.asfortranarray(_RNG.standard_normal((3, 4))),
  'strided': _RNG.standard_normal((6, 4))[::2, ::-1],
  'zero-dimensional': np.array(3.5),
  'no rows': np.zeros((0, 7), 'f4'),
  'unicode': np.array(['a', 'été', '']),
  'byte strings': np.array([b'a', b'\xff\x01']),
}


def _write(tmp_path, data):
  path = tmp_path / 'data.pkl'
  path.write_bytes(data)
  return path


def _load(tmp_path, value, protocol=4):
  return load_arrays(_write(tmp_path, pickle.dumps(value, protocol)))


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('name', ARRAYS)
def test_arrays_come_back_as_they_were(tmp_path, name, protocol):
  loaded = _load(tmp_path, {'x': ARRAYS[name]}, protocol)['x']
  np.testing.assert_array_equal(loaded, ARRAYS[name], strict=True)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_plain_values_and_nesting(tmp_path, protocol):
  value = {
    'list': [1, -2.5, 10**30, True, None, 'é', b'\x00\xff', (), (1, (2, [3]))],
    7: {b'key': 'value'},
  }
  assert _load(tmp_path, value, protocol) == value


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_numpy_scalars(tmp_path, protocol):
  value = [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_('ab')]
  loaded = _load(tmp_path, value, protocol)
  assert loaded == value
  assert [type(item) for item in loaded] == [type(item) for item in value]


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_object_arrays_become_nested_lists(tmp_path, protocol):
  ids = np.array([['video', 1.5, None], [b'x', 'é', np.float64(2)]], object)
  assert _load(tmp_path, ids, protocol) == ids.tolist()
  assert _load(tmp_path, np.asfortranarray(ids), protocol) == ids.tolist()
  assert _load(tmp_path, np.array([], object), protocol) == []


def test_object_array_of_arrays_keeps_them(tmp_path):
  ragged = np.empty(2, object)
  ragged[:] = [np.arange(2), np.arange(3)]
  loaded = _load(tmp_path, ragged)
  for got, expected in zip(loaded, ragged, strict=True):
    np.testing.assert_array_equal(got, expected, strict=True)


def test_shared_array_stays_shared(tmp_path):
  array = np.arange(3)
  first, second = _load(tmp_path, [array, array])
  assert first is second


_DATA = np.array([1.5, -2.25, 3e-9], 'f4')
_PYTHON2 = {
  # What cPickle of Python 2.7 with NumPy 1.x writes for a float32 array.
  'protocol 2': (
    b'\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00'
    b'\x85q\x03U\x01bq\x04\x87q\x05Rq\x06(K\x01K\x03\x85q\x07cnumpy\ndtype\nq\x08U'
    b'\x02f4q\tK\x00K\x01\x87q\nRq\x0b(K\x03U\x01<q\x0cNNNJ\xff\xff\xff\xffJ\xff\xff'
    b'\xff\xffK\x00tq\rb\x89U\x0c' + _DATA.tobytes() + b'q\x0etq\x0fb.'
  ),
  'protocol 0': (
    b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\n"
    b"p4\ntp5\nRp6\n(I1\n(I3\ntp7\ncnumpy\ndtype\np8\n(S'f4'\np9\nI0\nI1\ntp10\nRp11\n"
    b"(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\nS'"
    + ''.join(f'\\x{byte:02x}' for byte in _DATA.tobytes()).encode()
    + b"'\np14\ntp15\nb."
  ),
}


@pytest.mark.parametrize('name', _PYTHON2)
def test_pickles_of_python_2(tmp_path, name):
  loaded = load_arrays(_write(tmp_path, _PYTHON2[name]))
  np.testing.assert_array_equal(loaded, _DATA, strict=True)


class _Calls:
  """An object whose pickle is a call."""

  def __init__(self, function, *arguments):
    self._call = (function, arguments)

  def __reduce__(self):
    return self._call


class _Instance:
  pass


class _Subclass(np.ndarray):
  pass


def _object_array(item):
  array = np.empty(1, object)
  array[0] = item
  return array


def _hostile():
  touch = 'touch marker'
  python = 'open("marker", "w")'
  system = _Calls(os.system, touch)
  values = {
    'os.system': system,
    'eval': _Calls(eval, python),
    'exec': _Calls(exec, python),
    'open': _Calls(open, 'marker', 'w'),
    'getattr': _Calls(getattr, 'a', 'upper'),
    'import': _Calls(__import__, 'os'),
    'subprocess': _Calls(subprocess.call, ['touch', 'marker']),
    'numpy.fromfile': _Calls(np.fromfile, '/dev/zero'),
    'in a dict': {'train': {'text': np.zeros(3), 'labels': system}},
    'as a key': {('a', system): 1},
    'in a tuple': ((), (system,)),
    'in an object array': _object_array(system),
    'instance': _Instance(),
    'class': _Instance,
    'function': os.system,
    'masked array': np.ma.array([1.0], mask=[True]),
    'array subclass': np.zeros(1).view(_Subclass),
    'structured array': np.zeros(2, [('a', 'f4')]),
    'set': {1, 2},
    'frozenset': frozenset({1}),
    'datetime': np.array(['2020-01-01'], 'M8[D]'),
    'array of slices': _object_array(slice(1)),
  }
  for name, value in values.items():
    for protocol in PROTOCOLS:
      yield f'{name}, protocol {protocol}', pickle.dumps(value, protocol)
  line = touch.encode()
  yield 'posix.system', b"cposix\nsystem\n(S'" + line + b"'\ntR."
  yield 'instance opcode', b"(S'" + line + b"'\nios\nsystem\n."
  yield 'object opcode', b"(cos\nsystem\nS'" + line + b"'\no."
  yield 'persistent id', b'Pid\n.'
  yield 'binary persistent id', b'Nq\x00Q.'
  yield 'copyreg', b'ccopyreg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.'
  yield (
    'attribute of an allowed name',
    b'\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.',
  )
  yield 'token as a value', b'cnumpy\nndarray\n.'
  yield 'token as a key', b'}cnumpy\nndarray\nI1\ns.'
  yield 'call of an argument', b'cnumpy\nndarray\n(I3\ntR.'
  yield 'state of a token', b"cnumpy\ndtype\n}(S'__call__'\nNub."
  yield 'state of a dict', b"}(S'a'\nI1\nu}b."
  yield 'array without a state', b'cnumpy.core.multiarray\n_reconstruct\n(NNNtR.'
  yield 'another codec', b'c_codecs\nencode\n(Va\nVrot13\ntR.'
  yield 'bytes of any size', b'c__builtin__\nbytes\n(I1000000000000\ntR.'
  yield 'out-of-band buffer', b'\x80\x05\x97.'
  scalar = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRVx\ntR."
  yield 'object scalar', scalar


@pytest.mark.parametrize(
  'data', [pytest.param(data, id=name) for name, data in _hostile()]
)
def test_hostile_pickle_is_refused_and_never_run(tmp_path, monkeypatch, data):
  monkeypatch.chdir(tmp_path)
  path = _write(tmp_path, data)
  with pytest.raises(DataError, match=r'data\.pkl'):
    load_arrays(path)
  assert os.listdir(tmp_path) == ['data.pkl']


def test_the_hostile_pickles_would_run_elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, data in _hostile():
    runs = name.startswith(('os.system', 'eval', 'exec', 'open', 'subprocess'))
    if runs and name.endswith('protocol 4'):
      pickle.Unpickler(io.BytesIO(data)).load()
      os.remove('marker')


@pytest.mark.parametrize(
  ('data', 'name'),
  [
    (pickle.dumps(_Calls(os.system, 'true')), r'posix\.system'),
    (pickle.dumps(_Calls(eval, '1'), 0), r'__builtin__\.eval'),
    (b'(ios\nsystem\n.', 'INST'),
    (b'\x82\x01.', 'EXT1'),
    (pickle.dumps(np.zeros(1, 'M8[s]')), 'M8'),
    (b'cnumpy\nndarray\n(I3\ntR.', r'a call of numpy\.ndarray'),
    (b'}}b.', 'a state for a dict'),
    (
      b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRVx\ntR.",
      'a scalar of obj',
    ),
  ],
)
def test_error_names_what_was_refused(tmp_path, data, name):
  with pytest.raises(DataError, match=name):
    load_arrays(_write(tmp_path, data))


def test_registered_extension_is_refused_even_when_cached(tmp_path):
  # A global that an earlier, unrestricted reader cached does not pass find_class.
  copyreg.add_extension('os', 'system', 0xF1)
  copyreg._extension_cache[0xF1] = os.system
  try:
    with pytest.raises(DataError, match='EXT1'):
      load_arrays(_write(tmp_path, b'\x82\xf1(Vtrue\ntR.'))
  finally:
    copyreg.remove_extension('os', 'system', 0xF1)


_HUGE = struct.pack('<Q', 2**40)
_OBJECTS = (
  b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
  b"(I1\n(I1000000000\nI0\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"
  b"(I3\nS'|'\nNNNI-1\nI-1\nI63\ntbI00\n(ltb."
)
_EMPTY_STRINGS = (
  b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
  b"(I1\n(I1000000000\ntcnumpy\ndtype\n(S'U0'\nI0\nI1\ntRI00\nS''\ntb."
)


# Three float32, and no bytes for them: never memory that happens to be there.
_NO_DATA = (
  b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
  b"(I1\n(I3\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntRI00\nS''\ntb."
)


@pytest.mark.parametrize(
  'data',
  [
    _NO_DATA,
    b'\x80\x04\x8e' + _HUGE + b'abc.',
    b'\x80\x05\x96' + _HUGE + b'abc.',
    b'\x80\x04\x8d' + _HUGE + b'abc.',
    b'\x80\x04\x95' + _HUGE + b'abc.',
    b'T\xff\xff\xff\x7fabc.',
    b'\x8b\xff\xff\xff\x7fabc.',
    _EMPTY_STRINGS,
    b'(' * 1000 + b'.',
    b']' + b'\x85' * 10_000 + b'.',
    b']q\x00h\x00a.',  # A list that contains itself.
  ],
)
def test_promised_sizes_are_not_believed(tmp_path, data):
  with pytest.raises(DataError):
    load_arrays(_write(tmp_path, data))


def test_large_claims_that_are_harmless_cost_nothing(tmp_path):
  # The C machine would allocate 64 GiB for the memo, NumPy 8 GB for the lists.
  assert load_arrays(_write(tmp_path, b'Nr\xff\xff\xff\xff.')) is None
  assert load_arrays(_write(tmp_path, _OBJECTS)) == []


def test_shared_lists_are_not_expanded(tmp_path):
  value = []
  for _ in range(12):  # 1000**12 leaves, were each reference followed.
    value = [value] * 1000
  loaded = _load(tmp_path, value)
  assert loaded[0] is loaded[999]


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_every_truncation_is_an_error(tmp_path, protocol):
  data = pickle.dumps({'x': np.arange(3.0), 'id': ['a', 'b']}, protocol)
  for size in range(len(data)):
    with pytest.raises(DataError):
      load_arrays(_write(tmp_path, data[:size]))


@settings(
  max_examples=300,
  deadline=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  protocol=st.sampled_from(list(PROTOCOLS)),
  changes=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1),
)
def test_damaged_files_raise_nothing_but_data_error(tmp_path, protocol, changes):
  array = np.array([['a', 'b']], object)
  value = {'x': np.arange(3.0), 'id': ['a', b'b'], 'o': array, 's': np.float32(1)}
  data = bytearray(pickle.dumps(value, protocol))
  for position, byte in changes:
    data[position % len(data)] = byte
  with contextlib.suppress(DataError):
    load_arrays(_write(tmp_path, data))


def test_file_that_is_absent_or_too_large(tmp_path):
  with pytest.raises(DataError, match='no such file'):
    load_arrays(tmp_path / 'data.pkl')
  path = _write(tmp_path, pickle.dumps(np.zeros(10)))
  with pytest.raises(DataError, match='max_bytes=100'):
    load_arrays(path, max_bytes=100)
