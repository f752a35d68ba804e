"""Several arrays to one.

Every entry is a module `(inputs, *, train) -> Fused`; it reads the inputs in
the sorted order of their names and does not know what they mean.
"""

from jdyn.fusions.average import Average
from jdyn.fusions.concat import Concat
from jdyn.fusions.energy_weighted import EnergyWeighted
from jdyn.fusions.equilibrium import Equilibrium
from jdyn.fusions.equilibrium_released import ReleasedEquilibrium
from jdyn.fusions.evidential import Evidential
from jdyn.fusions.learned_confidence import LearnedConfidence
from jdyn.fusions.low_rank import LowRankFusion
from jdyn.fusions.masked_attention import MaskedAttention
from jdyn.fusions.mm_dynamics import MMDynamics
from jdyn.fusions.mult import MulT
from jdyn.fusions.multiplicative import MultiplicativeFusion
from jdyn.fusions.non_local import NonLocalGate
from jdyn.fusions.product_of_experts import ProductOfExperts
from jdyn.fusions.scalar_tokens import ScalarTokens
from jdyn.fusions.stack import Stack
from jdyn.fusions.tensor import TensorFusion

FUSIONS = {
  'average': Average,
  'concat': Concat,
  'energy_weighted': EnergyWeighted,
  'equilibrium': Equilibrium,
  'equilibrium_released': ReleasedEquilibrium,
  'evidential': Evidential,
  'learned_confidence': LearnedConfidence,
  'low_rank': LowRankFusion,
  'masked_attention': MaskedAttention,
  'mm_dynamics': MMDynamics,
  'mult': MulT,
  'multiplicative': MultiplicativeFusion,
  'non_local': NonLocalGate,
  'product_of_experts': ProductOfExperts,
  'scalar_tokens': ScalarTokens,
  'stack': Stack,
  'tensor': TensorFusion,
}
