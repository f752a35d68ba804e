"""Models: modalities to outputs. A model can be an expert of another."""

from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.early_fusion import EarlyFusion
from jdyn.models.esanet import ESANet
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.gated_stages import GatedStages
from jdyn.models.local_gates import LocallyGatedStages
from jdyn.models.mmtm import MMTM
from jdyn.models.unimodal import Unimodal

MODELS = {
  'decision_fusion': DecisionFusion,
  'early_fusion': EarlyFusion,
  'esanet': ESANet,
  'feature_fusion': FeatureFusion,
  'gated_mixture': GatedMixture,
  'gated_stages': GatedStages,
  'locally_gated_stages': LocallyGatedStages,
  'mmtm': MMTM,
  'unimodal': Unimodal,
}
