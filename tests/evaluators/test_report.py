"""The report: its numbers against scikit-learn and SciPy, its page against a parser."""

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from fake_run import (
  CHEAP,
  DEAR,
  DEVICE,
  GATE_MACS,
  MAX_STEPS,
  TOL,
  VERSION,
  FakeRun,
)
from matplotlib.figure import Figure
from scipy import special, stats
from sklearn import metrics

from jdyn import report as command
from jdyn.data.dataset import DataError
from jdyn.evaluators.budget import calibrate, spend, spend_blindly
from jdyn.evaluators.calibration import fit_temperature
from jdyn.evaluators.confidence import static_counterpart
from jdyn.evaluators.report import curve, scores, solver, write_report
from jdyn.evaluators.report.run import read_run
from jdyn.metrics.selective import selective_scores
from jdyn.tasks import Multiclass, Multilabel, Regression
from tests.sealing import rewrite

VOID = {'meta', 'br', 'link', 'img'}
STAND_IN = 'synthetic stand-in'
SOLVER = ('steps', 'residual', 'converged', 'trace')
NASTY = ('<b>bold', '$x^2$ & "b"', '--><script>')
NASTY_PATHS = ('<b>cheap', 'dear & "far"')

RUNS = {
  'gated': FakeRun(timed=True),
  'stand_in': FakeRun(
    origin=STAND_IN, class_names=NASTY, paths=NASTY_PATHS, timed=True
  ),
  'one_seed': FakeRun(seeds=(7,)),
  'scenes': FakeRun(task='segmentation'),
  'static_labels': FakeRun(task='multilabel', gated=False),
  'regression': FakeRun(task='regression', class_names=(), blocks=('fused', 'text')),
  'equilibrium': FakeRun(gated=False, blocks=('fused', '<b>text'), stalled=0.1),
  'one_epoch': FakeRun(epochs=1, gated=False),
  'energy': FakeRun(gated=False, fusion='energy', paths=NASTY_PATHS),
  'evidence': FakeRun(gated=False, fusion='evidence', paths=NASTY_PATHS, seeds=(7,)),
}


class Page(HTMLParser):
  """Checks that tags are balanced; collects what the tests look at."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.open, self.tags, self.ids, self.attributes = [], [], [], []
    self.tables, self.plots = [], []
    self.text = self.plot_text = ''
    self.feed(text)
    self.close()
    assert not self.open, f'never closed: {self.open}'

  def handle_starttag(self, tag, attributes):
    self.handle_startendtag(tag, attributes)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    attributes = dict(attributes)
    self.tags.append(tag)
    self.attributes.append(attributes)
    if 'id' in attributes:
      self.ids.append(attributes['id'])
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    elif tag in ('td', 'th'):
      self.tables[-1][-1].append('')
    elif tag == 'small' and 'td' in self.open:
      self.tables[-1][-1][-1] += ' '
    elif tag == 'svg':
      self.plots.append(attributes['aria-label'])

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data
    if 'svg' in self.open:
      self.plot_text += data + '\n'
    if 'td' in self.open or 'th' in self.open:
      self.tables[-1][-1][-1] += data

  def table(self, corner: str, column: str = '') -> dict[str, dict[str, str]]:
    """The first table with this upper left cell: cells by row and column name.

    Where several tables have that cell, `column` is one that they do not share.
    """
    fits = (t for t in self.tables if t[0][0] == corner)
    header, *rows = next(t for t in fits if not column or column in t[0])
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Folder, predictions and page of every run, made when asked for."""
  found = {}

  def make(name):
    if name not in found:
      folder = tmp_path_factory.mktemp(name)
      predictions = RUNS[name].write(folder)
      text = write_report(folder).read_text(encoding='utf-8')
      found[name] = folder, predictions, text
    return found[name]

  return make


def numbers(cell: str) -> list[float]:
  """`12.34 [10.00, 15.00]` -> its numbers."""
  return [float(number) for number in re.findall(r'-?\d+\.?\d*', cell)]


def t_interval(values):
  mean, spread = np.mean(values), stats.sem(values)
  return [mean, *stats.t.interval(0.95, len(values) - 1, mean, spread)]


@pytest.mark.parametrize('name', RUNS)
def test_page_is_well_formed_and_complete_in_itself(made, name):
  _, _, text = made(name)
  page = Page(text)
  assert text.startswith('<!DOCTYPE html>')
  assert len(page.ids) == len(set(page.ids))
  for target in re.findall(r'url\(#([^)]+)\)', text):
    assert target in page.ids
  assert not {'script', 'link', 'iframe', 'b'} & set(page.tags)
  for attributes in page.attributes:
    for key in ('src', 'href', 'xlink:href'):
      target = attributes.get(key) or '#'
      assert target.startswith('data:') or target in {'#'} | {f'#{i}' for i in page.ids}
  assert f'jax {VERSION}' in page.text
  assert '90 train, 40 valid, 40 test' in page.text
  assert 'abc123' in page.text


@pytest.mark.parametrize('name', RUNS)
def test_only_stand_ins_are_stamped(made, name):
  page = Page(made(name)[2])
  stamped = [STAND_IN in title for title in page.plots]
  assert len(stamped) >= 3
  assert all(stamped) if name == 'stand_in' else not any(stamped)
  assert ('SYNTHETIC STAND-IN' in page.text) == (name == 'stand_in')


