"""Held-out rows, where a dataset publishes no validation split."""

import numpy as np

from jdyn.data.dataset import DataError


def hold_out(
  strata: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to keep and rows to hold out, both ascending.

  Every stratum gives its share to within one row, and the total is the rounded
  share of all rows. Equal strata give a plain random split.

  Args:
    strata: `[N]`, for example the class of each row.
    fraction: of the rows to hold out, strictly between 0 and 1.
    seed: of the permutation; equal arguments give equal rows.

  Raises:
    DataError: if one of the two parts would be empty.
  """
  size = len(strata)
  if not 0 < fraction < 1 or not 0 < (count := int(size * fraction + 0.5)) < size:
    raise DataError(
      f'Holding out the fraction {fraction} of {size} leaves one side empty. '
      'Choose another valid_fraction or test_fraction.'
    )
  # RandomState, not Generator: NumPy promises that its numbers never change.
  order = np.random.RandomState(seed).permutation(size)
  order = order[np.argsort(strata[order], kind='stable')]
  held = np.diff(np.arange(size + 1) * count // size) > 0
  return np.sort(order[~held]), np.sort(order[held])


def hold_out_groups(
  groups: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Like `hold_out`, but no group has rows on both sides; a fraction of groups."""
  names, group = np.unique(groups, return_inverse=True)
  _, held = hold_out(np.zeros(len(names)), fraction, seed)
  is_held = np.isin(group, held)
  return np.flatnonzero(~is_held), np.flatnonzero(is_held)
