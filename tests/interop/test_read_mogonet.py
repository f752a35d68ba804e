"""MOGONET's networks are read if they fit one another."""

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.interop.mogonet import read_networks
from tests.interop import torch_files

VIEWS, CLASSES = 2, 3


def _networks():
  """Of two views of 5 and 4 features."""
  rng = np.random.default_rng(0)
  sizes = {1: (5, 7, 7, 6), 2: (4, 7, 8, 6)}
  joint = CLASSES**VIEWS
  shapes = {'C': {'model.0': (joint, joint), 'model.2': (CLASSES, joint)}}
  for i, widths in sizes.items():
    shapes[f'C{i}'] = {'clf.0': (CLASSES, widths[-1])}
    shapes[f'E{i}'] = {f'gc{k + 1}': widths[k : k + 2] for k in range(3)}
  found = {}
  for network, layers in shapes.items():
    found[network] = {}
    for name, shape in layers.items():
      outputs = shape[1] if network[0] == 'E' else shape[0]
      found[network][f'{name}.weight'] = rng.standard_normal(shape, np.float32)
      found[network][f'{name}.bias'] = rng.standard_normal(outputs, np.float32)
  return found


def _save(folder, networks):
  for name, tensors in networks.items():
    torch_files.save(folder / f'{name}.pth', tensors)


def test_all_networks_are_read(tmp_path):
  networks = _networks()
  _save(tmp_path, networks)
  found = read_networks(tmp_path, views=VIEWS)
  assert set(found) == set(networks)
  for network, tensors in networks.items():
    for name, value in tensors.items():
      np.testing.assert_array_equal(found[network][name], value)


@pytest.mark.parametrize(
  ('network', 'name', 'shape'),
  [
    ('C', 'model.2.bias', (4,)),
    ('C', 'model.0.weight', (9, 8)),
    ('C1', 'clf.0.weight', (3, 7)),
    ('C2', 'clf.0.bias', (3, 1)),
    ('E1', 'gc2.weight', (6, 7)),
    ('E2', 'gc3.bias', ()),
    ('E2', 'gc4.bias', (6,)),
  ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, network, name, shape):
  networks = _networks()
  networks[network][name] = np.zeros(shape, np.float32)
  _save(tmp_path, networks)
  with pytest.raises(DataError, match=rf'{network}\.pth: tensors of shapes'):
    read_networks(tmp_path, views=VIEWS)


def test_a_missing_network_is_named(tmp_path):
  networks = _networks()
  del networks['E2']
  _save(tmp_path, networks)
  with pytest.raises(DataError, match=r'E2\.pth: no such file'):
    read_networks(tmp_path, views=VIEWS)


def test_a_file_of_something_else_is_named(tmp_path):
  _save(tmp_path, _networks())
  torch_files.write(tmp_path / 'C1.pth', b'](K\x01e', {})
  with pytest.raises(DataError, match=r'C1\.pth: tensors of shapes'):
    read_networks(tmp_path, views=VIEWS)