def test_names_are_text_and_not_markup(made):
  page = Page(made('stand_in')[2])
  for name in NASTY:
    assert name in page.plot_text
  for name in NASTY_PATHS:
    assert name in page.plot_text
    assert name in page.table('sent to')
    assert f'{name}: training loss [{STAND_IN}]' in page.plots


def test_sections_follow_the_kind_of_run(made):
  gated, static = Page(made('gated')[2]), Page(made('static_labels')[2])
  assert len(gated.plots) == 3 * 2 + 4 + 2
  assert len(static.plots) == 2 + 1
  assert 'Confusion on the test split' in gated.plots
  assert 'F1 by label on the test split' in static.plots
  regression = Page(made('regression')[2]).plots
  assert 'Prediction against truth on the test split' in regression
  assert 'Gate usage by class' not in regression


def test_sections_of_judged_confidence_are_there_where_data_are(made):
  honest, trust = {'Reliability', 'Risk against coverage'}, 'Weights on the test split'
  for name, run in RUNS.items():
    plots = {
      title.removesuffix(f' [{STAND_IN}]') for title in Page(made(name)[2]).plots
    }
    assert honest <= plots if run.task == 'multiclass' else not honest & plots
    assert (trust in plots) == bool(run.fusion)
    assert ({'Vacuity', 'Conflict'} <= plots) == (run.fusion == 'evidence')


def test_calibration_table(made):
  _, predictions, text = made('energy')
  table = Page(text).table('model', 'NLL')
  valid, test = predictions['main']['valid'], predictions['main']['test']
  assert len(table) == 2 * 3
  for name in ('made_up', *NASTY_PATHS):
    fitted, judged = (of.expert_logits.get(name, of.logits) for of in (valid, test))
    temperatures = [fit_temperature(one, valid.label) for one in fitted]
    scaled = judged / np.array(temperatures)[:, None, None]
    before, after = table[f'{name} as trained'], table[f'{name} at its temperature']
    for row, logits in ((before, judged), (after, scaled)):
      chances = special.softmax(logits.astype(np.float64), axis=-1)
      nll = [metrics.log_loss(test.label, one, labels=range(3)) for one in chances]
      assert numbers(row['NLL']) == pytest.approx(t_interval(nll), abs=6e-5)
    assert before['temperature'] == after['AURC'] == '-'
    want = t_interval(temperatures)
    assert numbers(after['temperature']) == pytest.approx(want, abs=6e-5)
    found = [
      selective_scores(one.max(-1), one.argmax(-1) == test.label)
      for one in special.softmax(judged.astype(np.float64), axis=-1)
    ]
    assert numbers(before['E-AURC'])[0] == pytest.approx(
      np.mean([scores['e_aurc'] for scores in found]), abs=6e-5
    )


def test_weights_table(made):
  _, predictions, text = made('energy')
  page, test = Page(text), predictions['main']['test']
  table, task = page.table('expert'), Multiclass(num_outputs=3)
  terms = []
  for name in NASTY_PATHS:
    weight, row = test.weights[name], table[name]
    loss = np.stack(
      [task.loss(one, {'label': test.label}) for one in test.expert_logits[name]]
    )
    pairs = list(zip(weight, loss, strict=True))
    assert numbers(row['weight'])[0] == pytest.approx(weight.mean(), abs=6e-5)
    assert numbers(row['negative'])[0] == pytest.approx(
      100 * (weight < 0).mean(), abs=0.06
    )
    covariance = np.mean([np.cov(*pair, ddof=0)[0, 1] for pair in pairs])
    assert numbers(row['covariance'])[0] == pytest.approx(covariance, abs=6e-5)
    tau = np.mean([stats.kendalltau(*pair).statistic for pair in pairs])
    assert numbers(row['kendall'])[0] == pytest.approx(tau, abs=6e-4)
    terms.append(covariance)
  assert numbers(table['sum']['covariance'])[0] == pytest.approx(sum(terms), abs=6e-5)
  static = static_counterpart(test)
  gain = np.mean(test.logits.argmax(-1) == test.label) - np.mean(
    static.logits.argmax(-1) == test.label
  )
  row = page.table('dynamic minus static')['right answers (%)']
  assert float(row['difference']) == pytest.approx(100 * gain, abs=0.006)


def test_evidence_table(made):
  _, predictions, text = made('evidence')
  page, test = Page(text), predictions['main']['test']
  table = page.table('evidence')
  assert set(table) == {
    'conflict',
    'vacuity',
    *(f'vacuity/{name}' for name in NASTY_PATHS),
  }
  wrong = test.logits[0].argmax(-1) != test.label
  for name, row in table.items():
    values = test.evidence[name][0]
    assert float(row['mean']) == pytest.approx(values.mean(), abs=6e-5)
    assert float(row['where wrong']) == pytest.approx(values[wrong].mean(), abs=6e-5)
    want = metrics.roc_auc_score(wrong, values)
    assert float(row['AUROC of errors']) == pytest.approx(want, abs=6e-5)
  assert 'no static fusion of the same mean weights' in page.text


