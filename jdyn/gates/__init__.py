"""Gates: features to weights over paths."""

from jdyn.gates.learned import LearnedGate

GATES = {'learned': LearnedGate}
