"""The one train step, against formulas in NumPy where there are any."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.data.pipeline import assemble
from jdyn.losses.term import LossTerm
from jdyn.training.state import init_state
from jdyn.training.step import cast, eval_step, train_step, weight_key
from jdyn.typing import Mean
from tests import toys

BATCH = 8
SPLIT = toys.split(24)
BATCHES = [assemble(SPLIT, np.arange(BATCH) + start) for start in (0, 8, 16)]


@dataclasses.dataclass
class Training:
  """A stage with its optimiser, step by step."""

  stage: build.Stage
  dtype: type = jnp.float32
  terms: dict | None = None
  batches: list = dataclasses.field(default_factory=lambda: BATCHES)

  def __post_init__(self):
    self.terms = self.stage.terms if self.terms is None else self.terms
    schedules = dict(self.stage.make_schedules(3))
    for name in self.terms:
      schedules.setdefault(weight_key(name), lambda step: 1.0)
    options = dict(
      model=self.stage.trained, tx=self.stage.make_optimizer(3), terms=self.terms
    )
    hparams = {name: schedule(jnp.int32(0)) for name, schedule in schedules.items()}
    self.start = jax.jit(
      functools.partial(
        init_state,
        inputs=self.batches[0]['inputs'],
        hparams=hparams,
        num_examples=len(SPLIT),
        **options,
      )
    )
    self.step = jax.jit(
      functools.partial(
        train_step,
        schedules=schedules,
        dtype=self.dtype,
        missing_rate=self.stage.missing_rate,
        **options,
      )
    )

  def run(self, batches=None, seed=0):
    """The last state, and the metrics of all steps."""
    state, metrics = self.start(jnp.uint32(seed)), []
    for batch in self.batches if batches is None else batches:
      state, values = self.step(state, batch)
      metrics.append(values)
    return state, metrics


def _stage(model, **options):
  return build.stage(toys.config(model, **options), toys.SPEC)


LINEAR = toys.unimodal('text')
RANDOM = toys.MODELS['unimodal']  # It has dropout and BatchNorm.


def _softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_steps_of_a_linear_model_are_those_computed_by_hand():
  """Gradient in closed form, clipping, AdamW with a moving learning rate."""
  decay, clip, start, end = 0.05, 0.2, 0.1, 0.01
  training = Training(
    _stage(
      LINEAR,
      optimizer__learning_rate__name='linear',
      optimizer__learning_rate__init_value=start,
      optimizer__learning_rate__end_value=end,
      optimizer__weight_decay=decay,
      optimizer__clip_norm=clip,
    )
  )
  state = training.start(jnp.uint32(0))
  dense = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
  kernel, bias = (dense['head']['dense_0'][key] for key in ('kernel', 'bias'))
  moments = [np.zeros_like(kernel), np.zeros_like(bias)]
  squares = [np.zeros_like(kernel), np.zeros_like(bias)]
  state, metrics = training.run()
  for step, (batch, values) in enumerate(zip(BATCHES, metrics, strict=True)):
    x, label = np.asarray(batch['inputs']['text'], np.float64), batch['label']
    p = _softmax(x @ kernel + bias)
    loss = -np.log(p[np.arange(BATCH), label]).mean()
    error = (p - np.eye(toys.CLASSES)[label]) / BATCH
    gradients = [x.T @ error, error.sum(0)]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert norm > clip
    np.testing.assert_allclose(values['loss'], loss, rtol=1e-5)
    np.testing.assert_allclose(values['grad_norm'], norm, rtol=1e-5)
    rate = start + (end - start) * step / 6  # Two epochs of three steps.
    parameters = []
    for i, (value, g) in enumerate(zip((kernel, bias), gradients, strict=True)):
      g = g * clip / norm
      moments[i] = 0.9 * moments[i] + 0.1 * g
      squares[i] = 0.999 * squares[i] + 0.001 * g**2
      m = moments[i] / (1 - 0.9 ** (step + 1))
      v = squares[i] / (1 - 0.999 ** (step + 1))
      parameters.append(value * (1 - rate * decay) - rate * m / (np.sqrt(v) + 1e-8))
    kernel, bias = parameters
  np.testing.assert_allclose(
    state.params['head']['dense_0']['kernel'], kernel, atol=1e-5
  )
  np.testing.assert_allclose(state.params['head']['dense_0']['bias'], bias, atol=1e-5)
  assert int(state.step) == len(BATCHES)


def test_annealing_hardening_and_weights_do_not_recompile():
  traces = []

  def apply(outputs, batch, hparams, memory, axis_name):
    del outputs, batch, axis_name
    traces.append(1)
    return Mean(hparams['gate_temperature'], jnp.float32(1)), memory

  stage = _stage(
    toys.LINEAR_EXPERTS,
    gate__temperature__name='exponential',
    gate__temperature__end_value=0.1,
    gate__soft_epochs=0.5,
  )
  terms = {**stage.terms, 'spy': LossTerm(lambda n: (), apply)}
  training = Training(stage, terms=terms)
  _, metrics = training.run([*BATCHES, *BATCHES])
  assert len(traces) == 1
  assert len({float(values['loss']) for values in metrics}) == 6


def test_hard_gates_start_after_the_soft_epochs():
  training = Training(_stage(toys.LINEAR_EXPERTS, gate__soft_epochs=0.5))
  state = training.start(jnp.uint32(0))
  seen = []
  for batch in BATCHES:
    state, values = training.step(state, batch)
    shares = np.array([values[f'usage/{p}'] for p in training.stage.model.paths])
    assert shares.sum() == pytest.approx(1)
    seen.append(bool(np.isin(shares * BATCH, np.arange(BATCH + 1)).all()))
  assert seen == [False, False, True]  # round(0.5 epochs of 3 steps) = 2 soft steps


def test_the_loss_is_the_weighted_sum_of_its_terms():
  stage = _stage(
    toys.LINEAR_EXPERTS, loss__budget=0.3, loss__balance=0.2, loss__per_expert=0.5
  )
  weights = {'supervised': 1.0, 'budget': 0.3, 'balance': 0.2, 'per_expert': 0.5}
  assert set(stage.terms) == set(weights)
  alone = {}
  for name in weights:
    training = Training(stage, terms={name: stage.terms[name]})
    _, (values,) = training.run(BATCHES[:1])
    alone[name] = float(values['loss'])
  _, (values,) = Training(stage).run(BATCHES[:1])
  assert all(alone.values())
  assert float(values['loss']) == pytest.approx(sum(alone.values()), rel=1e-5)


def test_randomness_depends_on_seed_and_step_alone():
  training = Training(_stage(RANDOM))
  one, two = training.run(), training.run()
  jax.tree.map(np.testing.assert_array_equal, one, two)
  state = training.start(jnp.uint32(0))
  later = dataclasses.replace(state, step=jnp.int32(1))
  first, second = (training.step(s, BATCHES[0])[1]['loss'] for s in (state, later))
  assert first != second  # The same weights and examples, but other dropout.


def test_a_bad_step_leaves_everything_as_it_was():
  training = Training(_stage(RANDOM))
  state, _ = training.run(BATCHES[:2])
  bad = jax.tree.map(np.copy, BATCHES[2])
  bad['inputs']['image'][3, 0, 0] = np.nan
  halted, values = training.step(state, bad)
  assert not np.isfinite(values['loss'])
  assert bool(halted.halted)
  after, _ = training.step(halted, BATCHES[2])  # Halted: nothing moves any more.
  for got in (halted, after):
    same = dataclasses.replace(got, halted=state.halted)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_a_terms_memory_is_carried_and_saved_with_the_state():
  """A count of the visits of each training example, addressed by `index`."""

  def apply(outputs, batch, hparams, memory, axis_name):
    del outputs, hparams, axis_name
    return Mean(jnp.zeros(()), jnp.ones(())), memory.at[batch['index']].add(1)

  stage = _stage(LINEAR)
  terms = {**stage.terms, 'visits': LossTerm(lambda n: jnp.zeros(n), apply)}
  state, _ = Training(stage, terms=terms).run([*BATCHES, BATCHES[0]])
  want = np.ones(len(SPLIT))
  want[:BATCH] += 1
  np.testing.assert_array_equal(state.memory['visits'], want)
  assert state.memory['supervised'] == ()


def _types_of_products(training, state):
  """The element types of all matrix products in a step."""
  program = str(jax.make_jaxpr(training.step)(state, training.batches[0]))
  return set(re.findall(r':(\w+)\[[^]]*\] = dot_general', program))


@pytest.mark.parametrize(
  ('case', 'term'), [('gated_mixture', 'per_expert'), ('gated_stages', 'side_outputs')]
)
def test_bfloat16_keeps_float32_parameters_and_stays_near(case, term):
  spec, split = toys.data_of(case)
  config = toys.config(toys.MODELS[case], **{f'loss__{term}': 0.1})
  stage, examples = build.stage(config, spec), split(24)
  rows = np.arange(24).reshape(-1, BATCH)
  batches = [assemble(examples, part) for part in rows]
  full, half = (
    Training(stage, dtype, batches=batches) for dtype in (jnp.float32, jnp.bfloat16)
  )
  (exact, want), (rough, got) = full.run(), half.run()
  for leaf in jax.tree.leaves(rough):
    assert leaf.dtype != jnp.bfloat16
  assert jax.tree.structure(rough) == jax.tree.structure(exact)
  assert 'bf16' in _types_of_products(half, rough)
  assert _types_of_products(full, exact) == {'f32'}
  for a, b in zip(got, want, strict=True):
    # bfloat16 has eight bits of precision.
    np.testing.assert_allclose(a['loss'], b['loss'], rtol=0.03)
    assert a['loss'] != b['loss']


def test_cast_changes_floats_alone():
  tree = {'x': jnp.ones(2), 'length': jnp.ones(2, jnp.int32)}
  assert jax.tree.map(lambda x: x.dtype.name, cast(tree, jnp.bfloat16)) == {
    'x': 'bfloat16',
    'length': 'int32',
  }


def test_evaluation_sums_merge_and_padding_does_not_count():
  training = Training(_stage(toys.LINEAR_EXPERTS, loss__balance=0.1))
  state, stage = training.start(jnp.uint32(0)), training.stage
  hparams = {'gate_temperature': 1.0, 'gate_hard': True}

  @jax.jit
  def sums(batch):
    return eval_step(
      state.variables,
      batch,
      model=stage.model,
      task=stage.task,
      terms={name: stage.terms[name] for name in ('supervised', 'budget')},
      hparams=hparams,
      memory=state.memory,
    )[0]

  rows = np.arange(12) % 11
  mask = (np.arange(12) < 11).astype(np.float32)
  whole = sums(assemble(SPLIT, np.arange(11)))
  parts = [
    sums(assemble(SPLIT, rows[part], mask[part]))
    for part in (slice(0, 6), slice(6, 12))
  ]
  merged = jax.tree.map(jnp.add, *parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), merged, whole)
  assert whole['count'] == 11
  assert sum(whole['usage'].values()) == 11


RANKED = toys.MODELS['decision_fusion-confident']


def test_the_order_of_training_examples_is_no_part_of_evaluation():
  training = Training(_stage(RANKED, loss__rank=1.0, loss__per_expert=1.0))
  state, stage = training.start(jnp.uint32(0)), training.stage
  assert not stage.terms['rank'].in_evaluation
  sums, _ = jax.eval_shape(
    functools.partial(
      eval_step, model=stage.model, task=stage.task, terms=stage.terms, hparams={}
    ),
    state.variables,
    BATCHES[0],
    memory=state.memory,
  )
  assert set(sums['terms']) == {'supervised', 'per_expert'}


def test_training_loses_modalities_anew_in_every_step():
  """A model is judged on what is left, so its embeddings learn."""
  model = {**toys.joint(), 'absent_embedding': True}
  training = Training(_stage(model, missing_rate=0.5))
  state = training.start(jnp.uint32(0))
  later = dataclasses.replace(state, step=jnp.int32(1))
  losses = [training.step(s, BATCHES[0])[1]['loss'] for s in (state, state, later)]
  assert losses[0] == losses[1] != losses[2]
  state, _ = training.step(state, BATCHES[0])
  names = [name for name in state.params if name.startswith('absent_')]
  assert names == ['absent_audio', 'absent_image', 'absent_text']
  assert all(np.any(state.params[name]) for name in names)
  state, _ = Training(_stage(model)).run()
  assert not any(np.any(state.params[name]) for name in names)


def test_what_is_absent_in_the_data_is_absent_in_training():
  model = {**toys.joint(), 'absent_embedding': True}
  inputs = BATCHES[0]['inputs']
  batch = {
    **BATCHES[0],
    'inputs': {
      **inputs,
      'text': 0 * inputs['text'],
      'present/text': np.zeros(BATCH, bool),
    },
  }
  state, _ = Training(_stage(model, missing_rate=0.3)).run([batch], seed=1)
  without, _ = Training(_stage(model)).run([batch])
  assert np.any(without.params['absent_text'])
  assert not np.any(without.params['absent_audio'])
  assert np.any(state.params['absent_audio'])


def test_one_modality_alone_is_never_lost():
  lost, kept = (Training(_stage(LINEAR, missing_rate=rate)) for rate in (0.9, 0.0))
  only = [{**b, 'inputs': {'text': b['inputs']['text']}} for b in BATCHES]
  jax.tree.map(np.testing.assert_array_equal, lost.run(only), kept.run(only))
