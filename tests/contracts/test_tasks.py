"""Every task in the table: losses, padding, merging, scores, decisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jdyn.tasks import TASKS, Regression
from jdyn.typing import Outputs

pytestmark = pytest.mark.usefixtures('compile_fast')

C = 4
SIZE = 37


def make(name):
  return TASKS[name](num_outputs=1 if name == 'regression' else C)


PIXELS = {'segmentation': (3, 5)}


def make_batch(name, size=SIZE, seed=0):
  """Random logits and labels that agree more often than by chance."""
  rng = np.random.default_rng(seed)
  shape = (size, *PIXELS.get(name, ()), make(name).num_outputs)
  logits = rng.normal(size=shape).astype(np.float32)
  noisy = logits + rng.normal(size=logits.shape).astype(np.float32)
  label = {
    'multiclass': lambda: noisy.argmax(1).astype(np.int32),
    'multilabel': lambda: (noisy > 0).astype(np.float32),
    'regression': lambda: 2 * noisy[:, 0],
    # A few pixels are void.
    'segmentation': lambda: np.where(noisy[..., 0] > 2, 0, noisy.argmax(-1) + 1).astype(
      np.uint8
    ),
  }[name]()
  return logits, {'label': label, 'mask': np.ones(size, np.float32)}


def perfect_logits(name, batch):
  label = batch['label']
  return {
    'multiclass': lambda: 100.0 * jax.nn.one_hot(label, C),
    'multilabel': lambda: 100.0 * (2 * label - 1),
    'regression': lambda: label[:, None],
    'segmentation': lambda: 100.0 * jax.nn.one_hot(label.astype(np.int32) - 1, C),
  }[name]()


def sums(name, logits, batch):
  return jax.jit(make(name).sums)(Outputs(jnp.asarray(logits)), batch)


@pytest.mark.parametrize('name', sorted(set(TASKS) - {'regression'}))
def test_confidence_is_the_probability_of_the_decision(name):
  task = make(name)
  logits, batch = make_batch(name)
  confidence = np.asarray(task.confidence(jnp.asarray(logits)))
  share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  if name == 'multiclass':
    want = share[np.arange(SIZE), task.predict(logits)]
  elif name == 'segmentation':
    want = share.max(axis=-1).mean(axis=(1, 2))
    batch['label'] = np.maximum(batch['label'], 1)  # For the perfect ones below.
  else:
    one = 1 / (1 + np.exp(-logits))
    want = np.where(task.predict(logits), one, 1 - one).mean(axis=1)
  np.testing.assert_allclose(confidence, want, rtol=1e-5)
  perfect = task.confidence(jnp.asarray(perfect_logits(name, batch)))
  np.testing.assert_allclose(perfect, np.ones(SIZE), atol=1e-6)


def test_a_regression_has_no_confidence():
  with pytest.raises(ValueError, match='hidden/'):
    make('regression').confidence(jnp.zeros((2, 1)))


@pytest.mark.parametrize('name', sorted(set(TASKS) - {'regression'}))
def test_true_probability_is_that_of_the_label(name):
  logits, batch = make_batch(name)
  got = make(name).true_probability(jnp.asarray(logits), batch)
  share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  if name == 'multiclass':
    want = share[np.arange(SIZE), batch['label']]
  elif name == 'segmentation':
    seen = batch['label'] > 0
    truth = np.maximum(batch['label'].astype(int) - 1, 0)
    each = np.take_along_axis(share, truth[..., None], axis=-1)[..., 0]
    want = (each * seen).sum(axis=(1, 2)) / seen.sum(axis=(1, 2))
  else:
    one = 1 / (1 + np.exp(-logits))
    want = np.where(batch['label'] > 0, one, 1 - one).mean(axis=1)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_regression_has_no_true_probability():
  _, batch = make_batch('regression')
  with pytest.raises(ValueError, match=r'set loss\.confidence=0'):
    make('regression').true_probability(jnp.zeros((SIZE, 1)), batch)


def test_two_classes_have_scores_of_all_examples():
  logits, batch = make_batch('multiclass')
  logits, label = logits[:, :2], batch['label'] // 2
  logits[:5] = 0.5  # Ties count one half.
  share = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
  want = {
    'f1': sklearn_metrics.f1_score(label, logits.argmax(1)),
    'auc': sklearn_metrics.roc_auc_score(label, share),
    'average_precision': sklearn_metrics.average_precision_score(label, share),
    'brier': 2 * sklearn_metrics.brier_score_loss(label, share),
  }
  task = TASKS['multiclass'](num_outputs=2)
  found = task.scores_of_all(logits, label)
  assert 0 < found.pop('ece') < 1  # Its value is tested with the metric.
  assert found == pytest.approx(want)
  assert set(task.scores_of_all(logits, 0 * label)) == {'ece', 'brier', 'f1'}
  for name in ('multiclass', 'regression'):
    logits, batch = make_batch(name)
    more = {'ece', 'brier'} if name == 'multiclass' else set()
    assert set(make(name).scores_of_all(logits, batch['label'])) == more


def test_labels_have_scores_of_all_examples():
  logits, batch = make_batch('multilabel')
  label, task = batch['label'], make('multilabel')
  logits[:5] = 0.5
  want = {
    'macro_auc': sklearn_metrics.roc_auc_score(label, logits),
    'macro_average_precision': sklearn_metrics.average_precision_score(label, logits),
  }
  assert task.scores_of_all(logits, label) == pytest.approx(want)
  # A label that nobody or everybody has is left out.
  label, logits = (np.insert(array, (0, 2), 1, axis=1) for array in (label, logits))
  label[:, 0] = 0
  assert task.scores_of_all(logits, label) == pytest.approx(want)
  assert task.scores_of_all(logits, 0 * label) == {}


def test_weighted_classes_of_labels():
  logits, batch = make_batch('multilabel')
  weights = np.random.default_rng(1).uniform(0.5, 2, (C, 2)).astype(np.float32)
  task = TASKS['multilabel'](C, tuple(map(tuple, weights.tolist())))
  want = np.zeros(SIZE)
  for k in range(C):
    present = batch['label'][:, k].astype(int)
    margin = (2 * present - 1) * logits[:, k].astype(np.float64)
    want += weights[k, present] * np.log1p(np.exp(-margin)) / C
  np.testing.assert_allclose(task.loss(jnp.asarray(logits), batch), want, rtol=1e-5)


@pytest.mark.parametrize('name', TASKS)
def test_loss_is_unreduced_float32_and_zero_at_perfect_logits(name):
  task = make(name)
  logits, batch = make_batch(name)
  loss = task.loss(jnp.asarray(logits, jnp.bfloat16), batch)
  assert loss.shape == (SIZE, *PIXELS.get(name, ()))
  assert loss.dtype == jnp.float32
  assert float(loss.min()) >= 0
  assert float(loss.max()) > 0.1
  perfect = perfect_logits(name, batch)
  np.testing.assert_allclose(task.loss(perfect, batch), 0 * loss, atol=1e-6)
  np.testing.assert_array_equal(task.correct(perfect, batch), np.ones(SIZE))


@pytest.mark.parametrize('name', TASKS)
def test_loss_is_finite_at_huge_logits(name):
  task = make(name)
  logits, batch = make_batch(name)
  fn = jax.grad(lambda x: task.loss(x, batch).sum())
  gradient = fn(jnp.asarray(1e4 * logits))
  assert np.isfinite(task.loss(jnp.asarray(1e4 * logits), batch)).all()
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('name', TASKS)
def test_padding_changes_nothing(name):
  logits, batch = make_batch(name)
  garbage, padding = make_batch(name, size=5, seed=1)
  padding['mask'] = np.zeros(5, np.float32)
  whole = sums(name, logits, batch)
  joined = {key: np.concatenate([batch[key], padding[key]]) for key in batch}
  padded = sums(name, np.concatenate([logits, 50 * garbage]), joined)
  for got, expected in zip(
    jax.tree.leaves(padded), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize('name', TASKS)
def test_sums_of_parts_merge_to_those_of_the_whole(name):
  logits, batch = make_batch(name)
  parts = [
    sums(name, logits[rows], {key: value[rows] for key, value in batch.items()})
    for rows in (slice(0, 11), slice(11, 24), slice(24, SIZE))
  ]
  task = make(name)
  merged = task.scores(jax.tree.map(lambda *leaves: sum(leaves), *parts))
  assert merged == pytest.approx(task.scores(sums(name, logits, batch)), abs=1e-6)


def expected_scores(name, logits, label):
  f1 = sklearn_metrics.f1_score
  if name == 'multiclass':
    predicted = logits.argmax(1)
    probabilities = jax.nn.softmax(jnp.asarray(logits))
    return {
      'loss': sklearn_metrics.log_loss(label, probabilities, labels=range(C)),
      'accuracy': sklearn_metrics.accuracy_score(label, predicted),
      'macro_f1': f1(label, predicted, average='macro'),
      'weighted_f1': f1(label, predicted, average='weighted'),
    }
  if name == 'segmentation':
    seen = label > 0
    truth, said = label[seen].astype(int) - 1, logits.argmax(-1)[seen]
    probability = np.asarray(jax.nn.softmax(jnp.asarray(logits)))[seen]
    iou = sklearn_metrics.jaccard_score(truth, said, average='macro')
    return {
      'loss': sklearn_metrics.log_loss(truth, probability, labels=range(C)),
      'miou': iou,
      'miou_all': iou,
      'pixel_accuracy': np.mean(truth == said),
      'mean_accuracy': sklearn_metrics.balanced_accuracy_score(truth, said),
    }
  if name == 'multilabel':
    predicted = logits > 0
    probability = np.stack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))])
    return {
      'loss': -np.log(np.where(label > 0, probability[1], probability[0])).mean(),
      'accuracy': np.mean(predicted == label),
      **{
        f'{average}_f1': f1(label, predicted, average=average)
        for average in ('micro', 'macro', 'weighted')
      },
    }
  mae = sklearn_metrics.mean_absolute_error(label, logits[:, 0])
  return {
    'loss': mae,
    'mae': mae,
    'pearson': stats.pearsonr(label, logits[:, 0]).statistic,
    'acc2_has0': np.mean((label >= 0) == (logits[:, 0] >= 0)),
  }


@pytest.mark.parametrize('name', TASKS)
def test_scores_match_sklearn(name):
  logits, batch = make_batch(name)
  task = make(name)
  got = task.scores(sums(name, logits, batch))
  assert set(got) == set(task.score_names)
  assert all(type(value) is float for value in got.values())
  expected = expected_scores(name, logits, batch['label'])
  assert {key: got[key] for key in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('name', TASKS)
def test_sums_under_vmap_equal_one_by_one(name):
  # Several seeds are evaluated by one program.
  logits, batch = make_batch(name)
  stacked = np.stack([logits, logits[::-1]])
  both = jax.vmap(lambda x: make(name).sums(Outputs(x), batch))(stacked)
  for i in range(2):
    got = jax.tree.map(lambda leaf, i=i: leaf[i], both)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
      got,
      sums(name, stacked[i], batch),
    )


def test_predictions_and_correctness():
  batch = {'label': np.array([2, 0])}
  logits = jnp.array([[0.0, 1.0, 3.0, 2.0], [1.0, 2.0, 0.0, 0.0]])
  np.testing.assert_array_equal(make('multiclass').predict(logits), [2, 1])
  np.testing.assert_array_equal(make('multiclass').correct(logits, batch), [1, 0])

  np.testing.assert_array_equal(make('multilabel').predict(logits)[0], [0, 1, 1, 1])
  value = jnp.array([[0.0], [-0.1]])
  np.testing.assert_allclose(make('regression').predict(value), [0.0, -0.1])
  assert make('regression').predict(value.astype(jnp.bfloat16)).dtype == jnp.float32
  batch = {'label': np.array([0.0, 2.0], np.float32)}
  np.testing.assert_array_equal(make('regression').correct(value, batch), [1, 0])


def test_multilabel_correctness_is_the_f1_of_each_example():
  logits, batch = make_batch('multilabel')
  batch['label'][:3] = 0
  logits[:2] = -1
  got = make('multilabel').correct(jnp.asarray(logits), batch)
  expected = [
    sklearn_metrics.f1_score(truth, row > 0, zero_division=1.0)
    for truth, row in zip(batch['label'], logits, strict=True)
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize('name', TASKS)
def test_direction_of_scores(name):
  task = make(name)
  lower = {score for score in task.score_names if not task.higher_is_better(score)}
  assert task.main_score in task.score_names
  assert lower == ({'loss', 'mae'} if name == 'regression' else {'loss'})
  with pytest.raises(ValueError, match=r"'f1'.*expected one of \["):
    task.higher_is_better('f1')


def test_regression_has_one_output():
  with pytest.raises(ValueError, match='num_outputs=2'):
    Regression(2)


@pytest.mark.parametrize('name', TASKS)
def test_what_is_kept_gives_the_scores(name):
  """Predictions on disk say what training says, but for a loss that is gone."""
  task = make(name)
  logits, batch = make_batch(name)
  kept = np.asarray(task.kept(jnp.asarray(logits), batch))
  assert kept.shape == (SIZE, *task.kept_shape)
  label = task.kept_label(batch['label'])
  found, want = task.kept_scores(kept, label), task.scores(sums(name, logits, batch))
  gone = set() if task.keeps_logits else {'loss'}
  assert set(want) - set(found) == gone
  for score in set(want) & set(found):
    assert found[score] == pytest.approx(want[score], abs=1e-6)
  np.testing.assert_allclose(
    task.kept_correct(kept, label),
    task.correct(jnp.asarray(logits), batch),
    rtol=1e-6,
  )
  columns = task.records(kept, label)
  assert len(columns) == len(task.record_names)
  assert all(len(column) == SIZE for column in columns)


def test_classes_that_are_not_there_have_no_part_in_the_mean():
  label = np.array([[[1, 1, 2, 0]]], np.uint8)
  batch = {'label': label, 'mask': np.ones(1, np.float32)}
  logits = 5 * np.eye(C, dtype=np.float32)[[[[0, 3, 1, 2]]]]
  found = make('segmentation').scores(sums('segmentation', logits, batch))
  assert found['miou'] == pytest.approx((1 / 2 + 1) / 2)
  assert found['miou_all'] == pytest.approx((1 / 2 + 1) / C)
  assert found['pixel_accuracy'] == pytest.approx(2 / 3)
  assert found['mean_accuracy'] == pytest.approx((1 / 2 + 1) / 2)


def test_pixels_count_by_class_and_void_nowhere():
  weights = (0.5, 1.0, 2.0, 3.0)
  task = TASKS['segmentation'](C, weights)
  logits, batch = make_batch('segmentation')
  batch['mask'][:5] = 0
  want = np.array([0, *weights])[batch['label']]
  want[:5] = 0
  np.testing.assert_allclose(task.weights(batch), want)
  void = np.asarray(task.loss(jnp.asarray(logits), batch))[batch['label'] == 0]
  assert len(void) > 3
  assert not void.any()


def test_images_are_judged_at_the_size_of_their_labels():
  """Against torch's rule, pixel by pixel, and nothing outside of an image counts."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 4, 6, C)).astype(np.float32)
  label = np.full((2, 7, 9), 255, np.uint8)
  sizes = [(7, 5), (3, 9)]
  for row, (height, width) in zip(label, sizes, strict=True):
    row[:height, :width] = rng.integers(0, C + 1, size=(height, width))
  want = np.zeros((2, C, C), int)
  for image, (height, width) in enumerate(sizes):
    for i, j in np.ndindex(height, width):
      if truth := int(label[image, i, j]):
        at = _interpolated(logits[image], (i, j), (height, width))
        want[image, truth - 1, at.argmax()] += 1
  batch = {'label': label, 'mask': np.ones(2, np.float32)}
  task = make('segmentation')
  np.testing.assert_array_equal(jax.jit(task.kept)(logits, batch), want)
  inside = (label > 0) & (label < 255)
  np.testing.assert_array_equal(np.asarray(task.weights(batch)) > 0, inside)
  assert not np.asarray(jax.jit(task.loss)(logits, batch))[~inside].any()


def _interpolated(image, pixel, size):
  """Half-pixel centres, the border repeated."""
  rows = []
  for place, new, old in zip(pixel, size, image.shape[:2], strict=True):
    at = min(max((place + 0.5) * old / new - 0.5, 0), old - 1)
    low = int(at)
    rows.append((low, min(low + 1, old - 1), at - low))
  (top, bottom, down), (left, right, along) = rows
  above = image[top, left] * (1 - along) + image[top, right] * along
  below = image[bottom, left] * (1 - along) + image[bottom, right] * along
  return above * (1 - down) + below * down
