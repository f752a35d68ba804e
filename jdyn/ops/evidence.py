"""Subjective logic on Dirichlet distributions (Han et al., ICLR 2021).

A view with evidence `e >= 0` for each of `C` classes believes in a Dirichlet with
parameters `alpha = e + 1` and strength `S = sum alpha`. Its belief in class k is
`e_k / S`, and what is left of 1, its vacuity, is `C / S`.
"""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln


def vacuity(evidence: jax.Array) -> jax.Array:
  """How much of the belief is in no class: `[...]` in (0, 1] of `[..., C]`."""
  classes = evidence.shape[-1]
  return classes / (jnp.sum(evidence, axis=-1) + classes)


def combine(evidence: Sequence[jax.Array]) -> jax.Array:
  """The evidence of all views together, by Dempster's rule.

  Of two views it is `e1 + e2 + e1 e2 / C`: the factor `1 / (1 - conflict)` of the rule
  scales belief and vacuity alike and cancels, which the released code computes with a
  matrix of `C x C` per example. The rule is commutative and associative, and a view
  without evidence changes nothing.

  Args:
    evidence: `[..., C]` of each view.
  """
  classes = evidence[0].shape[-1]
  return reduce(lambda a, b: a + b + a * b / classes, evidence)


def conflict(evidence: Sequence[jax.Array]) -> jax.Array:
  """Belief that Dempster's rule throws away since views differ: `[...]` in [0, 1).

  One less than the product of what is kept each time a view is combined with those
  before it. It does not depend on their order.

  Args:
    evidence: `[..., C]` of each view.
  """
  kept, joint = jnp.ones(()), evidence[0]
  for other in evidence[1:]:
    belief, others = _belief(joint), _belief(other)
    agreeing = jnp.sum(belief * others, axis=-1)
    kept *= 1 - (jnp.sum(belief, axis=-1) * jnp.sum(others, axis=-1) - agreeing)
    joint = combine([joint, other])
  return jnp.broadcast_to(1 - kept, joint.shape[:-1])


def _belief(evidence: jax.Array) -> jax.Array:
  return evidence * (vacuity(evidence) / evidence.shape[-1])[..., None]


def expected_cross_entropy(alpha: jax.Array, label: jax.Array) -> jax.Array:
  """The mean of the cross-entropy under a Dirichlet: `[B]`, in nats.

  Args:
    alpha: `[B, C]`.
    label: `i32[B]`.
  """
  chosen = jnp.take_along_axis(alpha, label[:, None], axis=-1)[:, 0]
  return digamma(jnp.sum(alpha, axis=-1)) - digamma(chosen)


def divergence_from_uniform(alpha: jax.Array) -> jax.Array:
  """Kullback-Leibler divergence of a Dirichlet from that without evidence: `[...]`.

  Args:
    alpha: `[..., C]`.
  """
  strength = jnp.sum(alpha, axis=-1)
  spread = jnp.sum((alpha - 1) * (digamma(alpha) - digamma(strength)[..., None]), -1)
  return (
    gammaln(strength)
    - jnp.sum(gammaln(alpha), axis=-1)
    - gammaln(alpha.shape[-1])
    + spread
  )


def misleading(alpha: jax.Array, label: jax.Array) -> jax.Array:
  """The Dirichlet `[B, C]` with the evidence for the true class taken away."""
  truth = jax.nn.one_hot(label, alpha.shape[-1], dtype=alpha.dtype)
  return truth + (1 - truth) * alpha
