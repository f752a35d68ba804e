"""Multiply-accumulates, counted from the function that runs.

One multiply-accumulate (MAC) is one product that is added to a sum. Matrix
products and convolutions are counted; element-wise work, reductions, table
look-ups and random numbers are not. DynMM types its costs in by hand
(`flop` tensors in `imdb_dyn.py` and `affect_dyn.py`), wrong for every other
width; `thop_macs` applies the rule of the tool (thop) that those constants come
from, which omits attention, so that published figures can be compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

# These run their inner program once per device or grid cell, or have products
# of data-dependent size, so the inner count alone would be too low.
_REFUSED = frozenset(
  {'pallas_call', 'pmap', 'xla_pmap', 'ragged_dot', 'ragged_dot_general', 'shard_map'}
)


def count_macs(fn: Callable, *specs: Any, trip_count: int | None = None) -> int:
  """The multiply-accumulates of one call `fn(*specs)`; nothing is compiled.

  A `scan` costs its length times its body. A `cond` or `switch` costs its most
  expensive branch. A convolution counts the products with padded zeros, but not
  those with the zeros that a transposed convolution inserts.

  Args:
    fn: a function of arrays; every argument is traced.
    *specs: arrays or `jax.ShapeDtypeStruct`s, or trees of them.
    trip_count: how often the body of each `while_loop` runs, as measured. If None,
      a loop that counts its rounds up to a constant is charged all of them (a solver
      with a cap of steps: the cap).

  Raises:
    ValueError: `fn` holds a `while_loop` without such a constant and `trip_count` is
      not given, or an operation whose inner count would be too low (`shard_map`,
      `pmap`, `pallas_call`, ragged products).
  """
  return _jaxpr_macs(jax.make_jaxpr(fn)(*specs).jaxpr, trip_count)


def path_macs(
  gate: Callable[[Any, Any], Any] | None,
  paths: Mapping[str, Callable[[Any, Any], Any]],
  variables: Any,
  inputs: Any,
  count: Callable[..., int] = count_macs,
) -> dict[str, int]:
  """MACs of one example by path; what the gate costs is part of every path.

  Args:
    gate: `(variables, inputs) -> anything`; None where there is no gate.
    paths: by name, such a function that runs this path alone.
    variables: of the model, as arrays or specs.
    inputs: a batch `[B, ...]` of any size, as arrays or specs; B is replaced by 1.
    count: the counter, `count_macs` or `thop_macs`, with its options bound.
  """
  one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), inputs)
  shared = 0 if gate is None else count(gate, variables, one)
  return {name: shared + count(path, variables, one) for name, path in paths.items()}


def expected_macs(weights: jax.Array, costs: Sequence[float] | jax.Array) -> jax.Array:
  """The cost `[B]` of each example under gate weights `[B, K]` and costs `[K]`.

  Differentiable in `weights`. With one-hot weights it is the cost that is
  executed; soft weights execute every path, and then it is not.
  """
  return weights @ jnp.asarray(costs, weights.dtype)


def thop_macs(fn: Callable, *specs: Any, norm_ops: int = 2, bias_ops: int = 0) -> int:
  """The count that the thop profiler would give for `fn(*specs)`.

  thop adds a fixed number per call of the layers that it knows: Linear and
  convolution without their biases, and `norm_ops` per element of a BatchNorm.
  It cannot see inside attention, so neither the projections nor the products
  of attention are counted; nor are LayerNorm and bare parameters.

  Args:
    fn: a function that calls flax modules. It is traced afresh, but a
      `jax.jit` *inside* it that was traced before hides its modules.
    *specs: arrays or `jax.ShapeDtypeStruct`s, or trees of them.
    norm_ops: operations per element of BatchNorm: 2 in the thop of DynMM's
      constants, 4 in newer ones.
    bias_ops: operations per element of the bias of a convolution: 0 in that thop, 1
      in the one of DynMM's constants for segmentation.
  """
  total = 0
  in_attention = 0

  def intercept(next_fn, args, kwargs, context):
    nonlocal total, in_attention
    names = {base.__name__ for base in type(context.module).__mro__}
    attention = any(name.endswith('Attention') for name in names)
    in_attention += attention
    out = next_fn(*args, **kwargs)
    in_attention -= attention
    if in_attention or attention:
      return out
    if 'Dense' in names:
      total += out.size * args[0].shape[-1]
    elif 'Conv' in names:
      module = context.module
      fan_in = args[0].shape[-1] // module.feature_group_count
      kernel = module.kernel_size
      window = kernel if isinstance(kernel, int) else math.prod(kernel)
      total += out.size * (fan_in * window + bias_ops * module.use_bias)
    elif 'BatchNorm' in names:
      total += norm_ops * out.size
    return out

  # A new function object: a trace that is found in the cache calls no module.
  def fresh(*args):
    with nn.intercept_methods(intercept):
      return fn(*args)

  jax.eval_shape(fresh, *specs)
  return total


def _jaxpr_macs(jaxpr: core.Jaxpr, trip_count: int | None) -> int:
  return sum(_equation_macs(equation, trip_count) for equation in jaxpr.eqns)


def _equation_macs(equation: core.JaxprEqn, trip_count: int | None) -> int:
  name, params = equation.primitive.name, equation.params

  def inside(value) -> int:
    return sum(_jaxpr_macs(jaxpr, trip_count) for jaxpr in _jaxprs(value))

  if name == 'dot_general':
    return _dot_macs(equation)
  if name == 'conv_general_dilated':
    return _conv_macs(equation)
  if name == 'scan':
    return params['length'] * inside(params['jaxpr'])
  if name == 'cond':
    return max(inside(branch) for branch in params['branches'])
  if name == 'while':
    rounds = _most_rounds(params['cond_jaxpr']) if trip_count is None else trip_count
    if rounds is None:
      raise ValueError(
        'count_macs: the function holds a while_loop, whose number of rounds is '
        'not in the program; measure it and pass trip_count.'
      )
    body, condition = inside(params['body_jaxpr']), inside(params['cond_jaxpr'])
    return rounds * body + (rounds + 1) * condition
  if name == 'custom_linear_solve':
    # Of its four programs the forward pass runs the solver alone.
    return inside(params['jaxprs'].solve)
  if name in _REFUSED:
    raise ValueError(
      f'count_macs: cannot see how often {name} runs its inner program; count '
      'the function that it wraps.'
    )
  return inside(params)


def _most_rounds(condition: core.ClosedJaxpr) -> int | None:
  """The constant n of a loop that runs while `counter < n` (and maybe other things)."""
  bounds = [
    equation.invars[1].val
    for equation in condition.jaxpr.eqns
    if equation.primitive.name == 'lt'
    and equation.invars[0] in condition.jaxpr.invars
    and jnp.issubdtype(equation.invars[0].aval.dtype, jnp.integer)
    and isinstance(equation.invars[1], core.Literal)
  ]
  return int(bounds[0]) if len(bounds) == 1 else None


def _jaxprs(value: Any) -> Iterator[core.Jaxpr]:
  """The programs in an equation's parameter, at any depth of tuples and dicts."""
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, Mapping):
    for item in value.values():
      yield from _jaxprs(item)
  elif isinstance(value, tuple | list):
    for item in value:
      yield from _jaxprs(item)


def _dot_macs(equation: core.JaxprEqn) -> int:
  (contracted, _), _ = equation.params['dimension_numbers']
  lhs = equation.invars[0].aval.shape
  return equation.outvars[0].aval.size * math.prod(lhs[axis] for axis in contracted)


def _conv_macs(equation: core.JaxprEqn) -> int:
  # The kernel's input axis is already divided by the number of groups.
  kernel = equation.invars[1].aval
  out_features = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
  products = equation.outvars[0].aval.size * (kernel.size // out_features)
  return products // math.prod(equation.params['lhs_dilation'])
