"""Readers for files of other code bases; they execute nothing."""

from jdyn.interop import esanet, imagenet_resnet, mm_dynamics
from jdyn.interop.converter import Converter

CONVERTERS = {
  'esanet': Converter(esanet.convert),
  'mm_dynamics': Converter(mm_dynamics.convert, data={'scaling': 'train_file'}),
}
"""Kinds of checkpoints of whole models."""

ENCODERS = {'imagenet_resnet': imagenet_resnet.read}
"""Kinds of checkpoints of encoders: `(path, template) -> variables`."""
