"""Every reader of outside files in jdyn, with small valid files to start from.

Outside files are those that somebody else may have written: datasets, what datasets
are prepared from, released weights, and inputs to predict on. `READERS` are all that
read such bytes, and `MODULES` all modules of jdyn that open a file at all; a test
compares `MODULES` with the source code, so there are no others.
"""

import dataclasses
import functools
import gzip
import io
import json
import pickle
import struct
import tempfile
import wave
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from jdyn.data import (
  hdf5,
  image_files,
  knee_slices,
  prepare_avmnist,
  prepare_fastmri,
  rows,
)
from jdyn.data.dataset import ModalitySpec
from jdyn.data.files import read_labels, read_table
from jdyn.data.matlab import read_variable
from jdyn.data.mnist import read_idx
from jdyn.data.prepare_nyuv2 import read_classes, read_groups, read_splits
from jdyn.data.prepare_sunrgbd import read_examples
from jdyn.data.restricted_pickle import load_arrays
from jdyn.data.sealed import check_files, read_sealed, write_sealed
from jdyn.data.sources import SOURCES, mosi
from jdyn.interop.mogonet import read_networks
from jdyn.interop.torch_file import read_torch
from tests.interop import torch_files

OWN = ()
"""Files that jdyn wrote itself, or none from elsewhere: see `tests.faults.flips`."""

MODULES: Mapping[str, tuple[str, ...]] = {
  'data/files.py': ('csv table', 'csv labels', 'csv slices', 'csv annotations'),
  'data/hashing.py': OWN,  # Any bytes will do.
  'data/hdf5.py': ('hdf5 arrays', 'hdf5 slice', 'hdf5 cells', 'hdf5 frames'),
  'data/hdf5_heap.py': ('hdf5 arrays', 'hdf5 mmimdb'),
  'data/image_files.py': ('png', 'png chunks', 'png label', 'jpeg', 'npy label'),
  'data/matlab.py': ('matlab', 'matlab records', 'matlab tables'),
  'data/mnist.py': ('idx', 'idx gz'),
  'data/npy.py': ('npy rows', 'npy map', 'npz', 'npz array', 'npz predictions'),
  'data/preparation.py': OWN,
  'data/prepare_avmnist.py': OWN,
  'data/prepare_fastmri.py': ('csv names',),
  'data/restricted_pickle.py': ('pickle', 'multibench', 'mimic'),
  'data/sealed.py': ('sealed json',),
  'data/sources/avmnist.py': ('manifest',),
  'data/sources/mmimdb.py': ('hdf5 mmimdb',),
  'data/sources/mosi.py': ('csv transcripts', 'tsv labels'),
  'data/sources/nyuv2.py': ('list nyuv2',),
  'data/sources/sunrgbd.py': ('list sunrgbd',),
  'data/spoken_digits.py': ('wav',),
  'evaluators/predictions.py': ('npz predictions',),
  'evaluators/report/run.py': OWN,
  'interop/torch_file.py': (
    'torch zip',
    'torch pickle',
    'torch old',
    'torch networks',
  ),
  'ops/processor.py': OWN,  # What Linux tells of the processor.
  'training/board.py': OWN,
  'training/checkpoint.py': OWN,
  'training/logging.py': OWN,
  'training/workdir.py': OWN,
}
"""Every module that reads a file, and what reads it; names of modules in jdyn."""


@dataclasses.dataclass(frozen=True)
class Reader:
  """How one kind of outside file is read.

  Attributes:
    read: takes the path of the file.
    seeds: contents of valid files.
    file: its name, which may decide how it is read; may have folders.
    pack: makes what is mutated the file: compresses it, or sets its checksums right,
      so that mutations get behind them.
    beside: writes the files that belong to it into the folder.
    names: what an error must name; '' stands for the path of the file.
  """

  read: Callable[[Path], Any]
  seeds: Callable[[], list[bytes]]
  file: str = 'file'
  pack: Callable[[bytes], bytes] = bytes
  beside: Callable[[Path], None] = lambda folder: None
  names: str = ''


def _written(write: Callable[[Path], Any], name: str = 'file') -> bytes:
  """What a function writes to the path that it is given."""
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / name
    write(path)
    return path.read_bytes()


def _rng() -> np.random.Generator:
  return np.random.default_rng(0)


# Arrays in one file of the user's.


