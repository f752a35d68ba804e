"""The gated networks of three configs in PyTorch; run by `gpu.py`, not by hand.

It runs in an interpreter with PyTorch and NumPy. The networks are definitions of our
own, with the layers of configs/{mmimdb,mosei,avmnist}_dyn.py, put together from
PyTorch's modules. Where there is a choice it is the faster one: images are
`channels_last`, AdamW is the fused one, cuDNN times its algorithms, batches lie on the
device as the network takes them, and of the last Transformer block only the step that
is read is computed, as in this library.

Requests come as JSON lines on stdin, answers go as JSON lines to stdout. A request
names a method of `Side` in `what`; the rest are its arguments.
"""

import argparse
import contextlib
import itertools
import json
import re
import sys
import time
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LOSSES = {
  'multiclass': functional.cross_entropy,
  'multilabel': functional.binary_cross_entropy_with_logits,
  'regression': lambda logits, label: functional.l1_loss(logits[:, 0], label),
}

# Of a block, by the names that its parts have in this library.
_IN_BLOCK = {
  'attention.out': 'self_attn.out_proj',
  'dense_0': 'linear1',
  'dense_1': 'linear2',
  'norm_0': 'norm1',
  'norm_1': 'norm2',
}
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


def mlp(*widths: int) -> nn.Module:
  """Linear layers with ReLU between them."""
  layers = OrderedDict()
  for i, (before, after) in enumerate(itertools.pairwise(widths)):
    if i:
      layers[f'relu_{i}'] = nn.ReLU()
    layers[f'dense_{i}'] = nn.Linear(before, after)
  return nn.Sequential(layers)


class Maxout(nn.Module):
  """The larger of two affine maps, per feature."""

  def __init__(self, inputs, features):
    super().__init__()
    self.dense = nn.Linear(inputs, 2 * features)

  def forward(self, x):
    """`[B, inputs]` to `[B, features]`."""
    x = self.dense(x)
    return torch.maximum(x[:, 0::2], x[:, 1::2])


def maxout_mlp(inputs: int, *hidden: int) -> nn.Module:
  """BatchNorm of the input; then Maxout, BatchNorm and Dropout per layer."""
  layers = OrderedDict(input_norm=nn.BatchNorm1d(inputs, eps=1e-4))
  for i, (before, after) in enumerate(itertools.pairwise((inputs, *hidden))):
    layers[f'maxout_{i}'] = Maxout(before, after)
    layers[f'norm_{i}'] = nn.BatchNorm1d(after)
    layers[f'dropout_{i}'] = nn.Dropout(0.3)
  return nn.Sequential(layers)


