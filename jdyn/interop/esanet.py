"""Names of ESANet's and DynMM's tensors, for checkpoints of either.

ESANet (TUI-NICR) and DynMM's FusionDynMM share their names; the latter adds
`gate_layer.*` to them. The parts of our models are found by the same rules.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

Place = tuple[str, ...]
"""Keys of a variable, from the outermost dict inwards."""


def _next(template: str) -> Callable[[re.Match], str]:
  """Replaces a match by the template, in which `{}` is its number plus one."""
  return lambda match: template.format(int(match[1]) + 1)


_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}

# From our path, with the leaf already theirs, to their name with slashes; in order.
_RULES = [
  # The gate's layers are one Sequential: convolution, BatchNorm, tanh; twice.
  (r'\bencoder/conv_(\d)/', lambda m: f'conv/{3 * int(m[1])}/'),
  (r'\bencoder/norm_(\d)/', lambda m: f'conv/{3 * int(m[1]) + 1}/'),
  (r'\bencoder/out/', 'fc/'),
  (r'^gate/', 'gate_layer/'),
  (r'^network/', ''),
  (r'^encoders_', 'encoder_'),
  (r'\bfirst/conv/', 'conv1/'),
  (r'\bfirst/norm/', 'bn1/'),
  (r'\bstages_(\d)/block_', _next('layer{}/')),
  (r'\bblock_', 'decoder_blocks/'),
  (r'\blayer_(\d)/conv/', _next('conv{}/')),
  (r'\blayer_(\d)/norm/', _next('bn{}/')),
  (r'\bconv_3x1_(\d)/', _next('conv3x1_{}/')),
  (r'\bconv_1x3_(\d)/', _next('conv1x3_{}/')),
  (r'\bnorm_(\d)/', _next('bn{}/')),
  (r'\bshortcut/conv/', 'downsample/0/'),
  (r'\bshortcut/norm/', 'downsample/1/'),
  (r'\bmain/(squeeze|excite)/', r'se_rgb/\1/'),
  (r'\bside/(squeeze|excite)/', r'se_depth/\1/'),
  (r'\bsqueeze/', 'fc/0/'),
  (r'\bexcite/', 'fc/2/'),
  (r'\bfusions_', 'se_layer'),
  (r'\bskip_layers_(\d)/', _next('skip_layer{}/0/')),
  (r'\bcontext/', 'context_module/'),
  (r'\bout/(conv|norm)/', r'final_conv/\1/'),
  (r'\bout/', 'conv_out/'),
  (r'\bmodule_(\d)/', _next('decoder_module_{}/')),
  (r'\bconv/(conv|norm)/', r'conv3x3/\1/'),
  (r'\bside/', 'side_output/'),
  (r'\bupsample_(\d)/', _next('upsample{}/')),
  (r'\bnorm/', 'bn/'),
]


def tensor_name(place: Place, *, pools: bool = True) -> str:
  """The name of a variable's tensor in a state dict.

  Args:
    place: of the variable in its collection.
    pools: whether pyramid pooling counts its pools as layers: `ppm`, not `appm`.
  """
  *modules, leaf = place
  name = '/'.join([*modules, _LEAVES[leaf]])
  for pattern, replacement in _RULES:
    name = re.sub(pattern, replacement, name)
  name = re.sub(r'\bbin_(\d)/', r'features/\1/1/' if pools else r'features/\1/', name)
  return name.replace('/', '.')


def variables(
  tensors: Mapping[str, Any], template: Mapping[str, Any], names: Mapping[Place, str]
) -> dict[str, Any]:
  """Our variables from the tensors of a state dict.

  Args:
    tensors: by their names.
    template: our variables, or their shapes.
    names: of the tensor of each variable, by the variable's place in the template.
  """

  def take(place: Place, shape: tuple[int, ...]):
    tensor = tensors[names[place]]
    if place[-1] == 'kernel':
      # [out, in, height, width]; a linear layer is a convolution of one pixel there.
      tensor = tensor.transpose(2, 3, 1, 0)
      tensor = tensor[0, 0] if len(shape) == 2 else tensor
    return tensor

  shapes = flatten_dict(jax.tree.map(lambda leaf: leaf.shape, template))
  return unflatten_dict({place: take(place, shape) for place, shape in shapes.items()})
