"""Checkpoints of ESANet and of DynMM's network on top of it, by their tensors' names.

ESANet (TUI-NICR) and DynMM's FusionDynMM share their names; the latter adds
`gate_layer.*` to them. The parts of our models are found by the same rules.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jdyn.data.dataset import DataError
from jdyn.interop.state_dict import Place, read_params, read_state_dict


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

# What only a pyramid with its pools has.
_WITH_POOLS = 'context_module.features.0.1.'

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


def convert(path: Path, template: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of `gated_stages`, or of an `esanet` of one modality or two.

  Args:
    path: of the checkpoint, with an optimizer's state beside the tensors or without.
    template: variables of our model, or their shapes.

  Raises:
    DataError: the file is damaged, or of another model than `template`.
  """
  tensors = read_state_dict(path)
  if any(re.match(r'gate_layer\d', str(name)) for name in tensors):
    raise DataError(
      f"{path}: a network of DynMM's local gates (gate_layer0, gate_layer1, ...); only "
      'the one with a single, global gate can be converted.'
    )
  pools = any(str(name).startswith(_WITH_POOLS) for name in tensors)
  found = places(template, pools=pools)
  _check_gate(path, tensors, found)
  _check_classes(path, tensors, found, template)
  return read_params(path, tensors, found, template)


def _check_gate(
  path: Path, tensors: Mapping[str, Any], found: Mapping[str, Place]
) -> None:
  missing = set(found) - set(tensors)
  gate = {name for name in found if name.startswith('gate_layer.')}
  if missing and missing == gate and set(tensors) <= set(found):
    raise DataError(
      f"{path}: ESANet without a gate, and the config's model has one. Convert it with "
      'a config of the static model, and give that folder as `pretrained` of the '
      "gated one's `network`."
    )


def _check_classes(
  path: Path,
  tensors: Mapping[str, Any],
  found: Mapping[str, Place],
  template: Mapping[str, Any],
) -> None:
  if (name := 'decoder.conv_out.bias') in set(tensors) & set(found):
    have, (want,) = np.size(tensors[name]), flatten_dict(template)[found[name]].shape
    if have != want:
      raise DataError(
        f"{path}: predicts {have} classes, and the config's model {want}. If it "
        'was trained on SceneNet RGB-D (13 classes), convert it with a config of '
        'those, and give parts of that folder as `pretrained`.'
      )


def places(template: Mapping[str, Any], *, pools: bool = True) -> dict[str, Place]:
  """Where each tensor belongs among our variables, by its name.

  Args:
    template: variables of our model, or their shapes.
    pools: as in `tensor_name`.
  """
  ours = flatten_dict(template)
  encoders = {key for place in ours for key in place if key.startswith('encoders_')}
  return {
    tensor_name(place[1:], pools=pools, single=len(encoders) == 1): place
    for place in ours
  }


def tensor_name(place: Place, *, pools: bool = True, single: bool = False) -> str:
  """The name of a variable's tensor in a state dict.

  Args:
    place: of the variable in its collection.
    pools: whether pyramid pooling counts its pools as layers: `ppm`, not `appm`.
    single: whether there is one encoder, which is not named by its modality then.
  """
  *modules, leaf = place
  name = '/'.join([*modules, _LEAVES.get(leaf, leaf)])
  for pattern, replacement in _RULES:
    name = re.sub(pattern, replacement, name)
  name = re.sub(r'\bbin_(\d)/', r'features/\1/1/' if pools else r'features/\1/', name)
  name = re.sub(r'^encoder_[^/]+', 'encoder', name) if single else name
  return name.replace('/', '.')
