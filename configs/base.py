"""Every key that a jdyn config can have, with its default.

`get_config()` is the run: data, seeds, devices, and the keys of its main stage.
A stage trains one model; it may name `experts`, stages that are trained before it.
Models, encoders, fusions, gates and datasets are entries `{'name': ..., options}`;
the functions below list their options. Configs are locked, so an unknown key fails
with the nearest name.
"""

from ml_collections import ConfigDict

_RGBD = dict(
  depth='refined',
  height=480,
  width=640,
  valid_fraction=0.1,
  split_seed=0,
  class_weights='median_frequency',
  scale=(1.0, 1.4),
  hsv='fixed',
)

DATASETS = {
  'arrays': dict(file='data.npz', valid_fraction=0.15, split_seed=0),
  'avmnist': {},
  'brca': dict(valid_fraction=0.2, split_seed=0, scaling='published'),
  'digits': dict(valid_fraction=0.15, test_fraction=0.25, split_seed=0),
  'fastmri': dict(image_size=320, balance='loss'),
  'mimic': dict(task='mortality', standardise='train'),
  'mmimdb': dict(nan_rows='zero'),
  'mosei': dict(
    file='mosei_senti_data.pkl',
    padding='masked',
    label='real',
    znorm=False,
    max_length=50,
  ),
  'mosi': dict(label='binary', valid_fraction=0.15, split_seed=0),
  'nyuv2': dict(num_classes=40) | _RGBD,
  'rosmap': dict(valid_fraction=0.2, split_seed=0, scaling='published'),
  'sunrgbd': _RGBD,
}

# `features` of a head is set to the number of outputs; 0 elsewhere means no last layer.
ENCODERS = {
  'gru': dict(features=128, readout='last', project=0),
  'identity': dict(flatten=True),
  'lenet': dict(channels=6, blocks=3, features=0),
  'maxout': dict(
    hidden=(512, 512), features=0, pieces=2, dropout=0.3, input_epsilon=1e-4
  ),
  'mlp': dict(hidden=(), features=0, dropout=0.0),
  'pooled_resnet': dict(
    features=0,
    block='basic',
    blocks=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    pool=(1, 1),
  ),
  'preact_resnet': dict(
    features=0, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), groups=32, pool=10
  ),
  'resnet': dict(
    block='non_bottleneck_1d',
    blocks=(3, 4, 6, 3),
    widths=(64, 128, 256, 512),
    activation='relu',
    remat=False,
  ),
  'strided_conv': dict(features=0, widths=(8, 8), size=5),
  'transformer': dict(
    features=120, blocks=5, heads=5, feedforward=2048, dropout=0.1, readout='last'
  ),
}

_EQUILIBRIUM = dict(
  features=0,
  cell='residual',
  groups=1,
  epsilon=1.0,
  state_scale=0.25,
  solver='anderson',
  history=5,
  damping=1.0,
  max_steps=20,
  tol=1e-3,
  adjoint='implicit',
  adjoint_steps=20,
  adjoint_tol=1e-3,
  jacobian_probes=0,
  jacobian_share=1.0,
)

FUSIONS = {
  'average': {},
  'concat': dict(flatten=True),
  'energy_weighted': dict(
    temperature=1.0, scale=0.1, normalize='none', centered=False, detach=True
  ),
  'equilibrium': _EQUILIBRIUM,
  'equilibrium_released': dict(
    cell='residual',
    weighted=True,
    relu_last=False,
    groups=4,
    over_steps=False,
    layers=0,
    solver='anderson',
    max_steps=105,
    stop='abs',
    tol=1e-5,
    adjoint_steps=106,
    jacobian_probes=2,
  ),
  'evidential': {},
  'learned_confidence': dict(hidden=(), relative=False),
  'low_rank': dict(features=512, rank=128, train_factors=True),
  'masked_attention': dict(
    query='text',
    features=30,
    fusion=dict(name='equilibrium') | _EQUILIBRIUM,
    attention_dropout=0.3,
    dropout=0.1,
    released=False,
  ),
  'mm_dynamics': dict(
    features=1000, dropout=0.5, fusion=dict(name='concat', flatten=True)
  ),
  'multiplicative': dict(kind='matrix', features=0, context='', clip=None),
  'product_of_experts': dict(evaluate='product'),
  'tensor': {},
}


