"""`python -m jdyn.convert KIND FILE --config FILE --workdir W`: a published model.

Reads a checkpoint without PyTorch and without running anything in it, scores the
model on the config's data, prepared as in its training, and leaves a folder that
`jdyn.load`, `jdyn.evaluate` and `jdyn.report` take for that of a trained run. KIND is
one of: mm_dynamics.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config of the model, for example configs/rosmap_mmdynamics.py.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')


def main(argv) -> None:
  """Converts, and says where the report is."""
  if len(argv) != 3:
    raise app.UsageError('Give the kind of the checkpoint, and its file.')
  # Imported here, so that `--help` and a mistyped flag answer at once.
  from jdyn.training import cli
  from jdyn.training.convert import convert

  cli.start_logging()
  kind, path = argv[1], Path(argv[2])
  workdir = Path(_WORKDIR.value)
  report = cli.finish(lambda: convert(kind, path, _CONFIG.value, workdir))
  print(
    'Scores of the validation split may be of examples that the published model was '
    f'trained on.\nReport: {report}'
  )


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  try:
    app.run(main)
  except SystemExit:
    if '--help' in sys.argv:
      sys.exit(0)  # absl shows the help and exits with 1.
    raise