def test_result_table_over_seeds(made):
  _, predictions, text = made('gated')
  table = Page(text).table('model')
  rows = {
    'cheap expert alone': predictions['cheap']['test'].logits,
    'dear expert alone': predictions['dear']['test'].logits,
    'average plain average of the experts': (
      predictions['cheap']['test'].logits + predictions['dear']['test'].logits
    ),
    'gated model main model': predictions['main']['test'].logits,
  }
  assert len(table) == len(rows) + 1
  label = predictions['main']['test'].label
  for name, logits in rows.items():
    chosen = logits.argmax(-1)
    accuracy = [metrics.accuracy_score(label, one) for one in chosen]
    f1 = [metrics.f1_score(label, one, average='macro') for one in chosen]
    got = table[name]
    assert numbers(got['accuracy (%)']) == pytest.approx(
      [100 * value for value in t_interval(accuracy)], abs=0.006
    )
    assert numbers(got['macro F1 (%)'])[0] == pytest.approx(
      100 * np.mean(f1), abs=0.006
    )
  assert table['cheap expert alone']['MACs'] == '1 k'
  assert table['average plain average of the experts']['MACs'] == '6 k'
  share = predictions['main']['test'].weights['dear'].mean()
  macs = GATE_MACS + CHEAP + share * (DEAR - CHEAP)
  assert table['gated model main model']['MACs'] == f'{macs / 1000:.3g} k'
  assert table['dear expert alone']['parameters'] == '50,007'


def test_oracle_is_right_where_any_path_is(made):
  _, predictions, text = made('gated')
  test = predictions['main']['test']
  right = {k: v.argmax(-1) == test.label for k, v in test.expert_logits.items()}
  either = (right['cheap'] | right['dear']).mean(axis=1)
  dear = (right['dear'] & ~right['cheap']).mean()
  macs = GATE_MACS + CHEAP + dear * (DEAR - CHEAP)
  row = Page(text).table('model')['gate oracle bound: the cheapest path that is right']
  assert numbers(row['accuracy (%)'])[0] == pytest.approx(
    100 * either.mean(), abs=0.006
  )
  assert row['MACs'] == f'{macs / 1000:.3g} k'
  assert row['macro F1 (%)'] == '-'


def test_one_seed_has_wilson_intervals_of_shares_only(made):
  _, predictions, text = made('one_seed')
  page = Page(text)
  assert 'Wilson' in page.text
  test = predictions['main']['test']
  hits = int((test.logits[0].argmax(-1) == test.label).sum())
  want = stats.binomtest(hits, len(test.label)).proportion_ci(method='wilson')
  row = page.table('model')['gated model main model']
  assert numbers(row['accuracy (%)']) == pytest.approx(
    [100 * hits / len(test.label), 100 * want.low, 100 * want.high], abs=0.006
  )
  assert '[' not in row['macro F1 (%)']
  assert '[' not in row['loss']


def test_regression_table(made):
  _, predictions, text = made('regression')
  test = predictions['main']['test']
  row = Page(text).table('model')['gated model main model']
  error = np.abs(test.logits[..., 0] - test.label).mean(axis=1)
  assert numbers(row['MAE']) == pytest.approx(t_interval(error), abs=6e-5)
  assert 'loss' not in row


def test_routed_table(made):
  _, predictions, text = made('gated')
  test = predictions['main']['test']
  table = Page(text).table('sent to')
  for sent in test.weights:
    mask = test.weights[sent] == 1
    assert numbers(table[sent]['examples']) == pytest.approx(
      [round(mask.sum(axis=1).mean()), 100 * mask.mean()], abs=0.06
    )
    for path in test.weights:
      hit = test.expert_logits[path].argmax(-1) == test.label
      means = [hit[seed][mask[seed]].mean() for seed in range(len(mask))]
      got = numbers(table[sent][f'{path} accuracy (%)'])[0]
      assert got == pytest.approx(100 * np.mean(means), abs=0.006)


def test_a_path_without_examples_has_no_score(made):
  folder, _, _ = made('gated')
  run = read_run(folder)
  test = run.main.predictions['test']
  nobody = np.zeros_like(test.weights['dear'])
  for count in (0, 1):
    # With `count` of three seeds that send one example, there is a mean, if any.
    dear = nobody.copy()
    dear[:count, 0] = 1
    changed = dataclasses.replace(test, weights={'cheap': 1 - dear, 'dear': dear})
    stage = dataclasses.replace(run.main, predictions={'test': changed})
    row = scores.routed_rows(stage, 'test', run.task)[1]
    assert row.count == pytest.approx(count / 3)
    if not count:
      assert set(row.scores.values()) == {None}
    else:
      hit = test.expert_logits['dear'][0, 0].argmax() == test.label[0]
      assert row.scores['dear'] == scores.Estimate(float(hit))


@pytest.mark.parametrize(
  ('costs', 'values', 'maximize', 'want'),
  [
    ([1, 5], [0.6, 0.9], True, [0, 1]),
    ([5, 1], [0.9, 0.6], True, [1, 0]),
    ([1, 5], [0.9, 0.6], True, [0]),
    ([1, 5], [0.9, 0.6], False, [0, 1]),
    ([1, 2, 3], [0.6, 0.9, 0.95], True, [0, 1, 2]),
    ([1, 2, 3], [0.6, 0.7, 0.95], True, [0, 2]),
    ([1, 2, 3], [0.6, 0.9, 0.8], True, [0, 1]),
    ([1, 1, 3], [0.6, 0.7, 0.8], True, [1, 2]),
  ],
)
def test_random_routing_is_the_hull(costs, values, maximize, want):
  assert scores.random_routing(costs, values, maximize) == want


