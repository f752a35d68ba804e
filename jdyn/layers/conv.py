"""The 2-D convolution with PyTorch's initial weights."""

import functools

from flax import linen as nn

from jdyn.layers.initializers import fan_in_uniform
from jdyn.ops.convolution import convolve

Conv = functools.partial(
  nn.Conv, padding=0, kernel_init=fan_in_uniform, conv_general_dilated=convolve
)
"""`flax.linen.Conv` without padding, whose kernel starts at U(±1/sqrt(fan_in)).

Paddings are given in pixels, the same on both sides: at stride 2, Flax's 'SAME' puts
more on one side than on the other.
"""
