"""What a method adds to the objective."""

from jdyn.losses.evidential import evidential
from jdyn.losses.gating import balance, budget
from jdyn.losses.jacobian import jacobian
from jdyn.losses.mm_dynamics import confidence, informativeness
from jdyn.losses.ranking import rank
from jdyn.losses.side_outputs import side_outputs
from jdyn.losses.supervised import per_expert, supervised

LOSSES = {
  'balance': balance,
  'budget': budget,
  'confidence': confidence,
  'evidential': evidential,
  'informativeness': informativeness,
  'jacobian': jacobian,
  'per_expert': per_expert,
  'rank': rank,
  'side_outputs': side_outputs,
  'supervised': supervised,
}
