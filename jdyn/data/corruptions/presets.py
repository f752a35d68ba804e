"""Corruptions by name, and the protocols that are made of them."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping

from jdyn.data.corruptions.corruption import Corruption
from jdyn.data.corruptions.drop import DropSteps, Mask, Missing
from jdyn.data.corruptions.gaussian import (
  Gaussian,
  PixelGaussian,
  RelativeGaussian,
  WhiteNoise,
)
from jdyn.data.corruptions.salt_pepper import SaltPepper
from jdyn.data.corruptions.swap import Swap
from jdyn.data.corruptions.words import Words

CORRUPTIONS: Mapping[str, type[Corruption]] = {
  'drop_steps': DropSteps,
  'gaussian': Gaussian,
  'mask': Mask,
  'missing': Missing,
  'pixel_gaussian': PixelGaussian,
  'relative_gaussian': RelativeGaussian,
  'salt_pepper': SaltPepper,
  'swap': Swap,
  'white_noise': WhiteNoise,
  'words': Words,
}


@dataclasses.dataclass(frozen=True)
class Step:
  """One corruption of several.

  Attributes:
    corruption: with its options.
    level: of the corruption, given that of the preset.
  """

  corruption: Corruption
  level: Callable[[float], float] = lambda level: level


@dataclasses.dataclass(frozen=True)
class Treatment:
  """What is done to one kind of modality.

  Attributes:
    steps: one after another.
    touch: the probability that an example is touched at all, given the level.
  """

  steps: tuple[Step, ...]
  touch: Callable[[float], float] = lambda level: 1.0


@dataclasses.dataclass(frozen=True)
class Preset:
  """A protocol: what is done to which kind of modality.

  Attributes:
    about: what it is, whose it is, and where it differs.
    unit: what the level measures.
    max_level: the greatest that makes sense.
    kinds: treatments, by kind of modality (see `Reference`). Others it cannot be
      applied to.
    one_of: of all modalities that a split has, at most one of an example can be
      touched; each is as likely as none.
    together: so many neighbours in a split are treated like one example, as a batch
      would be: touched all or none, and measured as one.
  """

  about: str
  unit: str
  max_level: float
  kinds: Mapping[str, Treatment]
  one_of: bool = False
  together: int = 1


def _half(level: float) -> float:
  del level
  return 0.5


_QMF_GAUSSIAN = PixelGaussian(clip='repo_wrap', grey=True, shared_pattern=True)
_QMF_WORDS = Treatment((Step(Words(), lambda level: level / 10),), _half)
_SEVERITY = Treatment((Step(Gaussian(), lambda level: level / 5),), _half)
_RELATIVE = Treatment((Step(RelativeGaussian()),))
_TABULAR = Treatment((Step(Mask()), Step(Swap(mode='repo_copy'))))


def _qmf_salt(share: float) -> Treatment:
  """A tenth of the pixels, in half of the images times `share` for each level."""
  salt = Step(SaltPepper(grey=True), lambda level: 0.1)
  return Treatment((salt,), lambda level: 0.5 * share * level)


PRESETS: Mapping[str, Preset] = {
  'severity': Preset(
    """Ours, for any modality: the severities of QMF, 0 to 10, without its quirks.

    Half of the examples of each modality are touched, independently, so that of two
    modalities a quarter has both corrupted and a quarter none. Images get Gaussian
    noise of 10 pixel values per severity, each entry its own, clipped at both ends.
    Numbers of other kinds get a fifth of each feature's standard deviation per
    severity: a photograph's is about 57 pixel values (0.225 of the scale, on
    ImageNet), of which 10 are about a fifth. At 5 there is as much noise as signal
    (0 dB), at 10 twice (-6 dB). A word of a text is replaced with probability
    severity / 10.
    """,
    'severity',
    10.0,
    {
      'features': _SEVERITY,
      'series': _SEVERITY,
      'image': Treatment((Step(PixelGaussian(), lambda level: 10 * level),), _half),
      'text': _QMF_WORDS,
    },
  ),
  'qmf_paper_gaussian': Preset(
    """QMF's code for images and text, that of the paper and after.

    Half of the images get noise of 10 pixel values per severity: grey, the same
    pattern for all images of one size, negatives wrapped. Of half of the texts, each
    word is replaced with probability severity / 10; a severity above 10 is an error,
    as there. The original draws the noise after resizing and before cropping, here it
    falls on what the model gets. There, a noisy image also resets the generator that
    decides on the next text, so that its halves are none; that is left out.
    """,
    'severity',
    10.0,
    {
      'image': Treatment((Step(_QMF_GAUSSIAN, lambda level: 10 * level),), _half),
      'text': _QMF_WORDS,
    },
  ),
  'qmf_paper_salt': Preset(
    """QMF's salt and pepper, as of the paper: how many images, not how much.

    A tenth of the pixels of an image, in half of the images times severity / 10. Text
    as in `qmf_paper_gaussian`.
    """,
    'severity',
    10.0,
    {'image': _qmf_salt(1 / 10), 'text': _QMF_WORDS},
  ),
  'qmf_head_salt': Preset(
    """The same after a later change: half of the images times severity / 100.

    At severity 10 a twentieth of them is touched.
    """,
    'severity',
    10.0,
    {'image': _qmf_salt(1 / 100), 'text': _QMF_WORDS},
  ),
  'qmf_rgbd_gaussian': Preset(
    """QMF's RGB-D code: as `qmf_paper_gaussian`, with the severity itself as std.

    Colour and depth are touched independently, with the same pattern. Which severity
    of the paper's tables this is, is not documented.
    """,
    'pixel values (0-255)',
    math.inf,
    {'image': Treatment((Step(_QMF_GAUSSIAN),), _half)},
  ),
  'one_modality': Preset(
    """Ours, for data whose modalities fail one at a time: DynMM's, by the example.

    Of two modalities, a third of the examples has noise in the one, a third in the
    other, and a third is clean. Its standard deviation is the level times the mean
    absolute value of the example's normalised modality. With one modality named, the
    others stay clean, and it is no more likely to be hit.
    """,
    'mean absolute values of the example',
    math.inf,
    dict.fromkeys(RelativeGaussian.kinds, _RELATIVE),
    one_of=True,
  ),
  'dynmm_rgbd': Preset(
    """DynMM's code for RGB-D: `one_modality` by batches of eight, not by examples.

    Which images are eight depends on their places in the split. Its mode 0 is rgb
    named alone, 1 depth, and 2 both, which its documentation takes for noise in both
    at once. It says 0.33 for a third, and its draws are unseeded or follow the run.
    """,
    'mean absolute values of the batch',
    1.0,
    {'image': _RELATIVE},
    one_of=True,
    together=8,
  ),
  'multibench_timeseries': Preset(
    """MultiBench's noise on time series, as documented and as used on stocks.

    White noise of one number per step, then entries, then whole steps are dropped, all
    with the same level, for every example. Its draws are not seeded, ours are.
    """,
    'noise level',
    1.0,
    {'series': Treatment((Step(WhiteNoise()), Step(Mask()), Step(DropSteps())))},
  ),
  'multibench_affect': Preset(
    """The same as its readers of MOSI, MOSEI and the like use it, see `WhiteNoise`.

    One number for a whole example, then whole examples are lost; entries are not. They
    go up to 0.9 for one modality, and to a third of that for all of them together.
    """,
    'noise level',
    1.0,
    {'series': Treatment((Step(WhiteNoise(whole=True)), Step(Missing())))},
  ),
  'multibench_mimic': Preset(
    """The same as its reader of MIMIC uses it: with entries.

    The static features get `multibench_tabular`.
    """,
    'noise level',
    1.0,
    {
      'series': Treatment(
        (Step(WhiteNoise(whole=True)), Step(Mask()), Step(Missing()))
      ),
      'features': _TABULAR,
    },
  ),
  'multibench_tabular': Preset(
    """MultiBench's noise on tables: entries dropped, neighbours 'swapped', see `Swap`.

    Both with the same level, for every example.
    """,
    'noise level',
    1.0,
    {'features': _TABULAR},
  ),
}
"""Protocols by name; each says what it is in `about`."""


def find(name: str) -> Preset:
  """The preset of a name; a single corruption touches every example.

  Raises:
    ValueError: there is none.
  """
  if name in PRESETS:
    return PRESETS[name]
  if name not in CORRUPTIONS:
    raise ValueError(
      f'Unknown corruption {name!r}; expected one of {sorted(CORRUPTIONS)}, or a '
      f'preset: {sorted(PRESETS)}.'
    )
  corruption = CORRUPTIONS[name]()
  treatment = Treatment((Step(corruption),))
  kinds = dict.fromkeys(corruption.kinds, treatment)
  about = inspect.getdoc(corruption)
  return Preset(about, corruption.unit, corruption.max_level, kinds)
