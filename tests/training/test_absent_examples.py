"""Stages on data where some examples lack a modality."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from jdyn.training import loop
from tests import toys

SIZES = {'train': 40, 'valid': 24, 'test': 24}


def _dataset():
  """Examples of which every third lacks `text`, and every fourth `image`."""
  splits = {}
  for seed, (name, size) in enumerate(SIZES.items()):
    split, rows = toys.split(size, seed), np.arange(size)
    masks = {'text': rows % 3 != 1, 'image': rows % 4 != 2}
    masks['image'] |= ~masks['text']
    for modality, mask in masks.items():
      split.inputs[modality][~mask] = 0
      split.inputs[f'present/{modality}'] = mask
    splits[name] = split
  return dataclasses.replace(toys.dataset(), splits=splits)


@pytest.fixture
def train(monkeypatch):
  monkeypatch.setattr(loop, 'load', lambda *args, **options: _dataset())
  return loop.train


def test_an_expert_is_trained_and_scored_on_what_it_can_judge(train, tmp_path):
  config = toys.config(
    dict(name='decision_fusion', experts={}, fusion=dict(name='average')),
    batch_size=8,
    epochs=1,
    freeze='eval',
    loss__per_expert=1.0,
  )
  for name in ('text', 'image'):
    expert = base.stage(ConfigDict(toys.unimodal(name)))
    expert.batch_size, expert.epochs = 8, 1
    config.experts[name] = expert
  workdir = tmp_path / 'run'
  train(config.lock(), workdir)
  found = {}
  for stage in ('text', 'image', 'main'):
    result = json.loads((workdir / 'stages' / stage / 'result.json').read_text())
    found[stage] = result['splits']['test']['n']
  rows = np.arange(SIZES['test'])
  text = rows % 3 != 1
  image = (rows % 4 != 2) | ~text
  assert found == {'text': text.sum(), 'image': image.sum(), 'main': len(rows)}
  assert (workdir / 'report.html').exists()


def test_a_model_that_needs_everything_is_refused(train, tmp_path):
  config = toys.config(toys.MODELS['early_fusion'], batch_size=8, epochs=1)
  with pytest.raises(ValueError, match=r'main: \d+ of 40 examples of split train lack'):
    train(config.lock(), tmp_path / 'run')