def _source(name: str, path: Path, **options: Any) -> Any:
  source = SOURCES[name](**options)
  return source.spec(path), source.load(path)


def own_arrays() -> dict[str, np.ndarray]:
  """A dataset of two splits as the source `arrays` reads it."""
  label = np.arange(8) % 2
  return {
    f'{split}/{name}': values
    for split in ('train', 'test')
    for name, values in {
      'x': np.arange(16, dtype='f4').reshape(8, 2),
      'steps': np.ones((8, 3, 2), 'f2'),
      'steps_length': np.full(8, 2, 'u1'),
      'x_present': label,
      'label': label,
      'id': np.array([f'{split}{row}' for row in range(8)]),
    }.items()
  }


def npz(arrays: Mapping[str, np.ndarray], compressed: bool = False) -> bytes:
  """A file of `np.savez`."""
  content = io.BytesIO()
  (np.savez_compressed if compressed else np.savez)(content, **arrays)
  return content.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
  """A file of `np.save`."""
  content = io.BytesIO()
  np.lib.format.write_array(content, np.asarray(array), **options)
  return content.getvalue()


def hdf5_file(fill: Callable[[h5py.File], Any], **options: Any) -> bytes:
  """A file that a function fills."""

  def write(path: Path) -> None:
    with h5py.File(path, 'w', **options) as file:
      fill(file)

  return _written(write)


def _hdf5_arrays(**options: Any) -> bytes:
  def fill(file):
    for name, values in own_arrays().items():
      if name.endswith(('/x', 'label')):
        file.create_dataset(name, data=values, **options)
    file['train/id'] = own_arrays()['train/id'].astype('S')
    file['test/id'] = own_arrays()['test/id'].astype(object)

  return hdf5_file(fill)


def _in_npz(member: bytes) -> bytes:
  """An archive whose first array is the bytes given, with a right checksum."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, values in own_arrays().items():
      whole = member if name == 'train/x' else npy(values)
      archive.writestr(f'{name}.npy', whole)
  return content.getvalue()


# Pickles.


def _multibench() -> bytes:
  def part(size):
    return {
      'text': np.ones((size, 2, 300), 'u1'),
      'audio': np.ones((size, 2, 74), 'u1'),
      'vision': np.ones((size, 2, 35), 'u1'),
      'labels': np.linspace(-3, 3, size).reshape(-1, 1, 1),
      'id': np.array([[f'v{row}', 0.5, 1.5] for row in range(size)], object),
    }

  return pickle.dumps({name: part(2) for name in ('train', 'valid', 'test')})


def _mimic() -> bytes:
  size = 10
  content = {
    'ep_tdata': np.ones((size, 24, 12), 'u1'),
    'adm_features_all': np.ones((size, 5), 'f4'),
    'adm_labels_all': np.eye(size, 6, dtype='i1'),
    'y_icd9': np.zeros((size, 20), 'i1'),
  }
  return pickle.dumps(content, protocol=4)


def _pickles() -> list[bytes]:
  value = {
    'x': np.arange(6, dtype='f4').reshape(2, 3),
    'names': np.array(['a', 'b']),
    'ids': np.array([['v', 1.5], ['w', None]], object),
    'rest': [1, -2.5, 10**30, b'x', ('y', {}), np.float32(1), True],
  }
  return [pickle.dumps(value, protocol) for protocol in range(6)]


# Weights.


def _weights() -> dict[str, np.ndarray]:
  return {
    'a.weight': np.arange(6, dtype='f4').reshape(3, 2),
    'a.bias': np.zeros(3, 'f4'),
  }


def _torch(**options: Any) -> bytes:
  return _written(lambda path: torch_files.save(path, _weights(), **options))


def in_torch_zip(program: bytes) -> bytes:
  """An archive of `torch.save` with the pickle given and a right checksum."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as archive:
    archive.writestr('archive/data.pkl', program)
    for key, values in enumerate(_weights().values()):
      archive.writestr(f'archive/data/{key}', values.tobytes())
  return content.getvalue()


def _torch_program(**options: Any) -> bytes:
  with zipfile.ZipFile(io.BytesIO(_torch(**options))) as archive:
    return archive.read('archive/data.pkl')


