"""Readers for files of other code bases; they execute nothing."""

from jdyn.interop import esanet, mm_dynamics
from jdyn.interop.converter import Converter

CONVERTERS = {
  'esanet': Converter(esanet.convert),
  'mm_dynamics': Converter(mm_dynamics.convert, data={'scaling': 'train_file'}),
}