def test_random_routing_is_what_a_coin_reaches(made):
  folder, predictions, text = made('gated')
  run = read_run(folder)
  test = predictions['main']['test']
  static = scores.static_rows(run, 'test')
  gated = scores.result_rows(run, 'test')[-1]
  assert [row.name for row in static] == ['cheap', 'dear']
  random, gain = scores.gain_over_random(static, gated, 'accuracy', True)
  hit = {k: v.argmax(-1) == test.label for k, v in test.expert_logits.items()}
  own = (test.logits.argmax(-1) == test.label).mean(axis=1)
  reached = []
  for seed, share in enumerate(test.weights['dear'].mean(axis=1)):
    # The gate costs something, so a coin may choose the dear path more often.
    coin = share + GATE_MACS / (DEAR - CHEAP)
    reached.append(
      coin * hit['dear'][seed].mean() + (1 - coin) * hit['cheap'][seed].mean()
    )
  assert random.mean == pytest.approx(np.mean(reached))
  want = t_interval(own - reached)
  assert [gain.mean, gain.low, gain.high] == pytest.approx(want)
  assert f'difference {100 * want[0]:+.2f} [{100 * want[1]:.2f}' in Page(text).text


def test_curve_is_calibrated_on_validation_and_scored_on_test(made):
  folder, predictions, text = made('gated')
  valid, test = predictions['main']['valid'], predictions['main']['test']
  costs = GATE_MACS + np.array([DEAR, CHEAP])  # In the order of the gate's outputs.
  points = curve.points(read_run(folder).main, Multiclass(num_outputs=3))
  asked = np.linspace(GATE_MACS + CHEAP, GATE_MACS + DEAR, 15)
  assert [point.budget for point in points] == pytest.approx(asked)
  table = Page(text).table('budget')
  assert len(table) == 15
  for k in (0, 5, 14):
    budget, point = asked[k], points[k]
    accuracy, macs, blind = [], [], []
    for seed in range(3):
      dial = calibrate(valid.gate_logits[seed], costs)
      logits = test.gate_logits[seed]
      chosen = np.asarray(spend(dial, logits, costs, budget)[0])
      experts = [test.expert_logits[path][seed] for path in ('dear', 'cheap')]
      found = np.stack(experts)[chosen, np.arange(40)].argmax(-1)
      accuracy.append(metrics.accuracy_score(test.label, found))
      macs.append(costs[chosen].mean())
      blind.append(costs[spend_blindly(dial, logits, costs, budget)].mean())
    assert point.delivered == pytest.approx(np.mean(macs))
    assert point.deviations == pytest.approx(np.array(macs) / budget - 1, abs=1e-9)
    alone = np.array(blind) / budget - 1
    assert point.blind_deviations == pytest.approx(alone, abs=1e-9)
    row = table[f'{budget / 1000:.3g} k']
    want = t_interval(100 * np.array(accuracy))
    assert numbers(row['accuracy (%)']) == pytest.approx(want, abs=0.006)
    assert row['delivered'] == f'{np.mean(macs) / 1000:.3g} k'
    for column, shares in (('off by', point.deviations), ('without ledger', alone)):
      want = [100 * np.mean(shares), 100 * max(shares, key=abs)]
      assert numbers(row[column]) == pytest.approx(want, abs=0.006)


def test_ends_of_the_curve_are_the_static_paths(made):
  folder, _, _ = made('gated')
  run = read_run(folder)
  first, *_, last = curve.points(run.main, run.task)
  paths = run.main.scores['test']['paths']
  assert first.score.mean == pytest.approx(np.mean(paths['cheap']['accuracy']))
  assert last.score.mean == pytest.approx(np.mean(paths['dear']['accuracy']))
  assert (*first.deviations, *last.deviations) == pytest.approx([0] * 6)


@pytest.mark.parametrize('name', ['gated', 'one_seed', 'regression'])
def test_curve_is_drawn(made, name):
  page = Page(made(name)[2])
  assert 'gated model at a budget' in page.plot_text
  assert len(page.table('budget')) == 15


def test_no_curve_without_gate_logits(tmp_path):
  dataclasses.replace(RUNS['gated'], gate_logits=False).write(tmp_path)
  page = Page(write_report(tmp_path).read_text())
  assert 'random routing' in page.plot_text
  assert 'at a budget' not in page.text
  assert not any(table[0][0] == 'budget' for table in page.tables)


def test_no_curve_for_a_gate_that_mixes_its_paths(made):
  main = read_run(made('gated')[0]).main
  test = main.predictions['test']
  mixed = {path: 0.9 * share + 0.05 for path, share in test.weights.items()}
  test = dataclasses.replace(test, weights=mixed)
  soft = dataclasses.replace(main, predictions={**main.predictions, 'test': test})
  assert curve.points(main, Multiclass(num_outputs=3))
  assert curve.points(soft, Multiclass(num_outputs=3)) == []


