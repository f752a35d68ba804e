"""What keys of one stage's config may not hold together, whatever its model is.

`config_schema` judges every key by itself, and `build` what is about the model.
"""

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from jdyn.config_schema import ConfigError


def check_names(
  name: str, main: str, experts: Sequence[str], warm_up: Sequence[str]
) -> None:
  """That the stages before a stage can have these names."""
  for each in (*experts, *warm_up):
    if not re.fullmatch(r'\w[\w-]*', each):
      raise ConfigError(
        f'{name}: {each!r} would be the name of a stage and of its folder; take '
        'letters, digits, _ and - alone.'
      )
  if main in (*experts, *warm_up):
    raise ConfigError(f'{main}: this name is the main stage; choose another.')
  if len(warm_up) > 1 or set(warm_up) & set(experts):
    raise ConfigError(
      f'{name}: warm_up {sorted(warm_up)} must be one stage at most, with a name '
      f'that no expert has ({sorted(experts)}).'
    )


def check_experts(
  name: str, config: ConfigDict, used: Sequence[str], trained: Sequence[str]
) -> None:
  """That what a stage says of experts is about experts that it has."""
  if config.holdout and not trained:
    raise ConfigError(
      f'{name}: holdout={config.holdout} keeps examples from experts that are trained '
      'first, and there are none in config.experts; set it to 0.'
    )
  if config.freeze == 'compat' and not trained:
    raise ConfigError(
      f"{name}: freeze='compat' leaves experts as they are, and none is trained first; "
      "set freeze='eval' or add config.experts."
    )
  scale = config.optimizer.expert_scale
  if scale != 1 and not (used and (config.freeze == 'none' or not trained)):
    raise ConfigError(
      f'{name}: optimizer.expert_scale={scale} is of experts that are tuned with their '
      "gate, and there are none; set it to 1, or freeze='none'."
    )


def check_optimizer(name: str, entry: ConfigDict) -> None:
  """That momentum is given to an optimiser that has it."""
  cycle = entry.cycle_momentum != 'none'
  if cycle and entry.name != 'sgd':
    raise ConfigError(
      f'{name}: optimizer.cycle_momentum={entry.cycle_momentum!r} needs '
      f"optimizer.name='sgd', and it is {entry.name!r}; set it to 'none'."
    )
  if entry.momentum and entry.name in ('adam', 'adamw'):
    raise ConfigError(
      f'{name}: optimizer.momentum={entry.momentum} is of sgd and rmsprop, and '
      f'optimizer.name is {entry.name!r}; set it to 0.'
    )
  if entry.nesterov and (entry.name != 'sgd' or not (entry.momentum or cycle)):
    raise ConfigError(
      f"{name}: optimizer.nesterov=True needs optimizer.name='sgd' with a momentum; "
      'set it to False.'
    )


def check_temperature(name: str, entry: ConfigDict) -> None:
  """That the gate's logits are never divided by 0 or less."""
  if entry.warmup > 0:
    raise ConfigError(
      f'{name}: gate.temperature.warmup={entry.warmup} starts from a temperature of 0; '
      'set it to 0, and give the first temperature as gate.temperature.init_value.'
    )
  used = ('init_value',) if entry.name == 'constant' else ('init_value', 'end_value')
  for key in used:
    if not entry[key] > 0:
      raise ConfigError(
        f'{name}: gate.temperature.{key}={entry[key]} must be greater than 0; a small '
        'one, such as 0.1, makes soft weights almost hard.'
      )