def lenet(channels: int, blocks: int) -> nn.Module:
  """A 5x5 and then 3x3 convolutions; each BatchNorm, ReLU and max-pooling."""
  layers, before = OrderedDict(), 1
  for i in range(blocks + 1):
    after, size = channels << i, 3 if i else 5
    layers[f'block_{i}'] = nn.Sequential(
      OrderedDict(
        conv=nn.Conv2d(before, after, size, padding=size // 2, bias=False),
        norm=nn.BatchNorm2d(after),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
      )
    )
    before = after
  layers['flatten'] = nn.Flatten()
  return nn.Sequential(layers)


class Transformer(nn.Module):
  """A bias-free embedding, post-norm blocks, and the last step that exists."""

  def __init__(self, inputs, width, blocks=5, heads=5):
    super().__init__()
    self.embed = nn.Linear(inputs, width, bias=False)
    self._blocks = [f'block_{i}' for i in range(blocks)]
    for name in self._blocks:
      block = nn.TransformerEncoderLayer(width, heads, 2048, 0.1, batch_first=True)
      self.add_module(name, block)

  def forward(self, x):
    """A sequence to `[B, width]`."""
    steps, length = x['steps'], x['length']
    padding = torch.arange(steps.shape[1], device=steps.device) >= length[:, None]
    y = self.embed(steps)
    *blocks, last = (self.get_submodule(name) for name in self._blocks)
    for block in blocks:
      y = block(y, src_key_padding_mask=padding)
    return _read(last, _last_step(y, length), y, padding)[:, 0]


def _last_step(y, length):
  place = (length.long() - 1)[:, None, None]
  return y.gather(1, place.expand(-1, 1, y.shape[2]))


def _read(block, queries, y, padding):
  """What the block makes of `queries` alone, which look at all steps."""
  seen, _ = block.self_attn(queries, y, y, key_padding_mask=padding, need_weights=False)
  x = block.norm1(queries + block.dropout1(seen))
  hidden = block.dropout(functional.relu(block.linear1(x)))
  return block.norm2(x + block.dropout2(block.linear2(hidden)))


class Unimodal(nn.Module):
  """One modality: encoder and head."""

  def __init__(self, modality, encoder, head):
    super().__init__()
    self._modality, self.encoder, self.head = modality, encoder, head

  def forward(self, inputs):
    """Logits."""
    return self.head(self.encoder(inputs[self._modality]))


class FeatureFusion(nn.Module):
  """An encoder per modality, their features side by side, and a head."""

  def __init__(self, encoders, head):
    super().__init__()
    self._names, self.head = sorted(encoders), head
    for name, encoder in encoders.items():
      self.add_module(f'encoders_{name}', encoder)

  def forward(self, inputs):
    """Logits."""
    features = [self.get_submodule(f'encoders_{n}')(inputs[n]) for n in self._names]
    return self.head(torch.cat(features, 1))


class Gate(nn.Module):
  """A small network on modalities side by side."""

  def __init__(self, names, encoder, head):
    super().__init__()
    self._names, self.encoder, self.head = sorted(names), encoder, head

  def forward(self, inputs):
    """Logits of the paths."""
    return self.head(self.encoder(_join([inputs[name] for name in self._names])))


def _join(parts):
  if isinstance(parts[0], dict):
    steps = torch.cat([part['steps'] for part in parts], 2)
    return {'steps': steps, 'length': parts[0]['length']}  # They are word-aligned.
  return torch.cat([part.flatten(1) for part in parts], 1)


class GatedMixture(nn.Module):
  """A gate over experts; all are computed, and weighted straight-through."""

  def __init__(self, gate, **experts):
    super().__init__()
    self.gate, self.paths = gate, list(experts)
    for path, expert in experts.items():
      self.add_module(f'experts_{path}', expert)

  def expert(self, path, inputs):
    """Logits of one expert."""
    return self.get_submodule(f'experts_{path}')(inputs)

  def forward(self, inputs):
    """Logits, and the weights of the paths."""
    soft = self.gate(inputs).float().softmax(1)
    hard = functional.one_hot(soft.argmax(1), len(self.paths)).to(soft.dtype)
    weights = hard + (soft - soft.detach())
    logits = torch.stack([self.expert(path, inputs) for path in self.paths], 1)
    return torch.einsum('bk,bkc->bc', weights, logits.float()), weights

  def conditional(self, inputs, chosen):
    """The gate, and each expert on the rows that are told to take it."""
    self.gate(inputs)
    logits = None
    for k, path in enumerate(self.paths):
      rows = (chosen == k).nonzero()[:, 0]
      if not len(rows):
        continue
      found = self.expert(path, _take(inputs, rows))
      if logits is None:
        logits = found.new_empty(len(chosen), found.shape[1])
      logits[rows] = found
    return logits


def _take(inputs, rows):
  if isinstance(inputs, dict):
    return {name: _take(value, rows) for name, value in inputs.items()}
  return inputs[rows]


def mmimdb() -> GatedMixture:
  """Paths in the order of the config, as in all of these."""
  encoders = {'image': maxout_mlp(4096, 1024, 512), 'text': maxout_mlp(300, 512, 512)}
  return GatedMixture(
    Gate(('image', 'text'), nn.Identity(), mlp(4396, 128, 2)),
    text=Unimodal('text', mlp(300, 512, 512), mlp(512, 512, 23)),
    joint=FeatureFusion(encoders, mlp(1024, 23)),
  )


def mosei() -> GatedMixture:
  """Transformers on 50 word-aligned steps."""
  encoders = {
    'audio': Transformer(74, 120),
    'text': Transformer(300, 120),
    'vision': Transformer(35, 60),
  }
  return GatedMixture(
    Gate(('audio', 'text', 'vision'), Transformer(409, 10), mlp(10, 2)),
    text=Unimodal('text', Transformer(300, 120), mlp(120, 64, 1)),
    joint=FeatureFusion(encoders, mlp(300, 128, 1)),
  )


def avmnist() -> GatedMixture:
  """LeNets."""
  encoders = {'image': lenet(6, 3), 'audio': lenet(6, 5)}
  return GatedMixture(
    Gate(('image',), nn.Identity(), mlp(784, 64, 2)),
    image=Unimodal('image', lenet(3, 3), mlp(24, 100, 10)),
    joint=FeatureFusion(encoders, mlp(240, 100, 10)),
  )


NETWORKS = {'avmnist': avmnist, 'mmimdb': mmimdb, 'mosei': mosei}


def state_dict(variables) -> dict[str, torch.Tensor]:
  """This library's variables, flat and named with dots, as PyTorch has them."""
  state = {}
  for name in variables:
    place, leaf = name.rsplit('.', 1)
    if place.endswith('attention.query'):
      block = place.removesuffix('.attention.query')
      both = f'{block}.attention.key_value.{leaf}'
      # One matrix, queries first; in Flax it is two, transposed.
      joined = np.concatenate([variables[name], variables[both]], axis=-1)
      state[f'{block}.self_attn.in_proj_{_LEAVES[leaf]}'] = torch.tensor(joined.T)
    elif not place.endswith('attention.key_value'):
      state[f'{_in_block(place)}.{_LEAVES[leaf]}'] = _tensor(variables[name])
  return state


def _in_block(place: str) -> str:
  found = re.fullmatch(r'(.*\bblock_\d+)\.(.*)', place)
  return f'{found[1]}.{_IN_BLOCK.get(found[2], found[2])}' if found else place


def _tensor(array: np.ndarray) -> torch.Tensor:
  """Kernels `[in, out]` or `[h, w, in, out]` come with the output first."""
  return torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


class Side:
  """A network, its batches, and what is timed of them.

  Args:
    device: where all of it lies.
    matmul: how float32 is multiplied, `tf32` or `float32`.
    mode: of `torch.compile`, for what is asked to be compiled.
  """

  def __init__(self, device: str, matmul: str, mode: str):
    self._device, self._mode = torch.device(device), mode
    self._tf32 = matmul == 'tf32'
    _allow_tf32(self._tf32)
    torch.backends.cudnn.benchmark = True

  def load(self, network, weights, batches, forced, task, prices, **options) -> dict:
    """Takes a network; both files are `.npz`, flat and named with dots.

    Args:
      network: one of `NETWORKS`.
      weights: file of the variables.
      batches: file of the batches, stacked.
      forced: the path of each example of a batch, for conditional execution.
      task: one of `LOSSES`.
      prices: by path, in order: what the loss charges, weight included.
      **options: `learning_rate`, `weight_decay` and `clip_norm`.
    """
    torch.compiler.reset()
    self._model = NETWORKS[network]()
    with np.load(weights) as variables:
      found = self._model.load_state_dict(state_dict(dict(variables)), strict=False)
    # PyTorch's BatchNorm counts its batches, too.
    lacking = [k for k in found.missing_keys if not k.endswith('num_batches_tracked')]
    if lacking or found.unexpected_keys:
      raise SystemExit(f'{network}: {lacking}, {found.unexpected_keys} do not fit.')
    self._model.to(self._device, memory_format=torch.channels_last)
    with np.load(batches) as arrays:
      self._batches = [self._batch(arrays, i) for i in range(len(arrays['label']))]
    self._chosen = torch.tensor(forced, device=self._device)
    self._objective = LOSSES[task]
    self._prices = torch.tensor(prices, dtype=torch.float32, device=self._device)
    self._clip_norm = options['clip_norm']
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(),
      lr=options['learning_rate'],
      weight_decay=options['weight_decay'],
      fused=True,
    )
    self._runs = {False: (self._loss, self._model)}
    self._runs[True] = tuple(
      torch.compile(f, mode=self._mode) for f in self._runs[False]
    )
    return {'parameters': sum(p.numel() for p in self._model.parameters())}

  def _batch(self, arrays, number):
    inputs = {}
    for name in arrays.files:
      _, *path = name.split('.')
      if path:
        value = torch.tensor(arrays[name][number])
        if value.ndim == 4:
          value = value.movedim(3, 1).contiguous(memory_format=torch.channels_last)
        *outer, last = path
        place = inputs.setdefault(outer[0], {}) if outer else inputs
        place[last] = value.to(self._device)
    label = torch.tensor(arrays['label'][number], device=self._device)
    return inputs, label.long() if label.dtype == torch.int32 else label

  def outputs(self, path: str) -> dict:
    """Writes logits of the gate and of the experts, of the first batch."""
    inputs, _ = self._batches[0]
    self._model.eval()
    _allow_tf32(False)
    with torch.inference_mode():
      found = {path: self._model.expert(path, inputs) for path in self._model.paths}
      found['gate'] = self._model.gate(inputs)
    _allow_tf32(self._tf32)
    np.savez(path, **{name: x.cpu().numpy() for name, x in found.items()})
    return {}

  def train(self, dtype: str, count: int, compiled: bool) -> dict:
    """Times so many steps."""
    self._model.train()
    loss_of, _ = self._runs[compiled]

    def step(batch):
      self._optimizer.zero_grad(set_to_none=True)
      with self._cast(dtype):
        loss = loss_of(*batch)
      loss.backward()
      nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
      self._optimizer.step()

    return self._timed(step, count)

  def dense(self, dtype: str, count: int, compiled: bool) -> dict:
    """Times so many batches; all experts are computed."""
    self._model.eval()
    _, run = self._runs[compiled]
    with torch.inference_mode(), self._cast(dtype):
      return self._timed(lambda batch: run(batch[0]), count)

  def conditional(self, dtype: str, count: int) -> dict:
    """Times so many batches; rows are grouped by path."""
    self._model.eval()
    with torch.inference_mode(), self._cast(dtype):
      run = self._model.conditional
      return self._timed(lambda batch: run(batch[0], self._chosen), count)

  def _loss(self, inputs, label):
    logits, weights = self._model(inputs)
    return self._objective(logits, label) + (weights @ self._prices).mean()

  def _cast(self, dtype: str):
    if dtype == 'float32':
      return contextlib.nullcontext()
    return torch.autocast(self._device.type, torch.bfloat16)

  def _timed(self, run, count: int) -> dict:
    self._wait()
    start = time.perf_counter()
    for number in range(count):
      run(self._batches[number % len(self._batches)])
    self._wait()
    return {'seconds': time.perf_counter() - start}

  def _wait(self):
    if self._device.type == 'cuda':
      torch.cuda.synchronize()


def _allow_tf32(allowed: bool) -> None:
  torch.backends.cuda.matmul.allow_tf32 = allowed
  torch.backends.cudnn.allow_tf32 = allowed


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--matmul', choices=('tf32', 'float32'), required=True)
  parser.add_argument('--mode', required=True, help='of torch.compile')
  args = parser.parse_args()
  torch.manual_seed(0)
  cuda = torch.cuda.is_available()
  side = Side('cuda' if cuda else 'cpu', args.matmul, args.mode)
  name = torch.cuda.get_device_name() if cuda else 'cpu'
  answers = sys.stdout
  with contextlib.redirect_stdout(sys.stderr):
    versions = {'torch': torch.__version__, 'torch device': name}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
      request = json.loads(line)
      answer = getattr(side, request.pop('what'))(**request)
      print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