def test_measured_times(made):
  page = Page(made('gated')[2])
  table = page.table('batch')
  macs = {'dense': CHEAP + DEAR, 'cheap': CHEAP, 'dear': DEAR}
  for path, count in macs.items():
    assert table['MACs'][path] == f'{count + GATE_MACS:,}'
  assert table['8'] == {
    'batch': '8',
    'policy': '<b>ladder',
    'dense': '0.4 ms',
    'cheap': '0.05 ms',
    'dear': '0.31 ms',
    'gated': '0.16 ms',
    'gated MACs': '3,100',
    'realised': '127 %',
  }
  assert table['1']['policy'] == 'switch'
  assert table['1']['realised'] == '116 %'
  assert f'per example on {DEVICE}' in page.text
  assert 'seed 4' in page.text
  assert '(dense time / gated time) / (dense MACs / executed MACs)' in page.text
  nasty = Page(made('stand_in')[2]).table('batch')
  assert set(NASTY_PATHS) <= set(nasty['8'])


@pytest.mark.parametrize('name', ['one_seed', 'static_labels'])
def test_no_times_where_none_were_measured(made, name):
  page = Page(made(name)[2])
  assert 'Measured time' not in page.text
  assert not any(table[0][0] == 'batch' for table in page.tables)


def test_table_of_fixed_points(made):
  _, predictions, text = made('equilibrium')
  test, table = predictions['main']['test'], Page(text).table('block')
  assert list(table) == ['<b>text', 'fused']
  for block, row in table.items():
    found = {name: test.solver[f'solver/{block}/{name}'] for name in SOLVER}
    converged = int((found['residual'] < TOL).sum())
    assert row['steps'] == f'{found["steps"].mean():.2f}'
    assert row['most'] == f'{MAX_STEPS}'
    assert row['converged'] == f'{converged / 120:.2%} {converged} of 120'
    assert row['residual'] == f'{np.median(found["residual"]):.2g}'
    # Of 120 sorted steps, 114 are below the 95th percentile, or equal to it.
    assert row['95th percentile'] == f'{np.sort(found["steps"].ravel())[114]:.0f}'


def test_fixed_points_are_drawn(made):
  page = Page(made('equilibrium')[2])
  titles = ['residual by step', 'steps per example', 'accuracy (%) by steps']
  assert [f'made_up: {title}' for title in titles] == page.plots[1:4]
  assert page.plot_text.count('<b>text') == 2
  assert f'tolerance {TOL:g}' in page.plot_text
  gated = Page(made('regression')[2])
  assert 'dear: MAE by steps' in gated.plots
  assert 'whether or not the gate sends them there' in gated.text
  assert list(gated.table('block')) == ['dear/fused', 'dear/text']


def test_plots_of_solvers_show_all_examples(made):
  test = made('equilibrium')[1]['main']['test']
  (block,) = (b for b in solver.blocks_by_path(test)[''] if b.name == 'fused')
  axes = Figure().add_subplot()
  solver.residual_by_step([block], TOL)(axes)
  median, tolerance = axes.lines
  trace = np.where(np.isnan(block.trace), 1.0, block.trace).reshape(120, MAX_STEPS)
  np.testing.assert_allclose(median.get_ydata(), np.median(trace, axis=0), rtol=1e-5)
  np.testing.assert_array_equal(median.get_xdata(), np.arange(1, MAX_STEPS + 1))
  assert tuple(tolerance.get_ydata()) == (TOL, TOL)
  band = axes.collections[0].get_paths()[0].vertices[:, 1]
  low, high = np.quantile(trace, (0.05, 0.95), axis=0)
  assert [band.min(), band.max()] == pytest.approx([low.min(), high.max()], rel=1e-5)

  axes = Figure().add_subplot()
  solver.steps_per_example([block])(axes)
  shares, edges, _ = axes.patches[-1].get_data()
  counts = [(block.steps == step).sum() for step in edges[:-1] + 0.5]
  assert sum(counts) == 120
  assert shares == pytest.approx(np.array(counts) / 1.2)


@pytest.mark.parametrize('name', ['gated', 'one_seed', 'static_labels'])
def test_no_fixed_points_where_there_are_none(made, name):
  text = Page(made(name)[2]).text
  assert 'Fixed points' not in text
  assert 'Not converged' not in text


def test_no_convergence_is_said_aloud(made):
  _, predictions, text = made('equilibrium')
  test, valid = (
    (predictions['main'][split].solver['solver/fused/converged'] == 0).mean()
    for split in ('test', 'valid')
  )
  assert min(test, valid) > 0
  shares = f'{100 * test:.3g} % of the test and {100 * valid:.3g} % of the valid'
  assert f'block fused on {shares} examples.' in Page(text).text
  assert '<p class="warning"><strong>Not converged:</strong>' in text
  assert 'Raise max_steps of the fusion, or raise loss.jacobian' in Page(text).text
  assert 'Not converged' not in Page(made('regression')[2]).text


