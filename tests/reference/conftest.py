"""What every comparison with the original code needs."""

import functools

import jax
import pytest

from tests.reference import loader


@pytest.fixture(autouse=True)
def _full_precision():
  """The stored tolerances are for float32 products, on every device."""
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture
def load(fixtures_dir):
  """Reads a reference file by name."""
  return functools.partial(loader.load, fixtures_dir)
