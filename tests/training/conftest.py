"""Compiles fast and once: these tests run many programs, each for a moment."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

_SETTINGS = {
  'jax_disable_most_optimizations': True,
  'jax_persistent_cache_min_compile_time_secs': 0.1,
  'jax_persistent_cache_min_entry_size_bytes': -1,
}


# Per module: a package's fixture would live on into the tests of other folders.
@pytest.fixture(autouse=True, scope='module')
def _compile_fast(tmp_path_factory):
  temporary = tmp_path_factory.getbasetemp() / 'xla'
  folder = jax.config.jax_compilation_cache_dir or temporary
  settings = {**_SETTINGS, 'jax_compilation_cache_dir': str(folder)}
  before = {name: jax.config.values[name] for name in settings}
  _set(settings)
  yield
  _set(before)


def _set(values):
  for name, value in values.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
