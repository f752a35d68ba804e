"""Principal components of images of bytes, with exact sums."""

import dataclasses

import numpy as np

_BLOCK = 4096  # Rows at a time; keeps the float64 copies small.


@dataclasses.dataclass(frozen=True)
class PCA:
  """Principal components.

  Attributes:
    mean: `f64[D]` of the images.
    components: `f64[K, D]`, orthonormal, the one of most variance first.
    variance_share: what part of the variance the components hold.
  """

  mean: np.ndarray
  components: np.ndarray
  variance_share: float

  def reduce(self, images: np.ndarray) -> np.ndarray:
    """The images' projection on the components, without the mean: `f64[N, D]`."""
    return (images - self.mean) @ self.components.T @ self.components


def fit_pca(images: np.ndarray, count: int) -> PCA:
  """The first `count` principal components of `u8[N, D]`.

  Up to 300,000 images, every sum on the way to the covariance is a whole number
  below 2**53: exact, whatever the order in which a BLAS adds.
  """
  size = len(images)
  total = images.sum(0, dtype=np.float64)
  gram = np.zeros((images.shape[1],) * 2)
  for block in np.split(images, range(_BLOCK, size, _BLOCK)):
    block = block.astype(np.float64)
    gram += block.T @ block
  covariance = (size * gram - np.outer(total, total)) / size**2
  values, vectors = np.linalg.eigh(covariance)
  kept = slice(None, -count - 1, -1)  # eigh sorts upwards.
  share = values[kept].sum() / max(values.sum(), np.finfo(float).tiny)
  return PCA(total / size, vectors[:, kept].T, float(share))
