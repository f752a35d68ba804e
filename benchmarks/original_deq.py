"""Times the original DEQ fusion's code; run by `deq.py`, not by hand.

It runs in an interpreter with PyTorch and imports `experiments/BRCA` of a checkout of
jinhong-ni/DEQFusion that the user gives. Nothing of it is in this repository. What is
replaced: GPU calls, `torch.solve`, which PyTorch no longer has, and `termcolor`.

Requests come as JSON lines on stdin, answers go as JSON lines to stdout; see the
methods of `Original`.
"""

import argparse
import contextlib
import io
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

GAINS = {'conv1': 0.4, 'conv2': 0.4, 'gate': 1.1, 'fuse': 0.7, 'gn3': 0.25}
"""Factors on the initial weights that make the map a contraction."""


class Original:
  """The modules of a checkout, and features and a training split for them."""

  def __init__(self, checkout: Path, data: Path):
    sys.path.insert(0, str(checkout / 'experiments' / 'BRCA'))
    sys.modules['termcolor'] = types.SimpleNamespace(colored=lambda text, _: text)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.cuda.synchronize = lambda *args: None
    torch.solve = lambda b, a: (torch.linalg.solve(a, b), None)
    import mm_model
    import solver

    self._model, self._solver, self._models = mm_model, solver, {}
    arrays = np.load(data)
    self._features = [torch.tensor(x) for x in arrays['features']]
    self._views = [torch.tensor(x) for x in arrays['views']]
    self._label = torch.tensor(arrays['label']).long()

  def layer(self, repeat: int) -> dict:
    """The layer at its initial weights, with the solver as configured."""
    torch.manual_seed(0)
    layer = self._model.DEQFusion(self._features[0].shape[1], len(self._features))
    layer.f_thres, layer.b_thres = 105, 106
    leaves = [x.clone().requires_grad_() for x in self._features]
    answer = {'forward': [], 'both': []}
    for _ in range(repeat):
      layer.eval()
      start = time.perf_counter()
      _, _, found = layer(leaves, sum(leaves))
      answer['forward'].append(time.perf_counter() - start)
      layer.train()
      start = time.perf_counter()
      # Its hook stays on the layer, so that each backward pass needs a new one.
      value, _, _ = layer.featureFusion(leaves, sum(leaves), compute_jac_loss=False)
      torch.sin(value).sum().backward()
      answer['both'].append(time.perf_counter() - start)
    z, f = found['result'], self._map(layer, self._features)
    return answer | self._residuals(f, z) | {'evaluations': len(found['rel_trace'])}

  def contraction(self, repeat: int, tol: float, save: str) -> dict:
    """The layer with weights scaled by `GAINS`, to a relative residual `tol`.

    The features are scaled to a root mean square of 1, and the weights are saved.
    """
    torch.manual_seed(0)
    layer = self._model.DEQFusion(self._features[0].shape[1], len(self._features))
    with torch.no_grad():
      for name, value in layer.named_parameters():
        if (part := name.split('.')[-2]) in GAINS and name.endswith('weight'):
          value *= GAINS[part]
    np.savez(save, **{k: v.numpy() for k, v in layer.state_dict().items()})
    features = [x / x.square().mean().sqrt() for x in self._features]
    f, answer = self._map(layer, features), {}
    size = self._features[0].shape[1] * (len(self._features) + 1)
    zeros = torch.zeros(len(self._features[0]), size)
    for name in ('anderson', 'broyden'):
      answer[name] = {'seconds': []}
      for _ in range(repeat):
        calls = 0

        def counted(z):
          nonlocal calls
          calls += 1
          return f(z)

        start = time.perf_counter()
        with torch.no_grad():
          found = getattr(self._solver, name)(
            counted, zeros, threshold=100, eps=tol, stop_mode='rel'
          )
        answer[name]['seconds'].append(time.perf_counter() - start)
      answer[name] |= self._residuals(f, found['result']) | {'evaluations': calls}
    return answer

  def steps(self, model: str, steps: int) -> dict:
    """Full-batch training steps of a model: `deq` or `concat`."""
    if model not in self._models:
      torch.manual_seed(0)
      built = self._model.MMDynamic(
        [x.shape[1] for x in self._views],
        [self._features[0].shape[1]],
        int(self._label.max()) + 1,
        0.5,
        jacobian_weight=20,
        use_deq=model == 'deq',
      ).train()
      optimizer = torch.optim.Adam(built.parameters(), lr=1e-4, weight_decay=1e-4)
      self._models[model] = built, optimizer
    built, optimizer = self._models[model]
    start = time.perf_counter()
    for _ in range(steps):
      optimizer.zero_grad()
      loss, *_ = built(self._views, self._label)
      loss.backward()
      torch.nn.utils.clip_grad_norm_(built.parameters(), 30)
      optimizer.step()
    return {'seconds': time.perf_counter() - start}

  def _map(self, layer, features):
    cutoffs = [features[0].shape[1]] * (len(features) + 1)
    injected = [*features, sum(features)]
    return lambda z: self._model.list2vec(
      layer.func_(self._model.vec2list(z, cutoffs), injected)
    )

  def _residuals(self, f, z) -> dict:
    with torch.no_grad():
      image = f(z)
      each = (image - z).norm(dim=1) / image.norm(dim=1)
    return {'median': each.median().item(), 'worst': each.max().item()}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('checkout', type=Path)
  parser.add_argument('data', type=Path, help='arrays that deq.py writes')
  parser.add_argument('--threads', type=int, required=True)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  answers = sys.stdout
  with contextlib.redirect_stdout(io.StringIO()):  # The original prints.
    original = Original(args.checkout, args.data)
    print(json.dumps({'torch': torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
      request = json.loads(line)
      answer = getattr(original, request.pop('what'))(**request)
      print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