def _read_weights(path: Path) -> Any:
  from jdyn.interop.state_dict import read_params, read_state_dict  # Imports JAX.

  template = {'a': {'kernel': np.zeros((2, 3)), 'bias': np.zeros(3)}}
  places = {'a.weight': ('a', 'kernel'), 'a.bias': ('a', 'bias')}
  return read_params(path, read_state_dict(path), places, template)


def _mogonet(folder: Path) -> None:
  def save(name, shapes):
    tensors = {key: np.zeros(shape, 'f4') for key, shape in shapes.items()}
    torch_files.save(folder / f'{name}.pth', tensors)

  layers = [(f'gc{i}.{what}', (2, 2)[: 3 - n]) for i in (1, 2, 3) for n, what in _PARTS]
  save('E1', dict(layers))
  save('C1', {'clf.0.weight': (2, 2), 'clf.0.bias': (2,)})
  joint = {'model.0.weight': (2, 2), 'model.0.bias': (2,)}
  save('C', joint | {'model.2.weight': (2, 2), 'model.2.bias': (2,)})


_PARTS = ((1, 'weight'), (2, 'bias'))


def _mogonet_classifier() -> list[bytes]:
  with tempfile.TemporaryDirectory() as folder:
    _mogonet(Path(folder))
    return [(Path(folder) / 'C1.pth').read_bytes()]


# HDF5.


def _mmimdb() -> bytes:
  size = 3
  names = json.dumps([f'genre {number}' for number in range(23)])
  borders = {b'train': (0, 1), b'dev': (1, 2), b'test': (2, 3)}
  columns = [('split', 'S5'), ('source', 'S12'), ('start', 'i8'), ('stop', 'i8')]
  stated = [
    (split, source, *rows)
    for split, rows in borders.items()
    for source in (b'features', b'vgg_features', b'genres')
  ]

  def fill(file):
    small = {'compression': 'gzip', 'chunks': True}
    file.create_dataset('features', data=np.ones((size, 300), 'f2'), **small)
    file.create_dataset('vgg_features', data=np.ones((size, 4096), 'f2'), **small)
    file['genres'] = np.ones((size, 23), 'u1')
    file['imdb_ids'] = np.array(['1', '2', '3'], 'S7')
    file['genres'].attrs['target_names'] = names
    file.attrs['split'] = np.array(stated, columns)

  return hdf5_file(fill)


def _knee(compression: str | None) -> bytes:
  def write(path: Path) -> None:
    values = np.arange(40).reshape(8, 5).astype('c8')
    arrays = {'sc_kspace': values, 'sampled_indices': np.array([0, 5])}
    knee_slices.write_slice(path, arrays, ('ACL',), compression=compression)

  return _written(write)


def _cells() -> bytes:
  def fill(file):
    cells = [
      file.create_dataset(f'refs/{i}', data=np.ones((3, 4), 'f4')) for i in (0, 1)
    ]
    listed = np.array([[cell.ref] for cell in cells], h5py.ref_dtype)
    file.create_dataset('SUNRGBD2Dseg/seglabel', data=listed)

  return hdf5_file(fill, userblock_size=512)


def _read_cells(path: Path) -> Any:
  with hdf5.open_file(path) as file:
    cells = hdf5.references(file, 'SUNRGBD2Dseg/seglabel')
    return [hdf5.read(file, cell, shape=(None, None), kinds='uif') for cell in cells]


def _frames(libver: str) -> bytes:
  def fill(file):
    data = np.zeros((2, 3, 4, 5), 'u1')
    file.create_dataset('images', data=data, chunks=(1, 3, 4, 5), compression='gzip')
    file.create_dataset('depths', data=np.ones((2, 4, 5), 'f4'), shuffle=True)
    file.create_dataset('names', data=['a', 'bc'], dtype=h5py.string_dtype())

  return hdf5_file(fill, libver=libver)


def _read_frames(path: Path) -> Any:
  with hdf5.open_file(path) as file:
    names = hdf5.children(file)
    images = hdf5.find(file, 'images', shape=(None, 3, None, None), kinds='u')
    shape = (len(images), *images.shape[2:])
    depths = hdf5.find(file, 'depths', shape=shape, kinds='f')
    texts = hdf5.read(file, 'names', kinds='SO')
    return names, [(images[i], depths[i]) for i in range(min(len(images), 4))], texts


# MATLAB.


def matlab_file(compressed: bool = True, **variables: Any) -> bytes:
  """A file of version 5 or 7."""
  content = io.BytesIO()
  scipy.io.savemat(content, variables, do_compression=compressed)
  return content.getvalue()


