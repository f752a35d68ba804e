"""Starts a command that takes `--config FILE`; what is wrong with that is one line."""

import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import ConfigDict


def start(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
  """Parses the flags, of which `config` must be one, and calls `main`.

  Exits with 1, and a line on stderr, where a flag is unknown or of another type, or
  where the config file is not there, is no Python, raises, or gives no config.

  Args:
    main: takes the arguments that are no flags, after the program's name.
    argv: the program's name and its arguments; those of the process if None.
  """
  argv = list(sys.argv if argv is None else argv)
  flags.mark_flag_as_required('config')
  try:
    app.run(main, argv=argv, flags_parser=_parse)
  except SystemExit:
    if '--help' in argv:
      sys.exit(0)  # absl shows the help and exits with 1.
    raise


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = app.parse_flags_with_usage(argv)
    config = flags.FLAGS['config'].value
    hasattr(config, 'lock')  # Raises where the file is not there.
  except Exception as error:  # A config file is a program, and can raise anything.
    sys.exit(f'error: {_say(error)}')
  if not isinstance(config, ConfigDict):
    sys.exit(f'error: --config: get_config() gave {config!r} and no ConfigDict.')
  return rest


def _say(error: Exception) -> str:
  """What went wrong, in a line; of an error in the file, where."""
  frames = traceback.extract_tb(error.__traceback__)
  inside = [f for f in frames if f.name == 'get_config' or f.name == '<module>']
  inner = error
  while inner.args and isinstance(inner.args[0], Exception):
    inner = inner.args[0]  # ml_collections wraps what it raises.
  text = str(inner.args[0] if len(inner.args) == 1 else inner)
  text = ' '.join(text.split()) or 'no reason given'
  if inside:
    last = frames[-1]
    return f'{last.filename}, line {last.lineno}: {type(error).__name__}: {text}'
  if isinstance(error, SyntaxError):
    return f'{error.filename}, line {error.lineno}: {text}'
  return f'--config: {text}'
