"""The released MM-Dynamics: names and layouts of its tensors, and what they compute."""

from collections.abc import Mapping

import numpy as np


def state_dict(widths: Mapping[str, int], hidden: int, classes: int):
  """Random tensors of a model of views in this order, by their names."""
  rng = np.random.default_rng(0)
  shapes = {'MMClasifier.0': (classes, len(widths) * hidden)}
  for i, width in enumerate(widths.values()):
    shapes[f'FeatureInforEncoder.{i}'] = (width, width)
    shapes[f'FeatureEncoder.{i}'] = (hidden, width)
    shapes[f'TCPClassifierLayer.{i}'] = (classes, hidden)
    shapes[f'TCPConfidenceLayer.{i}'] = (1, hidden)
  found = {}
  for name, shape in shapes.items():
    weight = rng.standard_normal(shape) / np.sqrt(shape[1])
    found[f'{name}.clf.0.weight'] = weight.astype(np.float32)
    found[f'{name}.clf.0.bias'] = rng.standard_normal(shape[0], np.float32)
  return found


def logits(tensors: Mapping[str, np.ndarray], views: list[np.ndarray]) -> np.ndarray:
  """The prediction `[B, classes]` for views `[B, width]`."""

  def linear(x, name):
    return x @ tensors[f'{name}.clf.0.weight'].T + tensors[f'{name}.clf.0.bias']

  features = []
  for i, x in enumerate(views):
    gate = 1 / (1 + np.exp(-linear(x, f'FeatureInforEncoder.{i}')))
    hidden = np.maximum(linear(x * gate, f'FeatureEncoder.{i}'), 0)
    features.append(hidden * linear(hidden, f'TCPConfidenceLayer.{i}'))
  return linear(np.concatenate(features, axis=1), 'MMClasifier.0')