def _records() -> dict[str, Any]:
  root = '/n/fs/sun3d/data/SUNRGBD/kv1/a/b'
  columns = [('rgbpath', 'O'), ('rgbname', 'O'), ('depthname', 'O')]
  row = (f'{root}/image/1.jpg', '1.jpg', '1.png')
  return {
    'SUNRGBDMeta': np.array([row], columns),
    'alltrain': np.array([root], object),
    'alltest': np.array([f'{root}2', f'{root}3'], object),
  }


def _tables() -> dict[str, Any]:
  return {
    'trainNdxs': np.array([[1], [3]]),
    'testNdxs': np.array([[2.0]]),
    'mapClass': np.ones((1, 894), 'u1'),
    'classMapping13': {'labels13': np.ones((1, 40))},
  }


def in_matlab(data: bytes) -> bytes:
  """A file whose variables are compressed anew, so that mutations get behind that."""
  head, *parts = data[:128], *_matlab_parts(data[128:])
  packed = [zlib.compress(part) for part in parts]
  return head + b''.join(struct.pack('<II', 15, len(p)) + p for p in packed)


def _matlab_parts(data: bytes) -> list[bytes]:
  parts = []
  while len(data) >= 8:
    size = 8 + int.from_bytes(data[4:8], 'little')
    parts.append(data[:size])
    data = data[size:]
  return parts


def _read_records(path: Path) -> Any:
  return read_examples(path, path)


def _read_tables(path: Path) -> Any:
  return (
    read_splits(path, 3),
    read_classes(path),
    read_groups(path),
    read_variable(path, 'trainNdxs'),
  )


# Tables and lists.


def _avmnist(folder: Path) -> None:
  data = {'image': np.zeros((12, 784), 'u1'), 'audio': np.zeros((12, 112, 112), 'u1')}
  for part in ('train', 'test'):
    for name, values in data.items():
      (folder / name).mkdir(parents=True, exist_ok=True)
      np.save(folder / name / f'{part}_data.npy', values)
    np.save(folder / f'{part}_labels.npy', np.arange(12) % 10)


def _seeds_of_avmnist() -> list[bytes]:
  return [npy(np.arange(12, dtype=kind) % 10) for kind in ('u1', '>i4')]


def _manifest() -> list[bytes]:
  ids = {part: [f'{row}' for row in range(12)] for part in ('train', 'test')}
  return [
    json.dumps({'ids': ids}, indent=1).encode(),
    b'{"counts": {"x": [1.5, null]}}',
  ]


def _knee_table() -> list[bytes]:
  slices = [
    knee_slices.Slice('file1', 0, ('ACL', 'cartilage'), 'train'),
    knee_slices.Slice('file2', 1, (), ''),
  ]
  return [_written(lambda path: knee_slices.write_table(path, slices))]


_ANNOTATIONS = (
  b'file,slice,study_level,x,label\nfile1,3,No,1,"ACL, high"\nfile1,4,,,Tear\n'
)


# Images, sound.


def image(suffix: str, array: np.ndarray) -> bytes:
  """A PNG or JPEG."""
  return _written(lambda path: image_files.write(path, array), f'file{suffix}')


def png_chunks(data: bytes) -> bytes:
  """A PNG whose checksums are right, whatever its chunks hold."""
  parts, place = [data[:8]], 8
  while place + 12 <= len(data):
    size = int.from_bytes(data[place : place + 4], 'big')
    chunk = data[place + 4 : place + 8 + size]
    parts += [data[place : place + 4], chunk, zlib.crc32(chunk).to_bytes(4, 'big')]
    place += 12 + size
  return b''.join(parts)


def _color() -> np.ndarray:
  return _rng().integers(0, 256, (6, 5, 3), dtype='u1')


def _read_image(kind: image_files.Kind, path: Path) -> Any:
  return image_files.shape_of(path, kind), image_files.read(path, kind)


def _read_label(path: Path) -> Any:
  return image_files.shape_of(path, image_files.LABEL), image_files.read_label(path, 37)


def wav(samples: np.ndarray) -> bytes:
  """A recording of 8 kHz."""
  content = io.BytesIO()
  with wave.open(content, 'wb') as file:
    file.setparams((1, 2, 8000, 0, 'NONE', ''))
    file.writeframes(samples.astype('<i2').tobytes())
  return content.getvalue()


