"""Readers for files of other code bases; they execute nothing."""

from jdyn.interop import mm_dynamics
from jdyn.interop.converter import Converter

CONVERTERS = {
  'mm_dynamics': Converter(mm_dynamics.convert, data={'scaling': 'train_file'}),
}
