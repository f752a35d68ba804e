"""The released ESANet and DynMM on it: names and shapes of their tensors."""

import dataclasses
from collections.abc import Iterator

import numpy as np

Named = Iterator[tuple[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Released:
  """The sizes of a network.

  Attributes:
    block: `non_bottleneck_1d`, `basic` or `bottleneck`.
    blocks: of each of four stages.
    planes: width of each stage, before a bottleneck's expansion.
    decoder: widths.
    decoder_blocks: of each module.
    classes: number of classes.
    modalities: with their channels; one of them for a network of one modality.
    se: whether squeeze-and-excitation stands before the sum.
    pools: whether pyramid pooling has fixed grids, whose pools count as layers.
    bins: how many grids there are.
    gate: whether there is DynMM's global gate.
    learned: whether upsampling has weights.
  """

  block: str = 'non_bottleneck_1d'
  blocks: tuple[int, ...] = (1, 1, 1, 1)
  planes: tuple[int, ...] = (16, 16, 32, 32)
  decoder: tuple[int, ...] = (24, 16, 8)
  decoder_blocks: tuple[int, ...] = (1, 1, 1)
  classes: int = 3
  modalities: tuple[tuple[str, int], ...] = (('rgb', 3), ('depth', 1))
  se: bool = True
  pools: bool = True
  bins: int = 2
  gate: bool = True
  learned: bool = True

  def state_dict(self) -> dict[str, np.ndarray]:
    """Random tensors by their names, with the counters of BatchNorm."""
    rng = np.random.default_rng(0)
    return {
      name: np.array(7) if not shape else rng.standard_normal(shape, np.float32)
      for name, shape in self.shapes().items()
    }

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Of every tensor, by its name; of a counter, `()`."""
    return dict(self._shapes())

  @property
  def features(self) -> list[int]:
    """Channels behind the stem and each stage."""
    expansion = 4 if self.block == 'bottleneck' else 1
    return [self.planes[0], *(expansion * width for width in self.planes)]

  def _shapes(self) -> Named:
    two = len(self.modalities) == 2
    for name, channels in self.modalities:
      yield from self.encoder(f'encoder_{name}.' if two else 'encoder.', channels)
    for i, width in enumerate(self.features if self.se else ()):
      for part in ('se_rgb.', 'se_depth.') if two else ('',):
        hidden = width // 16
        yield from _conv(f'se_layer{i}.{part}fc.0', hidden, width, 1, 1)
        yield from _conv(f'se_layer{i}.{part}fc.2', width, hidden, 1, 1)
    for i, width in enumerate(reversed(self.decoder), 1):
      if self.features[i] != width:
        yield from _conv_norm(f'skip_layer{i}.0', width, self.features[i], 1)
    yield from self._context()
    yield from self._decoder()
    if self.gate:
      yield from _gate('gate_layer', 2 * self.planes[0])

  def encoder(self, prefix: str, channels: int) -> Named:
    """Those of one encoder."""
    yield f'{prefix}conv1.weight', (self.planes[0], channels, 7, 7)
    yield from _norm(f'{prefix}bn1', self.planes[0])
    before = self.planes[0]
    for stage, (count, planes) in enumerate(zip(self.blocks, self.planes, strict=True)):
      after = self.features[stage + 1]
      for i in range(count):
        name = f'{prefix}layer{stage + 1}.{i}'
        yield from _BLOCKS[self.block](name, before, planes)
        if i == 0 and (stage or before != after):
          yield f'{name}.downsample.0.weight', (after, before, 1, 1)
          yield from _norm(f'{name}.downsample.1', after)
        before = after

  def _context(self) -> Named:
    width = self.features[-1]
    for i in range(self.bins):
      name = f'context_module.features.{i}' + ('.1' if self.pools else '')
      yield from _conv_norm(name, width // self.bins, width, 1)
    name, joint = 'context_module.final_conv', width + width // self.bins * self.bins
    yield from _conv_norm(name, self.decoder[0], joint, 1)

  def _decoder(self) -> Named:
    before = self.decoder[0]
    for i, (width, blocks) in enumerate(
      zip(self.decoder, self.decoder_blocks, strict=True), 1
    ):
      name = f'decoder.decoder_module_{i}'
      yield from _conv_norm(f'{name}.conv3x3', width, before, 3)
      for block in range(blocks):
        yield from _non_bottleneck_1d(f'{name}.decoder_blocks.{block}', width, width)
      yield from _conv(f'{name}.side_output', self.classes, width, 1, 1)
      if self.learned:
        yield from _conv(f'{name}.upsample.conv', width, 1, 3, 3)
      before = width
    yield from _conv('decoder.conv_out', self.classes, before, 3, 3)
    for i in (1, 2) if self.learned else ():
      yield from _conv(f'decoder.upsample{i}.conv', self.classes, 1, 3, 3)


def _conv(name: str, *shape: int) -> Named:
  yield f'{name}.weight', shape
  yield f'{name}.bias', shape[:1]


def _norm(name: str, width: int) -> Named:
  for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
    yield f'{name}.{leaf}', (width,)
  yield f'{name}.num_batches_tracked', ()


def _conv_norm(name: str, after: int, before: int, size: int) -> Named:
  yield f'{name}.conv.weight', (after, before, size, size)
  yield from _norm(f'{name}.bn', after)


def _non_bottleneck_1d(name: str, before: int, width: int) -> Named:
  for i in (1, 2):
    yield from _conv(f'{name}.conv3x1_{i}', width, before if i == 1 else width, 3, 1)
    yield from _conv(f'{name}.conv1x3_{i}', width, width, 1, 3)
    yield from _norm(f'{name}.bn{i}', width)


def _basic(name: str, before: int, width: int) -> Named:
  for i in (1, 2):
    yield f'{name}.conv{i}.weight', (width, before if i == 1 else width, 3, 3)
    yield from _norm(f'{name}.bn{i}', width)


def _bottleneck(name: str, before: int, planes: int) -> Named:
  widths = [before, planes, planes, 4 * planes]
  for i, size in enumerate((1, 3, 1), 1):
    yield f'{name}.conv{i}.weight', (widths[i], widths[i - 1], size, size)
    yield from _norm(f'{name}.bn{i}', widths[i])


_BLOCKS = {
  'non_bottleneck_1d': _non_bottleneck_1d,
  'basic': _basic,
  'bottleneck': _bottleneck,
}


def _gate(name: str, channels: int) -> Named:
  for i, before in ((0, channels), (3, 8)):
    yield from _conv(f'{name}.conv.{i}', 8, before, 5, 5)
    yield from _norm(f'{name}.conv.{i + 1}', 8)
  yield f'{name}.fc.weight', (5, 8, 1, 1)