def idx(array: np.ndarray) -> bytes:
  """A file of MNIST."""
  header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
  return header + array.astype('u1').tobytes()


def _read_rows(path: Path) -> Any:
  spec = {'x': ModalitySpec((4,)), 'steps': ModalitySpec((3, 2), sequence=True)}
  plain = rows.FileRows({'x': [path]}, {'x': spec['x']})
  try:
    return plain.read()
  except ValueError:  # One of the two shapes cannot fit.
    steps = rows.FileRows({'steps': [path]}, {'steps': spec['steps']})
    return steps.read()


def _read_predictions(path: Path) -> Any:
  from jdyn.evaluators.predictions import Predictions  # Imports JAX.

  return Predictions.load(path)


def _predictions() -> bytes:
  from jdyn.evaluators.predictions import Predictions

  predictions = Predictions(
    ids=np.array(['a', 'b', 'c']),
    label=np.arange(3),
    logits=np.zeros((2, 3, 4), 'f4'),
    expert_logits={'joint': np.zeros((2, 3, 4), 'f4')},
    weights={'joint': np.ones((2, 3), 'f4')},
    about={'split': 'test', 'stage': 'main'},
  )
  return _written(predictions.save, 'predictions.npz')


def _sealed() -> list[bytes]:
  return [_written(lambda path: write_sealed(path, {'x': [1, 2.5, None]}))]