def _entry(kind, table, name, options):
  """The defaults of `name`, with `options` in their place."""
  if name not in table:
    raise ValueError(f'Unknown {kind} {name!r}; expected one of {sorted(table)}.')
  unknown = sorted(set(options) - set(table[name]))
  if unknown:
    raise ValueError(
      f'{kind} {name!r} has no option {unknown}; it has {sorted(table[name])}.'
    )
  return ConfigDict({'name': name} | table[name] | options)


def data(name, **options):
  """A dataset. `root` is its folder; '' means the stand-in (or the bundled data)."""
  table = {key: {'root': ''} | value for key, value in DATASETS.items()}
  return _entry('dataset', table, name, options)


def encoder(name, **options):
  """One modality to features; also the head of a model (`features` is then set)."""
  return _entry('encoder', ENCODERS, name, options)


def fusion(name, **options):
  """Several arrays to one."""
  return _entry('fusion', FUSIONS, name, options)


def unimodal(modality, encoder, head):
  """A model that reads one modality."""
  return ConfigDict(
    dict(name='unimodal', modality=modality, encoder=encoder, head=head)
  )


def early_fusion(modalities, encoder, head):
  """A model that joins the modalities at its input."""
  return ConfigDict(
    dict(name='early_fusion', modalities=modalities, encoder=encoder, head=head)
  )


def feature_fusion(encoders, fusion, head, absent_embedding=False):
  """A model that encodes each modality, fuses the features and classifies.

  With `absent_embedding`, a learned one stands for a modality that an example lacks;
  train it with `missing_rate`, or on data that lack some.
  """
  return ConfigDict(
    dict(
      name='feature_fusion',
      encoders=encoders,
      fusion=fusion,
      head=head,
      absent_embedding=absent_embedding,
    )
  )


def mmtm(encoders, head, transfer_after=(2, 3, 4), ratio=4):
  """A model of `resnet` encoders that scale each other's channels behind stages."""
  return ConfigDict(
    dict(
      name='mmtm',
      encoders=encoders,
      head=head,
      transfer_after=transfer_after,
      ratio=ratio,
    )
  )


def decision_fusion(fusion, experts=None):
  """Experts that vote; without `experts`, those of the stage (`config.experts`)."""
  return ConfigDict(dict(name='decision_fusion', fusion=fusion, experts=experts or {}))


def gated_mixture(paths, gate, gate_inputs, experts=None):
  """A gate over experts; without `experts`, those of the stage (`config.experts`)."""
  return ConfigDict(
    dict(
      name='gated_mixture',
      paths=paths,
      gate=gate,
      gate_inputs=gate_inputs,
      experts=experts or {},
    )
  )


def esanet(
  encoders,
  main='rgb',
  fusion='se_add',
  bins=(1, 5),
  trained_size=None,
  widths=(512, 256, 128),
  blocks=(3, 3, 3),
  upsampling='learned-3x3-zeropad',
  skips=True,
  activation='relu',
  remat=False,
):
  """A segmentation network over `resnet` encoders of one or two modalities.

  Where training takes too much memory, `remat=True` here recomputes the decoder and in
  the encoders their stages: less is kept for the gradient, and it takes longer.
  """
  return ConfigDict(
    dict(
      name='esanet',
      encoders=encoders,
      main=main,
      fusion=fusion,
      bins=bins,
      trained_size=trained_size,
      widths=widths,
      blocks=blocks,
      upsampling=upsampling,
      skips=skips,
      activation=activation,
      remat=remat,
    )
  )


def gated_stages(network, gate, policy='learned', freeze='none'):
  """A gate over the exits of a network of two streams, such as `esanet`.

  Args:
    network: a model of that kind.
    gate: reads the maps of both stems.
    policy: learned, random (any exit, to prepare the network for all of them), or the
      name of one: exit_0, exit_1, ..., last.
    freeze: none; eval, the network is fixed, in evaluation mode, and the gate alone is
      trained; compat, likewise, but BatchNorm's statistics go on (DynMM's --freeze).
  """
  return ConfigDict(
    dict(name='gated_stages', network=network, gate=gate, policy=policy, freeze=freeze)
  )


