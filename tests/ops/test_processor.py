"""The processor, and the convolutions that suit it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdyn.ops import processor as module
from jdyn.ops.processor import jit_for_inference, num_cores, processor_name

ONCE_YNNPACK = 'ynn_fusion'
AVX2 = 'fpu avx avx2 fma'
AVX512 = f'{AVX2} avx512f avx512bw'


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
  """On the CPU, whatever flags the tests run with."""
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  if jax.default_backend() != 'cpu':
    pytest.skip('The choice is of XLA for CPU.')


def convolved(x):
  """An image under a kernel of its own."""
  kernel = jnp.sin(jnp.arange(9.0 * 64 * 64)).reshape(3, 3, 64, 64)
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def image():
  return np.random.default_rng(0).normal(size=(1, 32, 32, 64)).astype(np.float32)


def compiled(jit, fun=convolved):
  return jit(fun).lower(image()).compile().as_text()


def with_cores(monkeypatch, count):
  monkeypatch.setattr(module, 'num_cores', lambda: count)


@pytest.fixture
def linux(monkeypatch, tmp_path):
  """A function that has Linux tell this of every core."""
  monkeypatch.setattr(module, '_CPU_INFO', tmp_path / 'cpuinfo')

  def tell(**facts):
    core = ''.join(f'{name}\t: {value}\n' for name, value in facts.items())
    (tmp_path / 'cpuinfo').write_text(
      f'processor\t: 0\n{core}\nprocessor\t: 1\n{core}\n'
    )

  module._facts.cache_clear()
  yield tell
  module._facts.cache_clear()


def test_cores_are_those_of_this_process(monkeypatch):
  monkeypatch.setattr(
    module.os, 'sched_getaffinity', lambda _: {0, 5, 7}, raising=False
  )
  assert num_cores() == 3
  monkeypatch.delattr(module.os, 'sched_getaffinity')
  monkeypatch.setattr(module.os, 'cpu_count', lambda: None)
  assert num_cores() == 1


def test_the_name_is_as_linux_has_it(linux, monkeypatch):
  monkeypatch.setattr(module.platform, 'processor', lambda: '')
  monkeypatch.setattr(module.platform, 'machine', lambda: 'arm64')
  assert processor_name() == 'arm64'
  module._facts.cache_clear()
  linux(**{'model name': 'A Processor: Second of Its Name', 'flags': AVX2})
  assert processor_name() == 'A Processor: Second of Its Name'


@pytest.mark.parametrize(
  ('count', 'instructions', 'eigen'),
  [
    (2, AVX512, True),
    (2, None, True),
    (1, AVX512, False),
    (1, AVX2, True),
    (1, 'fpu sse2', False),
    (1, None, False),
  ],
)
def test_convolutions_suit_the_processor(
  count, instructions, eigen, linux, monkeypatch
):
  if ONCE_YNNPACK not in compiled(jax.jit):
    pytest.skip('This XLA does not run these convolutions by YNNPACK on this machine.')
  with_cores(monkeypatch, count)
  if instructions:
    linux(flags=instructions)
  assert (ONCE_YNNPACK not in compiled(jit_for_inference)) == eigen


def test_products_and_sums_stay_where_they_are(monkeypatch):
  with_cores(monkeypatch, 2)

  def others(x):
    return jnp.einsum('bhwc,bhwd->cd', x, jnp.sin(x)), x.sum((1, 2))

  plain = compiled(jax.jit, others)
  assert compiled(jit_for_inference, others).count(ONCE_YNNPACK) == plain.count(
    ONCE_YNNPACK
  )


def test_the_numbers_are_the_same(monkeypatch):
  with_cores(monkeypatch, 2)
  found, plain = jit_for_inference(convolved)(image()), jax.jit(convolved)(image())
  np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-4)


def test_what_the_user_chose_by_a_flag_holds(monkeypatch):
  with_cores(monkeypatch, 2)
  plain = compiled(jax.jit)
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type=')
  assert compiled(jit_for_inference).count(ONCE_YNNPACK) == plain.count(ONCE_YNNPACK)


def test_an_xla_without_the_choice_compiles_as_it_does(monkeypatch):
  with_cores(monkeypatch, 2)
  monkeypatch.setattr(module, '_LIBRARIES', 'xla_cpu_no_such_choice')
  module._eigen_convolutions.cache_clear()
  try:
    assert jit_for_inference(convolved)(image()).shape == image().shape
  finally:
    module._eigen_convolutions.cache_clear()


def test_arguments_of_jit_are_passed_on(monkeypatch):
  with_cores(monkeypatch, 2)
  repeated = jit_for_inference(lambda count, x: jnp.repeat(x, count), static_argnums=0)
  assert repeated(3, jnp.ones(2)).shape == (6,)
