"""Several arrays to one.

Every entry is a module `(inputs, *, train) -> Fused`; it reads the inputs in
the sorted order of their names and does not know what they mean.
"""

from jdyn.fusions.average import Average
from jdyn.fusions.concat import Concat
from jdyn.fusions.low_rank import LowRankFusion
from jdyn.fusions.mult import MulT
from jdyn.fusions.multiplicative import MultiplicativeFusion
from jdyn.fusions.non_local import NonLocalGate
from jdyn.fusions.scalar_tokens import ScalarTokens
from jdyn.fusions.stack import Stack
from jdyn.fusions.tensor import TensorFusion

FUSIONS = {
  'average': Average,
  'concat': Concat,
  'low_rank': LowRankFusion,
  'mult': MulT,
  'multiplicative': MultiplicativeFusion,
  'non_local': NonLocalGate,
  'scalar_tokens': ScalarTokens,
  'stack': Stack,
  'tensor': TensorFusion,
}
