"""What a method adds to the objective."""

from jdyn.losses.gating import balance, budget
from jdyn.losses.supervised import per_expert, supervised

LOSSES = {
  'balance': balance,
  'budget': budget,
  'per_expert': per_expert,
  'supervised': supervised,
}
