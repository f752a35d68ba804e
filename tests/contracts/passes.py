"""Weights without an initialiser, and one training pass on one device and on four."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P

AXIS = 'data'


def random_variables(module: nn.Module, x: Any) -> Any:
  """Variables of the right shapes with positive entries of the right size.

  Compiling the initialisers of a deep module takes longer than a whole test.
  """
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
  random = np.random.default_rng(0)

  def draw(leaf):
    signs = random.choice([-1, 1], leaf.shape) if leaf.ndim > 1 else 1
    values = random.uniform(0.5, 1.5, leaf.shape) * signs
    return jnp.asarray(values / max(leaf.size // leaf.shape[-1], 1) ** 0.5, leaf.dtype)

  return jax.tree.map(draw, shapes)


def to_half(tree: Any) -> Any:
  """The same with bfloat16 in place of float32."""

  def cast(leaf):
    return leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf

  return jax.tree.map(cast, tree)


def forward(module: nn.Module, variables: Any, x: Any):
  """Output and new statistics in training mode."""
  y, state = module.apply(
    variables,
    x,
    train=True,
    rngs={'dropout': jax.random.key(3), 'probe': jax.random.key(4)},
    mutable=['batch_stats'],
  )
  return getattr(y, 'value', y), state  # A fusion gives `Fused`.


def train_pass(module: nn.Module, variables: Any, x: Any, axis_name: str | None = None):
  """Output, gradient of the summed sine of it, and new statistics.

  With `axis_name` the rows of `x` are one device's share, and the gradient is
  summed over the axis.
  """
  variables = dict(variables)
  params = variables.pop('params', {})

  def loss(params):
    y, state = forward(module, {'params': params, **variables}, x)
    return jnp.sum(jnp.sin(y)), (y, state)

  (_, (y, state)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  if axis_name is not None:
    gradient = jax.lax.psum(gradient, axis_name)
  return y, gradient, state


def same_when_sharded(module: nn.Module, variables: Any, x: Any, *, forward_only=False):
  """The training pass, after checking that four devices give the same numbers.

  With `forward_only`, no gradient is computed; it is given as None.
  """
  mesh = jax.make_mesh(
    (4,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
  )
  has_axis = 'axis_name' in {field.name for field in dataclasses.fields(module)}
  split = dataclasses.replace(module, axis_name=AXIS) if has_axis else module

  def run(module, variables, x, axis_name=None):
    if forward_only:
      y, state = forward(module, variables, x)
      return y, None, state
    return train_pass(module, variables, x, axis_name)

  sharded = jax.shard_map(
    lambda variables, x: run(split, variables, x, AXIS),
    mesh=mesh,
    in_specs=(P(), P(AXIS)),
    out_specs=(P(AXIS), P(), P()),
    check_vma=False,
  )
  whole = jax.jit(lambda variables, x: run(module, variables, x))(variables, x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5),
    jax.jit(sharded)(variables, x),
    whole,
  )
  return whole
