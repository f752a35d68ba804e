"""One modality to features.

Every entry is a module `(x, *, train) -> [B, ..., D]`; heads are encoders too.
`Transformer` is among the layers because a fusion is built from it as well.
"""

from jdyn.encoders.gru import GRU
from jdyn.encoders.identity import Identity
from jdyn.encoders.lenet import LeNet
from jdyn.encoders.maxout_mlp import MaxOutMLP
from jdyn.encoders.mlp import MLP
from jdyn.encoders.pooled_resnet import PooledResNet
from jdyn.encoders.preact_resnet import PreActResNet
from jdyn.encoders.resnet import ResNet
from jdyn.encoders.strided_conv import StridedConv
from jdyn.layers.transformer import Transformer

ENCODERS = {
  'gru': GRU,
  'identity': Identity,
  'lenet': LeNet,
  'maxout': MaxOutMLP,
  'mlp': MLP,
  'pooled_resnet': PooledResNet,
  'preact_resnet': PreActResNet,
  'resnet': ResNet,
  'strided_conv': StridedConv,
  'transformer': Transformer,
}
