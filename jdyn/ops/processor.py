"""The processor: its name, its cores, and the convolutions that suit it."""

import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_CPU_INFO = Path('/proc/cpuinfo')
_LIBRARIES = 'xla_cpu_experimental_ynn_fusion_type'


def num_cores() -> int:
  """Those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def processor_name() -> str:
  """As Linux has it; elsewhere as Python has."""
  return _facts().get('model name') or platform.processor() or platform.machine()


def jit_for_inference(fun: Callable[..., Any], **kwargs: Any) -> Any:
  """`jax.jit` of a program whose convolutions are those that suit the processor.

  XLA for CPU leaves convolutions to YNNPACK. That runs some, as those of 64 channels,
  on one core however many there are, and is faster on one core only if it has AVX-512.
  Eigen, which XLA had before, divides all. Where there are several cores, or one of
  x86-64 with AVX2 at most, convolutions of this program are Eigen's; products of
  matrices and sums stay where they are. Otherwise, and on accelerators, it is plain
  `jax.jit`, as with an XLA that knows no such choice, or where `XLA_FLAGS` makes it.

  The program cannot be called inside of another `jax.jit`, which JAX refuses of a
  program with compiler options.

  Args:
    fun: of arrays.
    kwargs: of `jax.jit`.
  """
  chosen = _LIBRARIES in os.environ.get('XLA_FLAGS', '')
  eigen = jax.default_backend() == 'cpu' and not chosen and _suits_eigen()
  return jax.jit(
    fun, compiler_options=_eigen_convolutions() if eigen else None, **kwargs
  )


def _suits_eigen() -> bool:
  instructions = _facts().get('flags', '').split()
  at_most_avx2 = 'avx2' in instructions and 'avx512f' not in instructions
  return num_cores() > 1 or at_most_avx2


@functools.cache
def _facts() -> dict[str, str]:
  """What Linux tells of a core, as all are alike; nothing on another system."""
  try:
    lines = _CPU_INFO.read_text().splitlines()
  except OSError:
    return {}
  fields = (line.partition(':') for line in lines)
  return {name.strip(): value.strip() for name, _, value in fields}


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