def locally_gated_stages(network, gate, policy='learned', freeze='none'):
  """A gate in front of each stage: the second stream ends there, or goes on.

  Args:
    network: as of `gated_stages`, and so are `policy` and `freeze`.
    gate: reads the maps of both streams; each stage has one of its own.
  """
  return ConfigDict(
    dict(
      name='locally_gated_stages',
      network=network,
      gate=gate,
      policy=policy,
      freeze=freeze,
    )
  )


def learned_gate(encoder, head):
  """A gate: encoder and head. Its behaviour in training is `config.gate`.

  The head decides for a path; with head `identity` the encoder does.
  """
  return ConfigDict(dict(name='learned', encoder=encoder, head=head))


def schedule(init_value, end_value=None, *, name='constant', epochs=0.0, warmup=0.0):
  """A value by training time.

  Args:
    init_value: after the warm-up.
    end_value: at the end; `init_value` if None.
    name: constant, linear, exponential, cosine, or staircase: constant until `epochs`
      are over, then end, then every `epochs` a step by the same factor. A learning rate
      may also be one_cycle: from a 25th of init up to it within a tenth of the epochs,
      and down to end, constant within each epoch.
    epochs: over which it goes from init to end; 0 means all epochs of the stage.
    warmup: epochs of linear warm-up from 0.
  """
  end_value = init_value if end_value is None else end_value
  return ConfigDict(
    dict(
      name=name,
      init_value=float(init_value),
      end_value=float(end_value),
      epochs=float(epochs),
      warmup=float(warmup),
    )
  )


