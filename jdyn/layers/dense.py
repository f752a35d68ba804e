"""The linear layer with PyTorch's initial weights; every module uses this one."""

import functools

from flax import linen as nn

from jdyn.layers.initializers import fan_in_uniform

Dense = functools.partial(nn.Dense, kernel_init=fan_in_uniform)
"""`flax.linen.Dense` whose kernel starts at U(±1/sqrt(fan_in))."""
