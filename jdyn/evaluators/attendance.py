"""A model on examples that lack modalities: what reads them alone is not computed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jdyn.data.dataset import Split
from jdyn.models.input_names import input_names
from jdyn.ops.path_dispatcher import PathDispatcher
from jdyn.ops.presence import is_mask, present_key


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
  """All of `names` but the empty choice: `2^M - 1`, the whole first."""
  for size in range(len(names), 0, -1):
    yield from combinations(sorted(names), size)


def can_judge(model: nn.Module, names: Sequence[str]) -> bool:
  """Whether a model can judge examples that have these modalities and no other."""
  return model.available(dict.fromkeys(names)) is not False


def check_judges(model: nn.Module, names: Sequence[str]) -> None:
  """Raises ValueError if a model cannot judge examples with nothing but these."""
  if not can_judge(model, names):
    lacking = sorted(set(input_names(model)) - set(names))
    raise ValueError(
      f'inputs lacks the modality {lacking[0]!r}, and the model cannot judge by '
      f'{sorted(names)} alone. A decision_fusion of experts can, or a feature_fusion '
      'with absent_embedding that was trained with missing_rate.'
    )


def judgeable(model: nn.Module, split: Split) -> np.ndarray:
  """`bool[N]`: the examples of a split that have what a model needs."""
  masks = {name: mask for name, mask in split.inputs.items() if is_mask(name)}
  rows = model.available(dict.fromkeys(split.inputs) | masks)
  return np.broadcast_to(rows, len(split))


def judged(model: nn.Module, split: Split) -> Split:
  """The examples of a split that have what a model needs."""
  rows = judgeable(model, split)
  return split if rows.all() else split.select(np.flatnonzero(rows))


def by_presence(
  model: nn.Module, masked: Sequence[str], everyone: Sequence[str] = ()
) -> PathDispatcher:
  """Sends examples with the same modalities through the model together.

  To be called with `(variables, hparams)` of the model and inputs that hold a mask
  `present/<modality>` per masked modality, under policy `buckets`. The outputs are
  `logits` and `weights`, where an expert that did not vote has 0.

  Args:
    model: that can judge every set of modalities that occurs.
    masked: modalities that examples may lack.
    everyone: modalities that no example lacks.
  """
  order = sorted(masked)
  sets = [s for s in (*subsets(order), ()) if can_judge(model, [*everyone, *s])]
  numbers = [sum(2 ** order.index(name) for name in names) for names in sets]

  def route(variables, inputs, extra):
    del variables, extra
    bits = sum(2**k * inputs[present_key(name)] for k, name in enumerate(order))
    chosen = jnp.argmax(bits[:, None] == jnp.asarray(numbers)[None], axis=1)
    return chosen, {}

  return PathDispatcher(
    route,
    [_path(model)] * len(sets),
    route_reads=[present_key(name) for name in order],
    path_reads=[[*everyone, *names] for names in sets],
  )


def _path(model: nn.Module):
  def run(variables, inputs: Mapping, shared):
    del shared
    variables, hparams = variables
    outputs = model.apply(variables, inputs, train=False, hparams=hparams)
    weights = dict(outputs.weights)
    if weights:
      nothing = jnp.zeros_like(next(iter(weights.values())))
      weights = dict.fromkeys(getattr(model, 'experts', ()), nothing) | weights
    return {'logits': outputs.logits, 'weights': weights}

  return run
