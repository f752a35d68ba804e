"""The state dict of DEQ fusion's omics model; its numbers are in tests/reference."""

import jax
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.encoders import MLP, Identity
from jdyn.fusions import MMDynamics
from jdyn.fusions.equilibrium_released import ReleasedEquilibrium
from jdyn.interop import deq_fusion, mm_dynamics
from jdyn.models import FeatureFusion
from tests.interop import released_mm_dynamics, torch_files

WIDTHS = dict(zip(mm_dynamics.VIEWS, (4, 3, 5), strict=True))
HIDDEN, CLASSES = 8, 2
MODEL = FeatureFusion(
  {view: Identity() for view in WIDTHS},
  MMDynamics(CLASSES, HIDDEN, fusion=ReleasedEquilibrium(weighted=False)),
  MLP(CLASSES),
)


def _state_dict():
  rng = np.random.default_rng(2)
  found = released_mm_dynamics.state_dict(WIDTHS, HIDDEN, CLASSES)
  layers = {f'{i}.{layer}': 2 for i in range(3) for layer in ('conv1', 'conv2')}
  layers |= {f'{i}.gn{k}': 1 for i in range(3) for k in (1, 2, 3)}
  layers |= {'3.gate': 2, '3.fuse': 2, '3.gn3': 1}
  for name, rank in layers.items():
    name = f'deq_fusion.func_.branches.{name}'
    found[f'{name}.weight'] = rng.standard_normal((HIDDEN,) * rank, np.float32)
    found[f'{name}.bias'] = rng.standard_normal(HIDDEN, np.float32)
  found['MMClasifier.0.clf.0.weight'] = rng.standard_normal((CLASSES, HIDDEN), 'f4')
  return found


def _convert(path, tensors):
  inputs = {view: np.zeros((1, width), np.float32) for view, width in WIDTHS.items()}
  template = jax.eval_shape(
    lambda: MODEL.init(jax.random.key(0), inputs, train=False, hparams={})
  )
  file = torch_files.save(path / 'BRCA_best.pt', tensors)
  return deq_fusion.convert(file, template)['params']


def test_every_tensor_finds_its_place(tmp_path):
  tensors = _state_dict()
  params = _convert(tmp_path, tensors)
  inner = params['fusion']['fusion']['map']
  block = 'deq_fusion.func_.branches'
  for name, got in {
    'MMClasifier.0.clf.0.weight': params['head']['dense_0']['kernel'].T,
    'FeatureEncoder.1.clf.0.bias': params['fusion']['encoder_methylation']['bias'],
    f'{block}.0.conv1.weight': inner['cell_mrna']['linear1']['kernel'].T,
    f'{block}.2.conv2.bias': inner['cell_mirna']['linear2']['bias'],
    f'{block}.1.gn2.weight': inner['cell_methylation']['norm2']['norm']['scale'],
    f'{block}.3.gate.weight': inner['combine']['gate']['kernel'].T,
    f'{block}.3.gn3.bias': inner['combine']['norm']['norm']['bias'],
  }.items():
    np.testing.assert_array_equal(got, tensors[name], err_msg=name)
  assert len(jax.tree.leaves(params)) == len(tensors)


def test_a_checkpoint_without_the_equilibrium_is_refused(tmp_path):
  tensors = released_mm_dynamics.state_dict(WIDTHS, HIDDEN, CLASSES)
  with pytest.raises(
    DataError, match=r"BRCA_best\.pt.*only the config's model has deq"
  ):
    _convert(tmp_path, tensors)
