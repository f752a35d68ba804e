"""Times the original DynMM on ESANet; run by `segmentation.py`, not by hand.

It runs in an interpreter with PyTorch and imports `FusionDynMM` of a checkout of
zihuixue/DynMM that the user gives. Nothing of it is in this repository. What is
replaced: GPU calls, and pandas, which its modules import for other things. Images and
weights are `channels_last`, which is PyTorch's faster layout on a CPU.

Requests come as JSON lines on stdin, answers go as JSON lines to stdout; see the
methods of `Original`.
"""

import argparse
import contextlib
import functools
import io
import json
import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

LOSS_RATIO = 1e-4


class Original:
  """The network of a checkout, with the decoder that the original trains."""

  def __init__(self, checkout: Path, backbone: str):
    sys.path.insert(0, str(checkout / 'FusionDynMM'))
    sys.modules['pandas'] = types.ModuleType('pandas')
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    from src.models.model_skip_mod_globalgate import SkipGateESANet
    from src.utils import CrossEntropyLoss2d

    sys.modules.pop('pandas')  # PyTorch looks at what it finds there.
    self._model = SkipGateESANet(
      encoder_rgb=backbone,
      encoder_depth=backbone,
      channels_decoder=[512, 256, 128],
      nr_decoder_blocks=[3, 3, 3],
      fuse_depth_in_rgb_encoder='SE-add',
    ).to(memory_format=torch.channels_last)
    self._model.hard_gate = True
    self._loss = CrossEntropyLoss2d('cpu', np.ones(40))
    self._optimizer = torch.optim.SGD(
      self._model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    self._images = self._labels = None

  def save(self, path: str) -> dict:
    """Writes the weights."""
    torch.save(self._model.state_dict(), path)
    return {}

  def load(self, path: str) -> dict:
    """Reads the images and labels that `segmentation.py` has written."""
    arrays = np.load(path)
    # [B, H, W, C] to [B, C, H, W] does not move a number: this is `channels_last`.
    self._images = [torch.tensor(arrays[k]).movedim(3, 1) for k in ('rgb', 'depth')]
    self._labels = [torch.tensor(arrays[f'label_{k}']) for k in (1, 8, 16, 32)]
    return {}

  def exit(self, number: int) -> dict:
    """Its own modules, without those of the depth encoder behind an exit."""
    return self._evaluate(functools.partial(self._skip, number))

  def published(self) -> dict:
    """Its own `forward`, which computes everything."""
    return self._evaluate(lambda *images: self._model(*images, test=True))

  def logits(self, number: int, path: str) -> dict:
    """Writes what `exit` computes."""
    self._model.eval()
    with torch.no_grad():
      logits = self._skip(number, *self._images)
    np.save(path, logits.movedim(1, 3).numpy())
    return {}

  def step(self) -> dict:
    """A training step as in its `train.py`, with the straight-through gate."""
    self._model.train()
    return _timed(self._update)

  def memory(self) -> dict:
    """The most memory that this process had so far, in bytes."""
    return {'peak': 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

  def _evaluate(self, run: Callable) -> dict:
    self._model.eval()
    with torch.no_grad():
      return _timed(lambda: run(*self._images))

  def _update(self) -> None:
    self._optimizer.zero_grad()
    predictions, cost = self._model(*self._images)
    loss = sum(self._loss(predictions, self._labels)) + LOSS_RATIO * cost
    loss.backward()
    self._optimizer.step()

  def _skip(self, number: int, rgb, depth):
    model = self._model
    rgb = model.encoder_rgb.forward_first_conv(rgb)
    depth = model.encoder_depth.forward_first_conv(depth)
    rgb, depth = (
      functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
      for x in (model.se_layer0(rgb, depth), depth)
    )
    model.gate_layer(rgb, depth, model.temp, model.hard_gate)
    skips = []
    for stage in range(1, 5):
      rgb = getattr(model.encoder_rgb, f'forward_layer{stage}')(rgb)
      if stage <= number:
        depth = getattr(model.encoder_depth, f'forward_layer{stage}')(depth)
        rgb = getattr(model, f'se_layer{stage}')(rgb, depth)
      if stage < 4:
        skips.append(getattr(model, f'skip_layer{stage}')(rgb))
    return model.decoder(enc_outs=[model.context_module(rgb), *skips[::-1]])


def _timed(run: Callable[[], object]) -> dict:
  """Seconds on the clock and of the processor."""
  start, busy = time.perf_counter(), time.process_time()
  run()
  return {
    'seconds': time.perf_counter() - start,
    'processor': time.process_time() - busy,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('checkout', type=Path)
  parser.add_argument('backbone')
  parser.add_argument('--threads', type=int, required=True)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  torch.manual_seed(0)
  answers = sys.stdout
  with contextlib.redirect_stdout(io.StringIO()):  # The original prints.
    original = Original(args.checkout, args.backbone)
    print(json.dumps({'torch': torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
      request = json.loads(line)
      answer = getattr(original, request.pop('what'))(**request)
      print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
