"""Views whose evidence is combined by Dempster's rule (TMC; Han et al., ICLR 2021)."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.fusions.votes import Masks, attendance
from jdyn.ops.evidence import combine, conflict, vacuity
from jdyn.typing import Fused


class Evidential(nn.Module):
  """Trusted multi-view classification, of any number of views.

  The softplus of a view's logits is its evidence. A joint expert among the views is
  the pseudo-view of ETMC (Han et al., TPAMI 2022).

  What comes out as logits is the log of the Dirichlet parameters, whose softmax is the
  expected probability of each class. Loss `evidential` trains it.
  """

  context: ClassVar[tuple[str, ...]] = ('present',)
  tasks: ClassVar[tuple[str, ...]] = ('multiclass',)

  @nn.compact
  def __call__(
    self, inputs: Mapping[str, jax.Array], *, train: bool, present: Masks | None = None
  ) -> Fused:
    """Fuses logits `[B, C]`.

    Returns:
      The log of the fused parameters; those of the views in `unimodal`; as `weights`
      the belief of each view that is in some class; in `aux`, `[B]` each,
      `evidence/conflict`, and `evidence/vacuity` of all and of each view.
    """
    del train
    attending = attendance(inputs, present)
    evidence = {
      name: nn.softplus(inputs[name]) * attending[name][:, None]
      for name in sorted(inputs)
    }
    views = list(evidence.values())
    fused = combine(views)
    unsure = {name: vacuity(view) for name, view in evidence.items()}
    return Fused(
      jnp.log1p(fused),
      weights={name: 1 - left for name, left in unsure.items()},
      unimodal={name: jnp.log1p(view) for name, view in evidence.items()},
      aux={'evidence/conflict': conflict(views), 'evidence/vacuity': vacuity(fused)}
      | {f'evidence/vacuity/{name}': left for name, left in unsure.items()},
    )
