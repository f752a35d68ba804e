"""These tests compile many programs, each of which runs for a moment."""

import pytest


@pytest.fixture(autouse=True, scope='module')
def _compile_fast(compile_fast):
  """For every module of this folder."""
