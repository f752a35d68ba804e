"""Weights and losses of experts: identities of the bound, planted effects, refusals."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from jdyn.evaluators import confidence
from jdyn.evaluators.predictions import Predictions, from_outputs
from jdyn.metrics.paired import mcnemar
from jdyn.tasks import Multiclass
from jdyn.typing import Outputs

SEEDS, SIZE, CLASSES = 2, 300, 3
NAMES = ('image', 'text')
TASK = Multiclass(num_outputs=CLASSES)


def predictions(sign=-1.0, seed=0):
  """Each expert errs on half of the examples; weights follow it with a sign."""
  rng = np.random.default_rng(seed)
  label = rng.integers(CLASSES, size=SIZE).astype(np.int32)
  logits, weights = {}, {}
  for name in NAMES:
    bad = rng.random((SEEDS, SIZE)) < 0.5
    noise = rng.normal(size=(SEEDS, SIZE, CLASSES)) * np.where(bad, 3, 0.3)[..., None]
    logits[name] = (2 * np.eye(CLASSES)[label] + noise).astype(np.float32)
    jitter = 0.05 * rng.normal(size=bad.shape)
    weights[name] = (0.5 + sign * 0.4 * (bad - 0.5) + jitter).astype(np.float32)
  return Predictions(
    ids=np.arange(SIZE),
    label=label,
    logits=sum(weights[name][..., None] * logits[name] for name in NAMES),
    expert_logits=logits,
    weights=weights,
    about={},
  )


@pytest.fixture
def fused():
  return predictions()


def test_losses_are_cross_entropies(fused):
  losses = confidence.expert_losses(fused, TASK)
  assert tuple(losses) == NAMES
  for name in NAMES:
    for s, logits in enumerate(fused.expert_logits[name].astype(np.float64)):
      chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
      want = metrics.log_loss(fused.label, chances, labels=range(CLASSES))
      assert losses[name][s].mean() == pytest.approx(want, abs=1e-5)


def test_bound_terms_add_up_to_the_weighted_loss(fused):
  losses = confidence.expert_losses(fused, TASK)
  terms = confidence.bound_terms(fused.weights, losses)
  weighted = [(fused.weights[name] * losses[name]).mean(axis=1) for name in NAMES]
  np.testing.assert_allclose(terms.loss + terms.covariance, sum(weighted), rtol=1e-5)
  covariance = confidence.fusion_covariance(fused.weights, losses)
  for name in NAMES:
    for s in range(SEEDS):
      want = np.cov(fused.weights[name][s], losses[name][s], ddof=0)[0, 1]
      assert covariance[name][s] == pytest.approx(want, rel=1e-5)
  assert (terms.covariance < 0).all()


def test_correlations_are_scipys_mean_over_seeds(fused):
  losses = confidence.expert_losses(fused, TASK)
  found = confidence.weight_loss_correlations(fused.weights, losses, resamples=30)
  scipy = {'pearson': stats.pearsonr, 'spearman': stats.spearmanr}
  scipy['kendall'] = stats.kendalltau
  for name in NAMES:
    assert set(found[name]) == set(scipy)
    for kind, got in found[name].items():
      pairs = zip(fused.weights[name], losses[name], strict=True)
      want = np.mean([scipy[kind](*pair).statistic for pair in pairs])
      assert got.value == pytest.approx(want, abs=1e-6)
      assert got.low < got.value < got.high < 0


def test_gap_and_negative_rate():
  weights = {'a': np.array([[-1.0, 0.0, 4.0, 1.0]]), 'b': np.array([[1.0] * 4])}
  gap = confidence.mean_match_gap(weights)
  assert (gap['a'].tolist(), gap['b'].tolist()) == ([0.5], [0.5])
  assert confidence.mean_match_gap(weights, {'a': 0.25, 'b': 1})['a'].tolist() == [0.75]
  negative = confidence.negative_weight_rate(weights)
  assert (negative['a'].tolist(), negative['b'].tolist()) == ([0.25], [0.0])


def test_static_counterpart_has_the_same_mean_weights(fused):
  static = confidence.static_counterpart(fused)
  for s in range(SEEDS):
    want = sum(fused.weights[m][s].mean() * fused.expert_logits[m][s] for m in NAMES)
    np.testing.assert_allclose(static.logits[s], want, rtol=1e-5, atol=1e-5)
  losses = confidence.expert_losses(fused, TASK)
  covariance = confidence.fusion_covariance(static.weights, losses)
  np.testing.assert_allclose(list(covariance.values()), 0, atol=1e-7)
  assert confidence.weighted_experts(static) == ()
  again = confidence.static_counterpart(static)
  np.testing.assert_allclose(again.logits, static.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('sign', [-1.0, 1.0])
def test_dynamic_weights_gain_if_they_fall_with_the_loss(sign):
  fused = predictions(sign)
  gain = confidence.dynamic_minus_static(fused, TASK)
  static = confidence.static_counterpart(fused)
  dynamic_right = fused.logits.argmax(-1) == fused.label
  static_right = static.logits.argmax(-1) == fused.label
  want = dynamic_right.mean() - static_right.mean()
  assert gain.correct.mean == pytest.approx(want)
  assert np.sign(gain.correct.mean) == -sign == -np.sign(gain.loss.mean)
  assert gain.loss.p < 0.01
  for s, found in enumerate(gain.by_seed):
    assert found == mcnemar(dynamic_right[s], static_right[s])


def test_a_fusion_that_sums_no_votes_has_no_static_counterpart(fused):
  off = dataclasses.replace(fused, logits=fused.logits + 0.2)
  with pytest.raises(ValueError, match=r'differ by up to 0\.2 from the weighted sum'):
    confidence.static_counterpart(off)
  bare = dataclasses.replace(fused, expert_logits={})
  with pytest.raises(ValueError, match=r"weights of \['image', 'text'\], but logits"):
    confidence.static_counterpart(bare)


def test_gates_and_constants_say_nothing_about_trust(fused):
  assert confidence.weighted_experts(fused) == NAMES
  gate = {name: (fused.weights[name] > 0.5).astype(np.float32) for name in NAMES}
  constant = {name: np.full((SEEDS, SIZE), 0.5, np.float32) for name in NAMES}
  for weights in (gate, constant, {}):
    other = dataclasses.replace(fused, weights=weights)
    assert confidence.weighted_experts(other) == ()


def test_weights_by_severity(fused):
  lower = {name: weight - 0.1 for name, weight in fused.weights.items()}
  by_level = {5.0: dataclasses.replace(fused, weights=lower), 0.0: fused}
  found = confidence.weights_by_severity(by_level)
  assert found.levels == (0.0, 5.0)
  for name in NAMES:
    want = [fused.weights[name].mean(axis=1), lower[name].mean(axis=1)]
    np.testing.assert_allclose(found.weights[name], want, rtol=1e-6)
  for change in ({'ids': fused.ids[::-1]}, {'weights': {'text': lower['text']}}):
    by_level[9.0] = dataclasses.replace(fused, **change)
    with pytest.raises(ValueError, match='level 9 has other examples or experts'):
      confidence.weights_by_severity(by_level)


def test_weights_that_tell_clean_from_corrupted(fused):
  rng = np.random.default_rng(5)
  touched = rng.random(SIZE) < 0.4
  weights = {
    'image': rng.normal(size=(SEEDS, SIZE)) - touched,
    'text': rng.normal(size=(SEEDS, SIZE)),
  }
  found = confidence.selective_weight_auroc(weights, {'image': touched})
  assert set(found) == {'image'}
  for s in range(SEEDS):
    want = metrics.roc_auc_score(~touched, weights['image'][s])
    assert found['image'][s] == pytest.approx(want)
    assert want > 0.6
  all_of_them = np.ones(SIZE, bool)
  found = confidence.selective_weight_auroc(weights, {'text': all_of_them})
  assert np.isnan(found['text']).all()
  with pytest.raises(ValueError, match=r"no weights for \['audio'\]"):
    confidence.selective_weight_auroc(weights, {'audio': touched})


def test_evidence_summaries(fused):
  right = fused.logits.argmax(-1) == fused.label
  rng = np.random.default_rng(6)
  evidence = {'vacuity': rng.random(right.shape) + 0.3 * ~right}
  changed = dataclasses.replace(fused, evidence=evidence)
  (found,) = confidence.evidence_summaries(changed, TASK).values()
  for s in range(SEEDS):
    values = evidence['vacuity'][s]
    assert found.mean[s] == pytest.approx(values.mean())
    assert found.right[s] == pytest.approx(values[right[s]].mean())
    assert found.wrong[s] == pytest.approx(values[~right[s]].mean())
    assert found.auroc[s] == pytest.approx(metrics.roc_auc_score(~right[s], values))
  sure = dataclasses.replace(changed, logits=9 * np.eye(3)[fused.label][None])
  sure = dataclasses.replace(sure, evidence={'vacuity': evidence['vacuity'][:1]})
  (found,) = confidence.evidence_summaries(sure, TASK).values()
  assert np.isnan([found.wrong, found.auroc]).all()
  assert np.isfinite([found.mean, found.right]).all()


def test_evidence_is_taken_from_the_outputs_and_kept(fused, tmp_path):
  conflict = np.arange(SEEDS * SIZE, dtype=np.float32).reshape(SEEDS, SIZE)
  aux = {'evidence/conflict': conflict, 'evidence/vacuity/text': conflict / 7}
  aux['other'] = conflict
  taken = from_outputs(Outputs(fused.logits, aux=aux), _Split(fused), TASK, {})
  assert set(taken.evidence) == {'conflict', 'vacuity/text'}
  taken.save(tmp_path / 'predictions.npz')
  loaded = Predictions.load(tmp_path / 'predictions.npz')
  np.testing.assert_array_equal(loaded.evidence['conflict'], conflict)
  np.testing.assert_array_equal(loaded.evidence['vacuity/text'], conflict / 7)
  assert loaded.weights == {}


class _Split:
  """As much of a split as predictions keep."""

  def __init__(self, like):
    self.ids, self.label = like.ids, like.label
