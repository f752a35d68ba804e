"""Shared fixtures: where real data and the original code's numbers are found."""

import os
from pathlib import Path

# Before JAX starts: four virtual devices, so that the parallel tests can run, and the
# code generator that compiles in half the time.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
COMPILE_FAST = '--xla_cpu_use_fusion_emitters=false'
for _flag in ('--xla_force_host_platform_device_count=4', COMPILE_FAST):
  if _flag not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_flag}'.strip()

import jax  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

jax.config.update('jax_numpy_rank_promotion', 'raise')
if cache := os.environ.get('JAX_COMPILATION_CACHE_DIR'):
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def _folder(variable: str, default: str) -> Path:
  return (ROOT / os.environ.get(variable, default)).resolve()


@pytest.fixture(scope='session')
def data_dir() -> Path:
  """The real data; the test is skipped where there is none."""
  folder = _folder('JDYN_DATA', '../shared/data')
  if not folder.is_dir():
    pytest.skip(f'real data: JDYN_DATA={folder} is not a folder')
  return folder


@pytest.fixture(scope='session')
def fixtures_dir() -> Path:
  """Numbers of the original code; the test is skipped where there are none."""
  folder = _folder('JDYN_FIXTURES', '../shared/fixtures')
  if not folder.is_dir():
    pytest.skip(f'reference numbers: JDYN_FIXTURES={folder} is not a folder')
  return folder


@pytest.fixture
def train(tmp_path, monkeypatch):
  """Trains a config on the toy data; returns the folder of the run."""
  # Imported here: most tests do without.
  from jdyn.training import loop
  from tests import toys

  # What a report needs is tested with the report; drawing it takes seconds.
  monkeypatch.setattr(loop, 'write_report', lambda workdir: workdir / 'report.html')

  def run(config, name='run', dataset=None):
    dataset = dataset or toys.dataset()
    monkeypatch.setattr(loop, 'load', lambda *args, **options: dataset)
    workdir = tmp_path / name
    loop.train(config, workdir)
    return workdir

  return run


_FAST = {
  'jax_disable_most_optimizations': True,
  'jax_persistent_cache_min_compile_time_secs': 0.1,
  'jax_persistent_cache_min_entry_size_bytes': -1,
}


# Per module: a package's fixture would live on into the tests of other folders.
@pytest.fixture(scope='module')
def compile_fast(tmp_path_factory):
  """Compiles fast and once: for many programs that each run for a moment."""
  temporary = tmp_path_factory.getbasetemp() / 'xla'
  folder = jax.config.jax_compilation_cache_dir or temporary
  settings = {**_FAST, 'jax_compilation_cache_dir': str(folder)}
  before = {name: jax.config.values[name] for name in settings}
  _set(settings)
  yield
  _set(before)


def _set(values):
  from jax.experimental.compilation_cache import compilation_cache

  for name, value in values.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
