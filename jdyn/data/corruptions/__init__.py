"""Test inputs made worse on purpose, to ask what a model does about it.

`CORRUPTIONS` holds single corruptions, `PRESETS` bundles of them: which one falls on
which kind of modality, how hard, and on what share of the examples. Both are asked
for by name in a `Noise`.

What happens to an example is a function of (seed, modality, id) alone, so it depends
neither on batches nor on order, and two modalities of one example are corrupted
independently, unless a preset is `one_of` or `together`. A higher level only adds to
what a lower one did: more entries, or more of the same noise. QMF, MultiBench and DynMM
draw from global generators instead, in the order in which the examples are read.
"""

from jdyn.data.corruptions.corruption import Corruption
from jdyn.data.corruptions.noise import Noise, corrupt, touched
from jdyn.data.corruptions.presets import CORRUPTIONS, PRESETS, Preset
from jdyn.data.corruptions.reference import Reference, measure

__all__ = [
  'CORRUPTIONS',
  'PRESETS',
  'Corruption',
  'Noise',
  'Preset',
  'Reference',
  'corrupt',
  'measure',
  'touched',
]
