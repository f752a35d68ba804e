"""The published state dict is matched with the model name by name, size by size."""

import jax
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.encoders.identity import Identity
from jdyn.encoders.mlp import MLP
from jdyn.fusions.mm_dynamics import MMDynamics
from jdyn.interop import mm_dynamics
from jdyn.models.feature_fusion import FeatureFusion
from tests.interop import released_mm_dynamics, torch_files

WIDTHS = {'mrna': 4, 'methylation': 3, 'mirna': 5}
HIDDEN, CLASSES = 6, 2
MODEL = FeatureFusion(
  {view: Identity() for view in WIDTHS},
  MMDynamics(num_outputs=CLASSES, features=HIDDEN),
  MLP(CLASSES),
)
OPTIONS = dict(train=False, hparams={})


def _state_dict():
  return released_mm_dynamics.state_dict(WIDTHS, HIDDEN, CLASSES)


def _inputs():
  rng = np.random.default_rng(1)
  return {
    view: rng.standard_normal((7, width), np.float32) for view, width in WIDTHS.items()
  }


@pytest.fixture(scope='module')
def template():
  return jax.eval_shape(lambda: MODEL.init(jax.random.key(0), _inputs(), **OPTIONS))


def test_the_model_gives_what_the_checkpoint_did(tmp_path, template):
  tensors, inputs = _state_dict(), _inputs()
  path = torch_files.save(tmp_path / 'checkpoint.pt', tensors)
  variables = mm_dynamics.convert(path, template)
  outputs = MODEL.apply(variables, inputs, **OPTIONS)
  want = released_mm_dynamics.logits(tensors, [inputs[view] for view in WIDTHS])
  np.testing.assert_allclose(outputs.logits, want, rtol=1e-4, atol=1e-4)


def _without(name):
  return lambda tensors: tensors.pop(name)


def _with(name, *shape):
  return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


_GATE = 'FeatureInforEncoder.1.clf.0.weight'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_without(_GATE), f"only the config's model has {_GATE}"),
    (_with('fc.weight', 2, 2), r'only the file has fc\.weight'),
    (_with(_GATE, 4, 4), rf'{_GATE} is \[4, 4\] and not \[3, 3\]'),
    (_with('TCPConfidenceLayer.0.clf.0.bias', 1, 1), r'is \[1, 1\] and not \[1\]'),
    (_with('FeatureEncoder.0.clf.0.weight', 4, 6), r'is \[4, 6\] and not \[6, 4\]'),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, template, change, message):
  tensors = _state_dict()
  change(tensors)
  path = torch_files.save(tmp_path / 'checkpoint.pt', tensors)
  with pytest.raises(DataError, match=rf'checkpoint\.pt.*{message}'):
    mm_dynamics.convert(path, template)


def test_a_config_of_another_model_is_named(tmp_path, template):
  path = torch_files.save(tmp_path / 'checkpoint.pt', _state_dict())
  params = dict(template['params'], extra=template['params']['head'])
  with pytest.raises(DataError, match='only the config has extra/dense_0/bias'):
    mm_dynamics.convert(path, {'params': params})
  params.pop('extra'), params.pop('head')
  with pytest.raises(DataError, match='only the converter has head/dense_0/bias'):
    mm_dynamics.convert(path, {'params': params})


def test_a_file_without_a_state_dict_is_named(tmp_path, template):
  path = torch_files.write(tmp_path / 'checkpoint.pt', b']', {})
  with pytest.raises(DataError, match=r'checkpoint\.pt: holds a list'):
    mm_dynamics.convert(path, template)
