"""One reader per dataset format: to add one, add its file and a line here."""

from jdyn.data.sources.arrays import Arrays
from jdyn.data.sources.avmnist import AVMNIST
from jdyn.data.sources.digits import Digits
from jdyn.data.sources.fastmri import FastMRI
from jdyn.data.sources.mimic import MIMIC
from jdyn.data.sources.mmimdb import MMIMDB
from jdyn.data.sources.mogonet import Brca, Rosmap
from jdyn.data.sources.mosi import Mosi
from jdyn.data.sources.multibench import MultiBench
from jdyn.data.sources.nyuv2 import NYUv2
from jdyn.data.sources.sunrgbd import SUNRGBD

SOURCES = {
  'arrays': Arrays,
  'avmnist': AVMNIST,
  'brca': Brca,
  'digits': Digits,
  'fastmri': FastMRI,
  'mimic': MIMIC,
  'mmimdb': MMIMDB,
  'mosei': MultiBench,
  'mosi': Mosi,
  'nyuv2': NYUv2,
  'rosmap': Rosmap,
  'sunrgbd': SUNRGBD,
}
