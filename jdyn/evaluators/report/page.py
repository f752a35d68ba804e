"""The page itself: sections of tables and plots, in one HTML text."""

import json
from collections.abc import Sequence
from html import escape

import numpy as np

from jdyn.evaluators.predictions import convergence_warning
from jdyn.evaluators.report import (
  calibration,
  confidence,
  curve,
  evidence,
  markup,
  plots,
  scores,
  solver,
)
from jdyn.evaluators.report.run import Run, Stage
from jdyn.evaluators.tables import latency_table
from jdyn.tasks import Multiclass, Multilabel, Regression, Segmentation

_STAND_IN = 'synthetic stand-in'

# System colours follow the reader's light or dark setting.
_CSS = """
:root { color-scheme: light dark }
body { background: Canvas; color: CanvasText; font: 16px/1.45 system-ui, sans-serif;
  margin: 0 auto; max-width: 70rem; padding: 0.5rem 1rem 3rem }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; overflow-wrap: anywhere }
h2 { border-bottom: 1px solid #8886; font-size: 1.2rem; margin-top: 2.2rem }
.alarm { background: #b00020; border-radius: 0.4rem; color: #fff; font-weight: bold;
  padding: 0.7rem 1rem }
.warning { border-left: 0.4rem solid #d55e00; background: #d55e0022;
  padding: 0.5rem 1rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin: 0.6rem 0 }
th, td { border-bottom: 1px solid #8884; padding: 0.25rem 0.7rem; text-align: right;
  vertical-align: top; white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal }
td:first-child { min-width: 9rem }
.facts td { overflow-wrap: anywhere; text-align: left; white-space: normal }
.facts th { vertical-align: top }
.strong td { background: #0072b226; font-weight: bold }
mark { background: #0072b226; color: inherit; display: block; font-weight: bold }
small, figcaption, .note { font-size: 0.82rem; font-weight: normal; opacity: 0.8 }
td small { display: block }
.plots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
figure { margin: 0 }
svg { height: auto; max-width: 100% }
pre { max-height: 30rem; overflow: auto }
"""

_KINDS = {
  'stage': 'expert alone',
  'warm_up': 'stage before the main one',
  'path': 'as a path of the main model',
  'uniform': 'plain average of the experts',
  'oracle': 'bound: the cheapest path that is right',
  'model': 'main model',
}


def page(run: Run) -> str:
  """The whole page."""
  return _Page(run).text()


