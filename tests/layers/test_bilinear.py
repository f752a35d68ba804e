import math
import re

import jax
import numpy as np
import pytest

from jdyn.layers.bilinear import Bilinear

BATCH = 11  # No other size is 11.


@pytest.mark.parametrize(
  ('n', 'm', 'd', 'between'), [(4, 5, 9, 20), (7, 4, 3, 12), (4, 7, 3, 12)]
)
def test_the_smallest_array_stands_between(n, m, d, between):
  """The two inputs are contracted so that no larger array appears on the way."""
  random = np.random.default_rng(0)
  shapes = {
    'product': (n, m, d),
    'x_kernel': (n, d),
    'z_kernel': (m, d),
    'bias': (1, d),
  }
  params = {
    name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
  }
  x = random.normal(size=(BATCH, n)).astype(np.float32)
  z = random.normal(size=(BATCH, m)).astype(np.float32)

  def apply(x, z):
    return Bilinear(d).apply({'params': params}, x, z)

  want = np.einsum('bn,bm,nmd->bd', x, z, params['product'])
  want += x @ params['x_kernel'] + z @ params['z_kernel'] + params['bias']
  np.testing.assert_allclose(apply(x, z), want, rtol=1e-4, atol=1e-5)

  shapes = [
    [int(size) for size in shape.split(',')]
    for shape in re.findall(r'f32\[([\d,]+)\]', str(jax.make_jaxpr(apply)(x, z)))
  ]
  assert max(math.prod(s) // BATCH for s in shapes if BATCH in s) == between