def stage(model=None):
  """The keys of one stage of training."""
  config = ConfigDict()
  config.model = model if model is not None else ConfigDict()
  # Stages that are trained first and become the model's experts, by path name.
  config.experts = ConfigDict()
  # A stage that is trained first, by its name; this one starts with its variables.
  config.warm_up = ConfigDict()
  # Variables to start with: the folder of a run or of `jdyn.convert`, or '', for the
  # `model`, the `network` of gated_stages, or the encoder of a modality, by its name.
  config.pretrained = ConfigDict(dict(model=''))
  # Experts that were trained first: 'eval' keeps them fixed, in evaluation mode, and
  # computes their logits once; 'none' tunes them with the gate; 'compat' is the
  # original's --freeze: weights fixed, but dropout and BatchNorm statistics go on.
  config.freeze = 'eval'
  # Share of the training split that experts do not see; the gate is trained on it. 0:
  # experts and gate share the training split, as in the original.
  config.holdout = 0.0

  # Probability that training loses a modality of an example, for a step; one stays.
  config.missing_rate = 0.0

  config.gate = ConfigDict()
  # soft, straight_through, gumbel or gumbel_straight_through
  config.gate.mode = 'straight_through'
  config.gate.temperature = schedule(1.0)
  # Epochs of soft gating before a hard mode becomes hard.
  config.gate.soft_epochs = 0.0
  # At evaluation: 'hard' is what a deployed model runs; 'as_trained' keeps the mode.
  config.gate.evaluate = 'hard'

  # Weight of each term of the objective; 0 leaves the term out.
  config.loss = ConfigDict()
  config.loss.supervised = 1.0
  config.loss.per_expert = 0.0
  config.loss.budget = 0.0
  config.loss.balance = 0.0
  # Of each view of fusion mm_dynamics: mean of its feature gates.
  config.loss.informativeness = 0.0
  # Of each view of fusions mm_dynamics and learned_confidence: error of its
  # confidence, which is to be the probability that the view gives to the true class.
  config.loss.confidence = 0.0
  # 'squared' (MM-Dynamics) or 'absolute' (Predictive Dynamic Fusion).
  config.loss.confidence_error = 'squared'
  # 'detached' leaves the view's classifier out of that; 'compat', as the released
  # MM-Dynamics, not.
  config.loss.confidence_target = 'detached'
  # Order of the experts' confidences against the history of their losses (QMF).
  config.loss.rank = 0.0
  # 'paper'; 'repo', the released sign of the margin; or 'none'.
  config.loss.rank_margin = 'paper'
  # 'mean' of an example's losses so far, or their 'sum', as released.
  config.loss.rank_history = 'mean'
  # Whether the history has this batch's losses 'before' or 'after' they are ranked.
  config.loss.rank_update = 'before'
  # Dirichlet losses of fusion evidential and of its views (TMC), instead of supervised.
  config.loss.evidential = 0.0
  # Epochs over which their penalty on evidence for wrong classes comes in.
  config.loss.annealing_epochs = 10
  # Squared norm of the Jacobians of equilibrium fusions (their `jacobian_probes`).
  config.loss.jacobian = 0.0
  # Of a decoder's logits at an 8th, 16th and 32nd of the size (ESANet).
  config.loss.side_outputs = 0.0
  # Schedules by which weights are multiplied, by term: `schedule(0, 1, ...)`.
  config.loss.schedules = ConfigDict()
  # Factor on per_expert, informativeness and confidence by name of expert or view; 1
  # for those that are not named.
  config.loss.expert_weights = ConfigDict()
  # Unit of the budget term: 'macs' = MACs as a share of the dearest path's;
  # 'original' = share of traffic on the second path, whatever it costs; of
  # gated_stages, GMACs of the second stream over the number of exits.
  config.loss.budget_unit = 'macs'
  # What may be spent without a loss, in that unit, as the mean of a batch.
  config.loss.budget_free = 0.0

  config.optimizer = ConfigDict()
  config.optimizer.name = 'adamw'  # adamw, adam, sgd or rmsprop
  config.optimizer.learning_rate = schedule(1e-3)
  config.optimizer.weight_decay = 1e-2
  config.optimizer.momentum = 0.0  # Of sgd and rmsprop.
  # 'compat': from .95 to .85 and back while a one_cycle learning rate rises and falls,
  # as torch's OneCycleLR does unasked, whatever `momentum` says.
  config.optimizer.cycle_momentum = 'none'
  config.optimizer.nesterov = False  # Of sgd.
  config.optimizer.clip_norm = 8.0  # Of the global gradient norm; 0 switches it off.
  # Factor on the learning rate of experts that are tuned with a gate.
  config.optimizer.expert_scale = 1.0

  config.batch_size = 128
  config.epochs = 20
  # Stop after more than this many epochs without a better `select`; -1 never stops.
  config.patience = 7
  # Validation score that picks the best epoch: a score of the task, 'objective' (all
  # terms as weighted) or '' for the task's own.
  config.select = ''
  return config


def get_config():
  """The run: its main stage's keys, and what holds for all stages."""
  config = stage()
  config.data = data('digits')
  config.seed = 0
  # Seeds `seed ... seed + num_seeds - 1` are trained in one compiled program.
  config.num_seeds = 1
  # auto (jit on one device, shard_map on several), jit, pmap or shard_map
  config.parallel = 'auto'
  # auto, device (data lives on the accelerator) or host (streamed by Grain)
  config.feed = 'auto'
  config.device_bytes = 2**30  # What 'auto' may place on the device.
  config.host_threads = 2  # Grain's reading threads.
  config.dtype = 'float32'  # Compute type; bfloat16 keeps float32 parameters.
  config.steps_per_call = 100  # At most so many steps between looks at signals.
  # Steps written out in the compiled loop. XLA on CPU runs convolutions several times
  # slower inside a loop; with steps_per_call <= unroll there is none.
  config.unroll = 1
  # What becomes of a training step whose numbers are not finite: 'stop' ends the run
  # and names what is at fault; 'skip' leaves the step out; 'rollback' goes back to the
  # last checkpoint once, which mends what the machine did wrong.
  config.nonfinite = 'stop'
  config.checkpoint_seconds = 30.0  # Between checkpoints; 0 saves after every call.
  config.checkpoint_async = True  # Training goes on while a checkpoint is written.
  return config


def run(dataset, main):
  """A run whose main stage is `main`, on `dataset`."""
  config = get_config()
  config.update(main)
  config.data = dataset
  return config