class _Page:
  """Writes one run; holds what every plot needs."""

  def __init__(self, run: Run):
    self._run, self._main = run, run.main
    self._num_plots = 0
    self._several = len(self._main.seeds) > 1

  def text(self) -> str:
    """All sections in their order."""
    name = f'{self._run.dataset}: {self._run.workdir.resolve().name}'
    body = [
      f'<h1>{escape(name)}</h1>',
      self._head(),
      self._collapse(),
      self._convergence(),
      self._results(),
      self._cost(),
      self._latency(),
      self._gate(),
      self._routed(),
      self._mistakes(),
      self._solvers(),
      calibration.section(self._run, self._figure),
      confidence.section(self._run, self._figure),
      evidence.section(self._run, self._figure),
      self._curves(),
      self._config(),
    ]
    return (
      '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f'<title>{escape(name)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n'
      + '\n'.join(part for part in body if part)
      + '\n</body>\n</html>\n'
    )

  def _head(self) -> str:
    run = self._run
    sizes = ', '.join(f'{n:,} {split}' for split, n in run.sizes.items())
    facts = {
      'dataset': f'{run.dataset} ({run.origin})',
      'examples': sizes,
      'task': type(run.task).__name__.lower(),
      'model': run.model,
      'seeds': ', '.join(map(str, self._main.seeds)),
      **{name: markup.plain(value) for name, value in run.environment.items()},
    }
    parts = [markup.facts(facts)]
    if run.origin == _STAND_IN:
      parts.insert(
        0,
        '<p class="alarm">SYNTHETIC STAND-IN: the data are made up. Nothing on this '
        f'page says anything about the real {escape(run.dataset)}.</p>',
      )
    hashes = markup.facts(run.hashes) if run.hashes else '<p>No files were read.</p>'
    parts.append(markup.details('SHA-256 of the data files', hashes))
    return '\n'.join(parts)

  def _collapse(self) -> str:
    """A box about the paths that the gate hardly ever, or nearly always, chooses."""
    paths = [
      f'<em>{escape(path)}</em> gets '
      + ', '.join(f'{share:.2%} (seed {seed})' for seed, share in shares.items())
      for path, shares in scores.collapsed(self._main).items()
    ]
    if not paths:
      return ''
    return (
      '<p class="warning"><strong>The gate has collapsed.</strong> Of the validation '
      f'examples, path {"; path ".join(paths)}.</p>'
    )

  def _convergence(self) -> str:
    """A box about the blocks whose solvers gave up."""
    warning = convergence_warning(self._main.predictions)
    if not warning:
      return ''
    what, colon, details = warning.partition(':')
    return (
      f'<p class="warning"><strong>{escape(what + colon)}</strong>{escape(details)}</p>'
    )

  def _results(self) -> str:
    kind = (
      'In brackets the 95 % interval of the mean over '
      f'{len(self._main.seeds)} seeds (Student t).'
      if self._several
      else 'One seed: in brackets the 95 % Wilson interval over the examples, for '
      'scores that are shares of examples. It says nothing about other seeds.'
    )
    return markup.section(
      'Results',
      f'<h3>Test, {self._size("test")} examples</h3>',
      self._result_table('test'),
      markup.details(
        f'Validation, {self._size("valid")} examples', self._result_table('valid')
      ),
      f'<p class="note">{kind} MACs: multiply-accumulates that an example needs on '
      'average; for a path of a gated model the gate is included.</p>',
    )

  def _size(self, split: str) -> str:
    return f'{self._run.sizes[split]:,}'

  def _result_table(self, split: str) -> str:
    task = self._run.task
    # The score that counts comes first. The loss of a regression is its error, and
    # where no logits are kept none is known.
    more = set(self._main.scores[split]['model']) - set(task.score_names)
    names = [*task.score_names, *sorted(more - set(calibration.SHOWN))]
    names.sort(key=lambda name: name != task.main_score)
    if isinstance(task, Regression) or not task.keeps_logits:
      names.remove('loss')
    shares = scores.proportions(task, self._main.predictions[split].label)
    rows = []
    for row in scores.result_rows(self._run, split):
      name_cell = f'{escape(self._model_name(row))}<small>{_KINDS[row.kind]}</small>'
      score_cells = []
      for name in names:
        known = name in row.scores
        found = scores.estimate(row.scores[name], shares.get(name)) if known else None
        score_cells.append(markup.cell(found, name))
      macs = '-' if row.macs is None else markup.count(float(np.mean(row.macs)))
      parameters = '-' if row.parameters is None else f'{row.parameters:,}'
      cells = [name_cell, score_cells[0], macs, *score_cells[1:], parameters]
      rows.append((cells, row.kind == 'model'))
    labels = [markup.score_label(name) for name in names]
    return markup.table(['model', labels[0], 'MACs', *labels[1:], 'parameters'], rows)

  def _model_name(self, row: scores.Row) -> str:
    if row.kind != 'model':
      return row.name
    return 'gated model' if self._main.paths else self._run.model

  def _cost(self) -> str:
    """Accuracy against cost, for a gated model."""
    if not self._main.paths:
      return ''
    task, name = self._run.task, self._run.task.main_score
    factor, maximize = markup.factor(name), task.higher_is_better(name)
    static = scores.static_rows(self._run, 'test')
    gated = scores.result_rows(self._run, 'test')[-1]
    label = self._main.predictions['test'].label
    shares = scores.proportions(task, label).get(name)

    def score(row: scores.Row) -> scores.Estimate:
      return scores.estimate(row.scores[name], shares).times(factor)

    points = {row.name: (float(np.mean(row.macs)), score(row)) for row in static}
    costs = [cost for cost, _ in points.values()]
    means = [estimate.mean for _, estimate in points.values()]
    hull = scores.random_routing(costs, means, maximize)
    dial = curve.points(self._main, task)
    figure = self._figure(
      f'Test {markup.score_label(name)} against cost',
      plots.score_by_cost(
        markup.score_label(name),
        points,
        ([costs[k] for k in hull], [means[k] for k in hull]),
        (scores.estimate(gated.macs), score(gated)),
        [(at.delivered, at.score.times(factor)) for at in dial],
      ),
      'Bars and band are 95 % intervals, of the kind that the table has. Random '
      'routing sends each example to a path by lot, at no cost; a gate is worth having '
      f'where it lies {"above" if maximize else "below"} that line'
      + (', which is an approximation for F1.' if 'f1' in name else '.'),
      size=(5.2, 3.8),
    )
    random, gain = scores.gain_over_random(static, gated, name, maximize)
    reached = markup.number(np.mean(gated.scores[name]), name)
    gained = f'<strong>{markup.number(gain.mean, name, "+")}</strong>'
    verdict = (
      f'Test {markup.score_label(name)} at '
      f'{markup.count(float(np.mean(gated.macs)))} MACs per example: gated model '
      f'{reached}, random routing {markup.number(random.mean, name)}, difference '
      f'{gained} {markup.interval(gain, name)}'
    ).rstrip()
    how = (
      'Differences are taken seed by seed, with their 95 % interval (Student t).'
      if self._several
      else 'One seed: no interval.'
    )
    return markup.section(
      'Accuracy against cost',
      figure,
      f'<p>{verdict}. <small>{how}</small></p>',
      self._dial(dial),
    )

  def _dial(self, points: Sequence[curve.Point]) -> str:
    """What each budget bought, and how well it was kept."""
    if not points:
      return ''
    name = self._run.task.main_score
    rows = [
      (
        [
          markup.count(at.budget),
          markup.cell(at.score, name),
          markup.count(at.delivered),
          self._deviation(at.deviations),
          self._deviation(at.blind_deviations),
        ],
        False,
      )
      for at in points
    ]
    header = [
      'budget',
      markup.score_label(name),
      'delivered',
      'off by',
      'without ledger',
    ]
    return (
      '<p>The gated model at a budget, in MACs per example. Prices of the paths come '
      'from the validation split; a ledger of what earlier examples cost corrects them '
      'on test. Beside it, by how much the prices alone would be off.'
      + '</p>'
      + markup.table(header, rows)
    )

  def _deviation(self, shares: Sequence[float]) -> str:
    """Mean over seeds and worst seed, in percent of what was asked."""
    mean = f'{100 * np.mean(shares):+.2f} %'
    if not self._several:
      return mean
    return f'{mean}<small>worst seed {100 * max(shares, key=abs):+.2f} %</small>'

  def _latency(self) -> str:
    """What batches took, where somebody measured it."""
    latency, main = self._run.latency, self._main
    if latency is None:
      return ''
    header, *rows = latency_table(
      latency.batches,
      {path: main.path_macs[path] for path in main.paths},
      main.total_macs,
    )
    return markup.section(
      'Measured time',
      f'<p>Milliseconds per example on {escape(latency.device)}, inputs at hand there, '
      'seed '
      f'{latency.seed}: everything computed (dense), all examples on one path, and the '
      'paths in the shares that the gate gives them on the validation split (gated), '
      'run as the policy says.</p>',
      markup.table(header, [(map(escape, row), False) for row in rows]),
      '<p class="note">Realised is the share of the ceiling: (dense time / gated time) '
      '/ (dense MACs / executed MACs). At 100 % the time saved is all that the '
      'multiply-accumulates promise; what they do not count, as reading memory, may '
      f'push it to either side. {escape(markup.plain(latency.versions))}</p>',
    )

  def _gate(self) -> str:
    """Who goes where: by epoch, and by class."""
    main = self._main
    if not main.paths:
      return ''
    over = 'mean over seeds' if self._several else 'one seed'
    figures = []
    if main.trained:  # A converted checkpoint has no epochs.
      usage = {path: main.valid[f'usage/{path}'].mean(axis=0) for path in main.paths}
      figures.append(
        self._figure(
          'Gate usage by epoch',
          plots.usage_by_epoch(usage),
          f'Share of the validation examples by path, {over}.',
        )
      )
    if not isinstance(self._run.task, Regression):
      names = self._class_names()
      of = 'pixels' if isinstance(self._run.task, Segmentation) else 'examples'
      usage = scores.class_usage(main, 'test', self._run.task)
      by_class = dict(zip(main.paths, usage, strict=True))
      figures.append(
        self._figure(
          'Gate usage by class',
          plots.usage_by_class(names, by_class),
          f'Share of the test {of} of each class by path, {over}.',
          size=plots.columns_size(len(names)),
        )
      )
    return markup.section('What the gate chooses', markup.grid(figures))

  def _routed(self) -> str:
    """How right each path is where the gate sends examples."""
    main, task = self._main, self._run.task
    if not main.paths:
      return ''
    name, what = scores.example_score_name(task)
    rows = []
    for row in scores.routed_rows(main, 'test', task):
      cells = [escape(row.path), f'{row.count:,.0f}<small>{row.share:.1%}</small>']
      for path, found in row.scores.items():
        cell = markup.cell(found, name)
        cells.append(f'<mark>{cell}</mark>' if path == row.path else cell)
      rows.append((cells, False))
    columns = [f'{path} {markup.score_label(name)}' for path in main.paths]
    return markup.section(
      'Does the gate find the examples that need more?',
      f'<p>{what}, of every path (columns), on the test examples that the gate sends '
      'to each path (rows); marked is the path that they get. The gate finds the '
      'right examples if a dear path gains more over a cheap one in its own row than '
      'in the others.</p>',
      markup.table(['sent to', 'examples', *columns], rows),
    )

  def _mistakes(self) -> str:
    """Confusion, scores by class or label, or truth against prediction."""
    predictions, task = self._main.predictions['test'], self._run.task
    over = 'mean over seeds' if self._several else 'one seed'
    figures = []
    if isinstance(task, Segmentation):
      names = self._class_names()
      figures.append(
        self._figure(
          'Intersection over union by class on the test split',
          plots.label_bars(names, scores.class_iou(predictions), 'IoU'),
          'Lines show the range over seeds.' if self._several else 'One seed.',
          size=plots.bars_size(len(names)),
        )
      )
    if isinstance(task, Multiclass | Segmentation):
      names = self._class_names()
      figure = self._figure(
        'Confusion on the test split',
        plots.confusion(names, scores.confusion(predictions, task)),
        f'Each row sums to 100 %; {over}.',
        size=plots.matrix_size(len(names)),
      )
    elif isinstance(task, Multilabel):
      names = self._class_names()
      counts = np.asarray(predictions.label).sum(axis=0)
      named = [f'{name} ({n:.0f})' for name, n in zip(names, counts, strict=True)]
      figure = self._figure(
        'F1 by label on the test split',
        plots.label_bars(named, scores.label_f1(predictions, task), 'F1'),
        'In brackets the number of examples with the label'
        + ('; lines show the range over seeds.' if self._several else '; one seed.'),
        size=plots.bars_size(len(names)),
      )
    else:
      values = np.asarray([task.predict(one) for one in predictions.logits])
      truth = np.broadcast_to(predictions.label, values.shape)
      figure = self._figure(
        'Prediction against truth on the test split',
        plots.truth_and_prediction(truth.ravel(), values.ravel()),
        'All seeds.' if self._several else 'One seed.',
      )
    return markup.section('Mistakes of the main model', markup.grid([*figures, figure]))

  def _solvers(self) -> str:
    """How the blocks of equilibrium models converge."""
    by_path = solver.blocks_by_path(self._main.predictions['test'])
    if not by_path:
      return ''
    tol = solver.tolerance(self._run.config)
    rows, parts = [], []
    for path, blocks in by_path.items():
      for block in blocks:
        count, size = np.count_nonzero(block.converged), block.converged.size
        cells = [
          escape('/'.join(filter(None, (path, block.name)))),
          f'{block.steps.mean():.2f}',
          f'{np.quantile(block.steps, 0.95, method="higher"):.0f}',
          f'{block.trace.shape[-1]}',
          f'{count / size:.2%}<small>{count:,} of {size:,}</small>',
          f'{np.median(block.residual):.2g}',
        ]
        rows.append((cells, False))
      parts += [f'<h3>Path {escape(path)}</h3>'] if path else []
      parts.append(markup.grid(self._block_figures(path, blocks, tol)))
    whom = 'the test examples' + (' of all seeds' if self._several else '')
    if self._main.paths:
      whom += ', whether or not the gate sends them there'
    header = ['block', 'steps', '95th percentile', 'most', 'converged', 'residual']
    return markup.section(
      'Fixed points',
      f'<p>Steps that solvers took on {whom}: their mean, 95th percentile and the most '
      'that max_steps allows; then how many examples came below the tolerance, and the '
      'median residual.</p>',
      markup.table(header, rows),
      *parts,
    )

  def _block_figures(
    self, path: str, blocks: Sequence[solver.Block], tol: float | None
  ) -> list[str]:
    """The plots of one path's blocks."""
    task, owner = self._run.task, path or self._run.model
    name, what = scores.example_score_name(task)
    bins = solver.by_steps(self._main.predictions['test'], task, path, blocks)
    kind = 'Student t' if isinstance(task, Regression) else 'Wilson'
    once = 'an example counts once per bin, with its mean over seeds'
    size = (4.6, 3.5)
    return [
      self._figure(
        f'{owner}: residual by step',
        solver.residual_by_step(blocks, tol),
        'Median, and band from the 5th to the 95th percentile. An example that has '
        'stopped keeps its last residual.',
        size,
      ),
      self._figure(
        f'{owner}: steps per example',
        solver.steps_per_example(blocks),
        'A step is an evaluation of the map of the block.',
        size,
      ),
      self._figure(
        f'{owner}: {markup.score_label(name)} by steps',
        solver.score_by_steps(bins, markup.score_label(name), markup.factor(name)),
        f'{what} by the steps of all blocks together, with 95 % intervals over the '
        f'examples ({kind}{"; " + once if self._several else ""}).',
        size,
      ),
    ]

  def _curves(self) -> str:
    """Training loss and validation score of every stage."""
    parts = []
    for stage in self._run.stages.values():
      if not stage.trained:
        continue
      figures = [
        self._figure(
          f'{stage.name}: training loss',
          plots.curve(stage.train['loss'], 'objective, mean over the epoch'),
          'All terms of the objective as they are weighted.',
        ),
        self._figure(
          f'{stage.name}: validation {markup.score_name(stage.select)}',
          plots.curve(
            markup.factor(stage.select) * stage.valid[stage.select],
            markup.score_label(stage.select),
            stage.best_epoch,
          ),
          f'Best epoch: {_best_epochs(stage)}. It is the one that is scored above.',
        ),
      ]
      parts += [f'<h3>Stage {escape(stage.name)}</h3>', markup.grid(figures)]
    return markup.section('Training', *parts or ['<p>Converted from a checkpoint.</p>'])

  def _config(self) -> str:
    text = json.dumps(self._run.config, indent=2, sort_keys=True)
    return markup.details('Config', f'<pre>{escape(text)}</pre>')

  def _class_names(self) -> Sequence[str]:
    return self._run.class_names

  def _figure(
    self,
    title: str,
    paint: plots.Painter,
    caption: str,
    size: tuple[float, float] = (4.6, 3.1),
  ) -> str:
    """A plot; on a stand-in its title says so."""
    self._num_plots += 1
    stamp = f' [{_STAND_IN}]' if self._run.origin == _STAND_IN else ''
    svg = plots.render(f'plot{self._num_plots}', title + stamp, paint, size)
    return f'<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def _best_epochs(stage: Stage) -> str:
  return ', '.join(
    f'{epoch} (seed {seed})'
    for seed, epoch in zip(stage.seeds, stage.best_epoch, strict=True)
  )