@pytest.mark.parametrize(
  ('name', 'path'), [('equilibrium', ''), ('regression', 'dear')]
)
def test_scores_by_steps(made, name, path):
  folder, predictions, _ = made(name)
  test, task = predictions['main']['test'], read_run(folder).task
  blocks = solver.blocks_by_path(test)[path]
  bins = solver.by_steps(test, task, path, blocks)
  steps = sum(block.steps for block in blocks)
  logits = test.expert_logits[path] if path else test.logits
  right = logits.argmax(-1) == test.label
  score = abs(logits[..., 0] - test.label) if path else right
  assert 1 < len(bins) <= solver.BINS
  assert [at.high < after.low for at, after in pairwise(bins)] == [True] * len(bins[1:])
  inside = [(at.low <= steps) & (steps <= at.high) for at in bins]
  assert np.sum(inside, axis=0).min() == 1
  for at, here in zip(bins, inside, strict=True):
    each = [score[here[:, n], n].mean() for n in range(40) if here[:, n].any()]
    assert at.count == len(each)
    assert at.score.mean == pytest.approx(np.mean(each), rel=1e-5)
    ends = np.array([at.score.low, at.score.high])
    if path:
      assert ends == pytest.approx(t_interval(each)[1:], rel=1e-4)
    else:  # Wilson's ends are where the mean is just significantly different.
      z2 = stats.norm.ppf(0.975) ** 2
      want = z2 * ends * (1 - ends) / len(each)
      assert (np.mean(each) - ends) ** 2 == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(
  ('config', 'want'),
  [
    ({'model': {'name': 'x'}}, None),
    ({'a': {'b': {'tol': 0.1, 'max_steps': 5}}, 'c': {'tol': 7}}, 0.1),
    ({'a': {'tol': 0.1, 'max_steps': 5}, 'b': {'tol': 0.1, 'max_steps': 6}}, 0.1),
    ({'a': {'tol': 0.1, 'max_steps': 5}, 'b': {'tol': 0.2, 'max_steps': 5}}, None),
  ],
)
def test_tolerance_is_known_if_it_is_one(config, want):
  assert solver.tolerance(config) == want


def test_costs_are_less_by_what_solvers_did_not_spend(made):
  folder, predictions, _ = made('regression')
  run, test = read_run(folder), predictions['main']['test']
  unspent = test.unspent_macs['dear']
  assert unspent.min(axis=1).max() > 0
  rows = {row.name: row for row in scores.result_rows(run, 'test')}
  alone = DEAR - unspent.mean(axis=1)
  assert rows['dear'].macs == pytest.approx(alone)
  assert rows['average'].macs == pytest.approx(CHEAP + alone)
  dear = test.weights['dear']
  macs = GATE_MACS + (1 - dear) * CHEAP + dear * (DEAR - unspent)
  assert rows['main'].macs == pytest.approx(macs.mean(axis=1))
  run.main.scores['test']['paths']['dear']['mae'] = [9.0, 9.0, 9.0]
  tuned = next(row for row in scores.result_rows(run, 'test') if row.kind == 'path')
  assert tuned.macs == pytest.approx(GATE_MACS + alone)
  *_, last = curve.points(run.main, run.task)
  # The dearest budget is the mean of the dear path on the validation split.
  price = GATE_MACS + DEAR - predictions['main']['valid'].unspent_macs['dear'].mean()
  want = (GATE_MACS + alone) / price - 1
  assert last.deviations == pytest.approx(want, abs=1e-6)
  assert last.blind_deviations == pytest.approx(want, abs=1e-6)


def test_gate_usage_by_class(made):
  folder, predictions, _ = made('gated')
  run, test = read_run(folder), predictions['main']['test']
  stage = run.main
  got = scores.class_usage(stage, 'test', run.task)
  for k, path in enumerate(stage.paths):
    for c in range(3):
      want = test.weights[path][:, test.label == c].mean()
      assert got[k, c] == pytest.approx(want)


def test_gate_usage_by_label(tmp_path):
  predictions = FakeRun(task='multilabel').write(tmp_path)['main']['test']
  predictions.label[:, 2] = 0
  run = read_run(tmp_path)
  main = dataclasses.replace(run.main, predictions={'test': predictions})
  got = scores.class_usage(main, 'test', run.task)
  want = predictions.weights['dear'][:, predictions.label[:, 1] == 1].mean()
  assert got[1, 1] == pytest.approx(want)
  assert np.isnan(got[:, 2]).all()
  assert got[:, :2].sum(axis=0) == pytest.approx(1)


def test_a_segmentation_is_judged_by_its_pixels(made):
  folder, predictions, text = made('scenes')
  run, test = read_run(folder), predictions['main']['test']
  counts = test.logits.sum(axis=1, dtype=np.float64)
  want = np.zeros(counts.shape[:2])
  for seed, c in np.ndindex(want.shape):
    union = counts[seed, c].sum() + counts[seed, :, c].sum() - counts[seed, c, c]
    want[seed, c] = counts[seed, c, c] / union
  assert scores.class_iou(test) == pytest.approx(want)
  assert run.main.scores['test']['model']['miou'] == pytest.approx(want.mean(axis=1))
  share = counts / counts.sum(axis=2, keepdims=True)
  assert scores.confusion(test, run.task) == pytest.approx(share.mean(axis=0))
  usage = scores.class_usage(run.main, 'test', run.task)
  pixels = test.logits[0].sum(axis=2)  # [N, C], the same for all seeds.
  for k, path in enumerate(run.main.paths):
    each = test.weights[path].mean(axis=0)
    assert usage[k] == pytest.approx(each @ pixels / pixels.sum(axis=0))
  right = np.trace(test.logits, axis1=2, axis2=3) / pixels.sum(axis=1)
  assert scores.example_scores(run.task, test) == pytest.approx(right)
  page = Page(text).text
  assert 'Intersection over union by class' in page
  assert 'mIoU (%)' in page
  assert 'Share of the pixels of an image that are right' in page
  # The dial reroutes what every exit alone gives.
  assert len(curve.points(run.main, run.task)) == curve.BUDGETS