READERS: Mapping[str, Reader] = {
  'pickle': Reader(load_arrays, _pickles),
  'multibench': Reader(
    lambda path: _source('mosei', path.parent, file='mosei_senti_data.pkl'),
    lambda: [_multibench()],
    file='mosei_senti_data.pkl',
  ),
  'mimic': Reader(
    lambda path: _source('mimic', path.parent), lambda: [_mimic()], file='im.pk'
  ),
  'torch zip': Reader(
    read_torch, lambda: [_torch(), _torch(training=True)], file='file.pt'
  ),
  'torch pickle': Reader(
    _read_weights,
    lambda: [_torch_program(), _torch_program(training=True)],
    file='file.pt',
    pack=in_torch_zip,
  ),
  'torch old': Reader(
    _read_weights,
    lambda: [_torch(old=True), _torch(old=True, training=True)],
    file='file.pth',
  ),
  'torch networks': Reader(
    lambda path: read_networks(path.parent, views=1),
    _mogonet_classifier,
    file='C1.pth',
    beside=_mogonet,
    names='folder',
  ),
  'hdf5 arrays': Reader(
    functools.partial(_source, 'arrays'),
    lambda: [_hdf5_arrays(), _hdf5_arrays(compression='gzip')],
    file='data.hdf5',
  ),
  'hdf5 mmimdb': Reader(
    lambda path: _source('mmimdb', path.parent),
    lambda: [_mmimdb()],
    file='multimodal_imdb.hdf5',
  ),
  'hdf5 slice': Reader(
    lambda path: knee_slices.read_image(path, 4),
    lambda: [_knee(None), _knee('gzip'), _knee('lzf')],
  ),
  'hdf5 cells': Reader(_read_cells, lambda: [_cells()]),
  'hdf5 frames': Reader(_read_frames, lambda: [_frames('earliest'), _frames('latest')]),
  'matlab': Reader(
    _read_records,
    lambda: [matlab_file(**_records()), matlab_file(False, **_records())],
  ),
  'matlab records': Reader(
    _read_records, lambda: [matlab_file(False, **_records())], pack=in_matlab
  ),
  'matlab tables': Reader(
    _read_tables, lambda: [matlab_file(False, **_tables())], pack=in_matlab
  ),
  'npy rows': Reader(
    _read_rows,
    lambda: [
      npy(np.ones(4, 'f4')),
      npy(np.ones((2, 2))),
      npy(np.ones(4), version=(2, 0)),
    ],
    file='file.npy',
  ),
  'npy map': Reader(
    lambda path: _source('avmnist', path.parent),
    _seeds_of_avmnist,
    file='train_labels.npy',
    beside=_avmnist,
    names='folder',
  ),
  'npz': Reader(
    functools.partial(_source, 'arrays'),
    lambda: [npz(own_arrays()), npz(own_arrays(), compressed=True)],
    file='data.npz',
  ),
  'npz array': Reader(
    functools.partial(_source, 'arrays'),
    lambda: [npy(own_arrays()['train/x']), npy(np.array(['a', 'b']))],
    file='data.npz',
    pack=_in_npz,
  ),
  'npz predictions': Reader(
    _read_predictions, lambda: [_predictions()], file='predictions.npz'
  ),
  'csv table': Reader(
    lambda path: read_table(path, columns=3),
    lambda: [b'1,2.5,-3e-4\n"4","5",nan\n', b'1,2,3\r\n4,5,6'],
    file='file.csv',
  ),
  'csv labels': Reader(
    lambda path: read_labels(path, 5), lambda: [b'0\n1\n4\n', b'0.000e+00\n1.0\n']
  ),
  'csv slices': Reader(knee_slices.read_table, _knee_table, file='metadata_knee.csv'),
  'csv annotations': Reader(
    prepare_fastmri.read_annotations, lambda: [_ANNOTATIONS], file='knee.csv'
  ),
  'csv names': Reader(
    prepare_fastmri.read_names, lambda: [b'a\nb\nc\nd\n'], file='list.csv'
  ),
  'csv transcripts': Reader(
    mosi._read_transcripts,
    lambda: [b'"a_b_1","SAID, ONCE","2","1"\n"c_2","X ""Y"" Z","3","0"\n'],
    file='transcripts.csv',
  ),
  'tsv labels': Reader(
    mosi._read_label_file,
    lambda: [b'text\tlabel\r\nSaid once \t-2.4\r\nx y\t3.0\r\n'],
    file='test.tsv',
  ),
  'list nyuv2': Reader(
    lambda path: SOURCES['nyuv2']().files(path.parent),
    lambda: [b'0001\n0002\n'],
    file='train.txt',
    beside=lambda folder: (folder / 'test.txt').write_text('0003\n'),
    names='folder',
  ),
  'list sunrgbd': Reader(
    lambda path: SOURCES['sunrgbd']().files(path.parent),
    lambda: [b'kv1/a/image/1.jpg\nkv1/b/image/2.jpg\n'],
    file='train_rgb.txt',
    beside=lambda folder: _sunrgbd_lists(folder),
    names='folder',
  ),
  'manifest': Reader(
    lambda path: _source('avmnist', path.parent),
    _manifest,
    file='manifest.json',
    beside=_avmnist,
    names='folder',
  ),
  'sealed json': Reader(
    lambda path: (read_sealed(path), check_files(path)), _sealed, file='file.json'
  ),
  'png': Reader(
    functools.partial(_read_image, image_files.RGB),
    lambda: [image('.png', _color())],
    file='file.png',
  ),
  'png chunks': Reader(
    functools.partial(_read_image, image_files.DEPTH),
    lambda: [image('.png', _color()[..., 0].astype('u2') * 200)],
    file='file.png',
    pack=png_chunks,
  ),
  'png label': Reader(
    _read_label,
    lambda: [image('.png', _color()[..., 0] % 37)],
    file='file.png',
    pack=png_chunks,
  ),
  'jpeg': Reader(
    functools.partial(_read_image, image_files.RGB),
    lambda: [image('.jpg', _color())],
    file='file.jpg',
  ),
  'npy label': Reader(
    _read_label, lambda: [npy(_color()[..., 0] % 37)], file='label.npy'
  ),
  'idx': Reader(read_idx, lambda: [idx(np.ones((2, 3, 4))), idx(np.arange(5))]),
  'idx gz': Reader(
    read_idx, lambda: [gzip.compress(idx(np.ones((2, 3, 4))), mtime=0)], file='file.gz'
  ),
  'wav': Reader(
    lambda path: prepare_avmnist._recording_spectrogram(path, prepare_avmnist.Recipe()),
    lambda: [wav(_rng().integers(-99, 99, 2000)), wav(np.zeros(300))],
    file='0_a_0.wav',
  ),
}


def _sunrgbd_lists(folder: Path) -> None:
  lines = {'rgb': 'image/{}.jpg', 'depth': 'depth_bfx/{}.png', 'label': 'label/{}.npy'}
  for part in ('train', 'test'):
    for kind, line in lines.items():
      listed = ''.join(f'kv1/{x}/{line.format(n)}\n' for n, x in ((1, 'a'), (2, 'b')))
      (folder / f'{part}_{kind}.txt').write_text(listed)
