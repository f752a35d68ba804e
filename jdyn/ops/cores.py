"""The processor's cores: how many there are, and programs that use all of them."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

_LIBRARIES = 'xla_cpu_experimental_ynn_fusion_type'


def num_cores() -> int:
  """Those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def jit_on_all_cores(fun: Callable[..., Any], **kwargs: Any) -> Any:
  """`jax.jit` of a program whose convolutions are divided among the cores of a CPU.

  XLA for CPU leaves convolutions to YNNPACK, which runs some, as those of 64 channels,
  on one core however many there are. Eigen, which XLA had before, divides all. Where
  there are several cores, convolutions of this program are Eigen's; products of
  matrices and sums stay where they are. On one core, and on accelerators, it is plain
  `jax.jit`, as with an XLA that knows no such choice, or where `XLA_FLAGS` makes it.

  The program cannot be called inside of another `jax.jit`, which JAX refuses of a
  program with compiler options.

  Args:
    fun: of arrays.
    kwargs: of `jax.jit`.
  """
  several = jax.default_backend() == 'cpu' and num_cores() > 1
  chosen = _LIBRARIES in os.environ.get('XLA_FLAGS', '')
  options = _eigen_convolutions() if several and not chosen else None
  return jax.jit(fun, compiler_options=options, **kwargs)


@functools.cache
def _eigen_convolutions() -> dict[str, str] | None:
  """The option of XLA; None if the installed one does not know it."""
  others = ('INDIVIDUAL_DOT', 'REDUCE')
  options = {_LIBRARIES: ','.join(f'LIBRARY_FUSION_TYPE_{kind}' for kind in others)}
  try:
    jax.jit(lambda: 0, compiler_options=options)()
  except jax.errors.JaxRuntimeError:
    return None
  return options
