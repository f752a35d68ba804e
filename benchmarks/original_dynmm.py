"""Times the original DynMM's own training loop; run by `throughput.py`, not by hand.

It runs in an interpreter with PyTorch and imports, from a checkout that the user
gives, MultiBench with DynMM's `ModalityDynMM` copied onto it. Nothing of either is
in this repository. The models are put together from the checkout's modules with
the sizes of DynMM's `imdb_mm.py` and `imdb_dyn.py`, and trained by the checkout's
own `train`; only its data loader is wrapped, by one that looks at the clock.

Requests come as JSON lines on stdin, answers go as JSON lines to stdout:
`{"model": ..., "feed": "file" or "memory", "steps": n}` is answered by
`{"seconds": ..., "examples": ...}` of one epoch of at most n steps.
"""

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import itertools
import json
import sys
import tempfile
import time
import types
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

BATCH_SIZE = 128  # As in both scripts of the original.
MEMORY_BATCHES = 16

# Imported by the checkout's files at their top, and not used by what is timed.
UNUSED = (
  'PIL',
  'blocks',
  'gensim',
  'matplotlib',
  'memory_profiler',
  'nltk',
  'theano',
  'torchvision',
)


class _Stub(types.ModuleType):
  """An absent package, whose every name is an empty class."""

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return type(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Gives empty modules for the absent ones of `UNUSED`."""

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in UNUSED:
      return importlib.machinery.ModuleSpec(name, self, is_package=True)
    return None

  def create_module(self, spec):
    return _Stub(spec.name)

  def exec_module(self, module):
    pass


class _Timed:
  """Batches of one epoch; `seconds` is from its start to the end of its last step."""

  def __init__(self, batches, steps):
    self._batches, self._steps = batches, steps
    self.seconds = self.examples = 0

  def __iter__(self):
    start = time.perf_counter()
    for batch in itertools.islice(iter(self._batches), self._steps):
      yield batch
      self.examples += len(batch[-1])
    self.seconds = time.perf_counter() - start


class Original:
  """The modules of a checkout, and a data file for them."""

  def __init__(self, checkout, data):
    sys.meta_path.append(_Stubs())
    sys.path.insert(0, str(checkout))
    # There is no GPU here, and the original asks for one.
    nn.Module.cuda = torch.Tensor.cuda = lambda self, *args, **kwargs: self
    self._loop = importlib.import_module('training_structures.Supervised_Learning')
    self._models = importlib.import_module('unimodals.common_models')
    self._fusions = importlib.import_module('fusions.common_fusions')
    self._gated = _import_one('imdb_dyn', 'examples.multimedia', 'multimedia')
    loaders = importlib.import_module('datasets.imdb.get_data')
    self._loader, _, _ = loaders.get_dataloader(
      data, '', vgg=True, batch_size=BATCH_SIZE, no_robust=True
    )
    in_process = DataLoader(self._loader.dataset, BATCH_SIZE, shuffle=True)
    self._memory = list(itertools.islice(in_process, MEMORY_BATCHES))

  def time_epoch(self, model, feed, steps):
    """Trains a new model for one epoch of at most `steps` steps."""
    batches = self._loader if feed == 'file' else itertools.cycle(self._memory)
    timed = _Timed(batches, steps)
    valid = [tuple(part[:2] for part in self._memory[0])]
    options = dict(
      total_epochs=1,
      task='multilabel',
      optimtype=torch.optim.AdamW,
      weight_decay=0.01,
      objective=nn.BCEWithLogitsLoss(),
      track_complexity=False,
    )
    with tempfile.TemporaryDirectory() as folder:
      options['save'] = str(Path(folder) / 'best.pt')
      if model == 'late_fusion':
        parts = self._late_fusion()
        self._loop.train(*parts, timed, valid, lr=8e-3, **options)
      else:
        gated = self._gated.DynMMNet(pretrain=False, freeze=model == 'gated_frozen')
        options |= dict(moe_model=gated, additional_loss=True, lossw=0.1)
        self._loop.train(None, None, None, timed, valid, lr=1e-4, **options)
    return {'seconds': timed.seconds, 'examples': timed.examples}

  def _late_fusion(self):
    encoders = [
      self._models.MaxOut_MLP(512, 512, 300, linear_layer=False),
      self._models.MaxOut_MLP(512, 1024, 4096, 512, False),
    ]
    return encoders, self._fusions.Concat(), self._models.Linear(1024, 23)


def _import_one(name, *packages):
  """The module from the first of the packages that has it."""
  for package in packages:
    with contextlib.suppress(ModuleNotFoundError):
      return importlib.import_module(f'{package}.{name}')
  raise SystemExit(f'The checkout has no {name}.py in any of {packages}.')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('checkout', type=Path)
  parser.add_argument('data', help='a file of the layout of multimodal_imdb.hdf5')
  parser.add_argument('--threads', type=int, required=True)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  torch.manual_seed(0)
  answers = sys.stdout
  with contextlib.redirect_stdout(io.StringIO()):  # The original prints.
    original = Original(args.checkout, args.data)
    print(json.dumps({'torch': torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
      answer = original.time_epoch(**json.loads(line))
      print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
