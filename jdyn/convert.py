"""`python -m jdyn.convert KIND FILE --config FILE --out DIR`: a published model.

Reads a checkpoint without PyTorch and without running anything in it. Where it is a
whole model (KIND is esanet or mm_dynamics), scores it on the config's data, prepared
as in its training, and leaves a folder that `jdyn.load`, `jdyn.evaluate` and
`jdyn.report` take for that of a trained run. Where it is an encoder (KIND is
imagenet_resnet, and --modality says whose), leaves a folder for a run to start with:
`python -m jdyn.train --config FILE --config.pretrained.rgb=DIR`. The config says how
large the model is.
"""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jdyn.training.config_file import start

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config of the model, for example configs/rosmap_mmdynamics.py.'
)
_OUT = flags.DEFINE_string('out', None, 'Folder of the run, or of the variables.')
flags.DEFINE_alias('workdir', 'out')
_MODALITY = flags.DEFINE_enum(
  'modality', None, ['rgb', 'depth'], 'Of an encoder: what it sees.'
)


def main(argv) -> None:
  """Converts, and says where the report is."""
  if len(argv) != 3:
    raise app.UsageError('Give the kind of the checkpoint, and its file.')
  # Imported here, so that `--help` and a mistyped flag answer at once.
  from jdyn.interop import ENCODERS
  from jdyn.training import cli
  from jdyn.training.convert import convert, convert_encoder

  cli.start_logging()
  kind, path, out = argv[1], Path(argv[2]), Path(_OUT.value)
  if (kind in ENCODERS) != (_MODALITY.value is not None):
    raise app.UsageError(f'--modality goes with a kind of {sorted(ENCODERS)}.')
  if kind in ENCODERS:
    key = cli.finish(
      lambda: convert_encoder(kind, path, _CONFIG.value, _MODALITY.value, out)
    )
    print(f'Written: {out}. Train with --{key}={out}')
    return
  report = cli.finish(lambda: convert(kind, path, _CONFIG.value, out))
  print(
    'Scores of the validation split may be of examples that the published model was '
    f'trained on.\nReport: {report}'
  )


if __name__ == '__main__':
  flags.mark_flag_as_required('out')
  start(main)
