"""Models: modalities to outputs. A model can be an expert of another."""

from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.early_fusion import EarlyFusion
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.unimodal import Unimodal

MODELS = {
  'decision_fusion': DecisionFusion,
  'early_fusion': EarlyFusion,
  'feature_fusion': FeatureFusion,
  'gated_mixture': GatedMixture,
  'unimodal': Unimodal,
}