def test_confusion_matches_scikit_learn(made):
  test = made('gated')[1]['cheap']['test']
  want = [
    metrics.confusion_matrix(test.label, one.argmax(-1), normalize='true')
    for one in test.logits
  ]
  got = scores.confusion(test, Multiclass(num_outputs=3))
  np.testing.assert_allclose(got, np.mean(want, axis=0), atol=1e-6)


def test_label_f1_matches_scikit_learn(made):
  test = made('static_labels')[1]['main']['test']
  want = [metrics.f1_score(test.label, one > 0, average=None) for one in test.logits]
  got = scores.label_f1(test, Multilabel(num_outputs=3))
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_shares_of_examples_know_their_number():
  label = np.array([0.0, 1.5, -2.0, 0.0])
  got = scores.proportions(Regression(), label)
  assert got == {'acc2_has0': 4, 'acc2_non0': 2, 'acc5': 4, 'acc7': 4}
  assert scores.proportions(Multilabel(num_outputs=2), np.zeros((4, 2))) == {}


def test_training_loss_is_weighted_by_steps(made):
  folder, _, _ = made('gated')
  lines = (folder / 'stages/main/metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  losses = np.array([r['loss'] for r in records if r['split'] == 'train'])
  stage = read_run(folder).main
  assert stage.train['loss'].shape == (3, 4)
  want = 0.6 * losses[2] + 0.4 * losses[3]
  assert stage.train['loss'][:, 1] == pytest.approx(want)
  accuracy = [r['accuracy'] for r in records if r['split'] == 'valid']
  np.testing.assert_array_equal(stage.valid['accuracy'], np.transpose(accuracy))


@pytest.mark.parametrize(
  ('usage', 'want'),
  [
    ([0.5, 0.011, 0.989], {}),
    ([0.5, 0.005, 0.4], {'cheap': {4: 0.995}, 'dear': {4: 0.005}}),
    ([1.0, 0.5, 0.5], {'cheap': {3: 0.0}, 'dear': {3: 1.0}}),
  ],
)
def test_collapse_is_seen(tmp_path, usage, want):
  RUNS['gated'].write(tmp_path)
  path = tmp_path / 'stages/main/result.json'
  usage_by_path = {'cheap': [1 - share for share in usage], 'dear': usage}
  rewrite(path, lambda result: result['splits']['valid'].update(usage=usage_by_path))
  got = scores.collapsed(read_run(tmp_path).main)
  assert set(got) == set(want)
  for name, shares in want.items():
    assert got[name] == pytest.approx(shares)


def test_collapse_is_shown(tmp_path, made):
  dataclasses.replace(RUNS['gated'], sent_to_dear=0.0, epochs=1).write(tmp_path)
  text = Page(write_report(tmp_path).read_text()).text
  assert 'The gate has collapsed.' in text
  assert 'dear gets 0.00% (seed 3), 0.00% (seed 4)' in text
  assert 'collapsed' not in Page(made('gated')[2]).text


def test_tuned_experts_are_rows_of_their_own(tmp_path):
  RUNS['gated'].write(tmp_path)
  path = tmp_path / 'stages/main/result.json'

  def change(result):
    result['splits']['test']['paths']['dear']['accuracy'] = [0.1, 0.2, 0.3]

  rewrite(path, change)
  rows = scores.result_rows(read_run(tmp_path), 'test')
  assert [(row.name, row.kind) for row in rows] == [
    ('cheap', 'stage'),
    ('dear', 'stage'),
    ('dear', 'path'),
    ('average', 'uniform'),
    ('gate oracle', 'oracle'),
    ('main', 'model'),
  ]
  assert rows[2].macs == [DEAR + GATE_MACS] * 3
  # One would deploy the expert without the gate.
  assert scores.static_rows(read_run(tmp_path), 'test')[1].kind == 'stage'


def test_experts_are_ordered_by_cost(tmp_path):
  dataclasses.replace(RUNS['gated'], paths=('small', 'large')).write(tmp_path)
  run = read_run(tmp_path)
  assert list(run.stages) == ['small', 'large', 'main']
  assert run.main.paths == ('small', 'large')


def test_fusion_of_experts_without_paths(tmp_path):
  FakeRun(gate_logits=False).write(tmp_path)
  path = tmp_path / 'stages/main/result.json'

  def change(result):
    result['macs']['paths'] = {}
    result['splits']['test']['uniform'] = result['splits']['test']['model']

  rewrite(path, change)
  page = Page(write_report(tmp_path).read_text())
  assert 'made_up main model' in page.table('model')
  assert 'average plain average of the experts' not in page.table('model')
  assert 'random routing' not in page.text
  assert 'oracle' not in page.text


def _cut(path):
  path.write_text(path.read_text()[:-9])


def _without(key):
  return lambda path: rewrite(path, lambda value: value.pop(key))


def _with(key, new):
  return lambda path: rewrite(path, lambda value: value.update({key: new}))


def _with_batch(key, new):
  return lambda path: rewrite(
    path, lambda value: value['batches'][1].update({key: new})
  )


def _as_written(damage):
  """Damage to a file of a stage, as if the run itself had written it like that."""

  def damage_and_seal(path):
    damage(path)
    rewrite(path.with_name('result.json'))

  return damage_and_seal


def _fewer_examples(path):
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  arrays['logits'] = arrays['logits'][:, :-1]
  np.savez(path, **arrays)


def _fewer_paths(path):
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  arrays['paths'] = arrays['paths'][:1]
  np.savez(path, **arrays)


DAMAGES = {
  'no config': ('config.json', lambda path: path.unlink(), 'repeat the training'),
  'no data': ('data.json', lambda path: path.unlink(), 'repeat the training'),
  'no result': (
    'stages/main/result.json',
    lambda path: path.unlink(),
    'goes on where it stopped',
  ),
  'no log': (
    'stages/cheap/metrics.jsonl',
    lambda path: path.unlink(),
    'missing; .*delete .*stages/cheap and',
  ),
  'no predictions': (
    'stages/dear/predictions_test.npz',
    lambda path: path.unlink(),
    'missing; .*delete .*stages/dear and',
  ),
  'cut config': ('config.json', _cut, 'delete .*config.json'),
  'cut result': ('stages/cheap/result.json', _cut, 'delete .*stages/cheap and'),
  'cut log': ('stages/cheap/metrics.jsonl', _cut, 'damaged, .*delete .*stages/cheap'),
  'a log of other lines': (
    'stages/cheap/metrics.jsonl',
    _as_written(_cut),
    'of another run.*delete .*stages/cheap',
  ),
  'empty log': (
    'stages/main/metrics.jsonl',
    _as_written(lambda path: path.write_text('')),
    'no whole epoch',
  ),
  'short log': (
    'stages/main/metrics.jsonl',
    _as_written(lambda path: path.write_text(''.join(path.open().readlines()[:3]))),
    '1 epochs, but the best ones are',
  ),
  'binary config': ('config.json', lambda path: path.write_bytes(b'\xff'), 'delete'),
  'list for config': (
    'config.json',
    lambda path: path.write_text('[]'),
    'damaged',
  ),
  'no seeds': ('stages/dear/result.json', _without('seeds'), "'seeds'"),
  'no model': ('config.json', _without('model'), "'model'"),
  'no test split': ('data.json', _with('sizes', {'train': 9, 'valid': 9}), "'test'"),
  'no class names': (
    'data.json',
    lambda path: rewrite(path, lambda data: data['spec']['class_names'].pop()),
    '2 class names for 3',
  ),
  'no origin': ('data.json', _without('origin'), "'origin'"),
  'sizes are a number': ('data.json', _with('sizes', 3), 'wrong kind'),
  'other seeds': ('stages/dear/result.json', _with('seeds', [1, 2, 3]), 'other seeds'),
  'unlogged score': (
    'stages/dear/metrics.jsonl',
    lambda path: _with('select', 'beauty')(path.with_name('result.json')),
    "validation has no 'beauty'",
  ),
  'damaged predictions': (
    'stages/main/predictions_valid.npz',
    lambda path: path.write_bytes(path.read_bytes()[:200]),
    'damaged, .*delete .*stages/main and',
  ),
  'other predictions': (
    'stages/main/predictions_test.npz',
    _as_written(_fewer_examples),
    r'\[3, 39, 3\] where the run has',
  ),
  'other gate': (
    'stages/main/predictions_valid.npz',
    _as_written(_fewer_paths),
    r"gate logits \[3, 40, 2\] of \('dear',\)",
  ),
  'cut times': ('latency.json', _cut, 'delete .*latency.json and measure again'),
  'no device': ('latency.json', _without('device'), "'device'"),
  'times are a number': ('latency.json', _with('batches', 3), 'wrong kind'),
  'times of other paths': (
    'latency.json',
    _with_batch('paths', {'cheap': 0.1}),
    r"times of paths \['cheap'\]",
  ),
  'a time of 0': ('latency.json', _with_batch('gated', 0), "'gated': 0,"),
  'a time is text': ('latency.json', _with_batch('dense', '0.4'), 'wrong kind'),
  'not a time': ('latency.json', _with_batch('dense', float('nan')), "'dense': nan"),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_missing_and_damaged_files_are_named(tmp_path, name):
  file, damage, message = DAMAGES[name]
  RUNS['gated'].write(tmp_path)
  damage(tmp_path / file)
  with pytest.raises(DataError, match=f'(?s){re.escape(file)}.*{message}'):
    write_report(tmp_path)
  assert not (tmp_path / 'report.html').exists()


def test_same_files_give_the_same_bytes(made, tmp_path):
  folder, _, text = made('one_epoch')
  assert write_report(folder).read_text(encoding='utf-8') == text
  names = [path.name for path in folder.iterdir() if path.name.startswith('report')]
  assert names == ['report.html']


def test_command_prints_the_path(made, capsys):
  folder, _, _ = made('static_labels')
  command.main(['--workdir', str(folder)])
  assert capsys.readouterr().out.strip() == str(folder / 'report.html')


def test_command_explains_what_is_wrong(tmp_path, capsys):
  with pytest.raises(SystemExit) as stopped:
    command.main(['--workdir', str(tmp_path / 'nowhere')])
  assert stopped.value.code == 1
  assert 'nowhere/config.json is missing' in capsys.readouterr().err


def test_help_imports_nothing_heavy():
  code = (
    'import sys\n'
    'from jdyn import report\n'
    'try:\n'
    "  report.main(['--help'])\n"
    'finally:\n'
    "  assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert '--workdir' in done.stdout
