"""Folders that two runs want, that vanish or cannot be written, and clocks that jump.

Every run is that of `kills`, in a process of its own. A second one in the folder of a
first must be refused, with one line and exit status 1, however close they start; the
first must end bit by bit as if nothing had been. So must one whose owner was killed, or
whose clock jumps by days; one whose folder vanishes must say so and end, and go on
where it was when the folder is back. Read-only disks and disks that go away are
`tmpfs`, which only root may mount: without, these are skipped, and the table says so.
"""

import contextlib
import io
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.faults import kills
from tests.faults.kills import Process, Runner, Setting
from tests.faults.table import Row

SETTING = Setting()
DAY = 86400.0
_TAKEN = 'Another process is running'
_FILE_GONE = '.*could not be saved: .*(No such file|NOT_FOUND)'


class Folders:
  """What the scenarios share: a runner, a finished run, and a place to work.

  Attributes:
    folder: for workdirs.
    runner: of all runs.
    chance: draws the moments.
    undisturbed: a finished run.
  """

  def __init__(
    self,
    folder: Path,
    seed: int,
    runner: Runner | None = None,
    undisturbed: Path | None = None,
  ):
    """Trains the undisturbed run, if it is not given with its runner."""
    self.folder, self.runner = folder, runner or Runner(folder)
    self.chance = random.Random(seed)
    self.undisturbed = undisturbed or folder / 'undisturbed'
    if undisturbed is None:
      self.runner.finish(self.undisturbed, SETTING)
    self._lines = kills.count_lines(self.undisturbed)
    self._count = 0

  def workdir(self) -> Path:
    """A new folder."""
    self._count += 1
    return self.folder / f'run_{self._count}'

  def start(self, workdir: Path) -> Process:
    """Starts a run."""
    return self.runner.start(workdir, SETTING)

  def later(self, workdir: Path) -> Process:
    """A run that has come to some line of its metrics."""
    process = self.start(workdir)
    lines = self.chance.randrange(1, self._lines - 4)
    process.wait_for(lambda: kills.count_lines(workdir) >= lines)
    return process

  def equal(self, workdir: Path) -> str:
    """How a finished run differs from the undisturbed one; empty if it does not."""
    return ', '.join(kills.differences(workdir, self.undisturbed))


def refused(process: Process, why: str) -> str:
  """What is wrong with how a process was refused; empty if nothing is."""
  status, log = process.end()
  return one_line(status, log, why)


def one_line(status: int, log: str, why: str) -> str:
  """What is wrong with an exit that should say one thing in a line."""
  errors = re.findall('^error: .*$', log, re.MULTILINE)
  if status != 1 or len(errors) != 1 or not re.search(why, errors[0]):
    return f'status {status}: {log[-600:]}'
  return 'a traceback' if 'Traceback' in log else ''


def second(folders: Folders, workdir: Path) -> Process:
  """Another start in the folder of a run, that logs elsewhere."""
  runner = Runner(folders.folder / 'second')
  runner.folder.mkdir(exist_ok=True)
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  with _environment('JAX_COMPILATION_CACHE_DIR', cache or str(folders.runner.cache)):
    return runner.start(workdir, SETTING)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
  before = os.environ.get(name)
  os.environ[name] = value
  yield
  if before is None:
    del os.environ[name]
  else:
    os.environ[name] = before


def two_at_once(folders: Folders) -> str:
  """Two starts within a tenth of a second."""
  workdir = folders.workdir()
  one = folders.start(workdir)
  time.sleep(folders.chance.choice((0, folders.chance.uniform(0, 0.1))))
  two = second(folders, workdir)
  ends = sorted((process.end() for process in (one, two)), key=lambda end: end[0])
  (status, log), (other, said) = ends
  if status != 0:
    return f'nobody trains: {log[-300:]} {said[-300:]}'
  return one_line(other, said, _TAKEN) or folders.equal(workdir)


def while_one_runs(folders: Folders) -> str:
  """A start in the folder of a run, at any moment."""
  workdir = folders.workdir()
  one = folders.later(workdir)
  problem = refused(second(folders, workdir), _TAKEN)
  status, log = one.end()
  if status:
    return log[-300:]
  return problem or folders.equal(workdir)


def after_a_kill(folders: Folders) -> str:
  """`kill -9` of the owner, and a start at once."""
  workdir = folders.workdir()
  one = folders.later(workdir)
  one.send(signal.SIGKILL)
  one.end()
  folders.runner.finish(workdir, SETTING)
  return folders.equal(workdir)


def lock_of_a_parent(folders: Folders) -> str:
  """A killed owner whose children live on, forked and started alike."""
  workdir = folders.workdir()
  ready, ours = multiprocessing.get_context('spawn').Pipe()
  owner = multiprocessing.get_context('spawn').Process(
    target=_own, args=(workdir, ours)
  )
  owner.start()
  children = ready.recv()
  try:
    from jdyn.training.workdir import Lock, WorkdirError

    try:
      Lock(workdir).release()
    except WorkdirError:
      pass
    else:
      return 'the lock did not hold'
    owner.kill()
    owner.join()
    alive = [pid for pid in children if Path(f'/proc/{pid}').exists()]
    if len(alive) != len(children):
      return 'the children are gone, so nothing was tried'
    Lock(workdir).release()
  except WorkdirError as error:
    return f'a child keeps the lock: {error}'
  finally:
    for pid in children:
      os.kill(pid, signal.SIGKILL)
  return ''


def _own(workdir: Path, pipe) -> None:
  """Takes the lock, and has children by fork and by start; in a process of its own."""
  from jdyn.training.workdir import Lock

  lock = Lock(workdir)
  forked = os.fork()
  if not forked:
    time.sleep(600)
    os._exit(0)
  started = subprocess.Popen(['sleep', '600'])
  pipe.send([forked, started.pid])
  time.sleep(600)
  lock.release()


def commands_beside(folders: Folders) -> str:
  """evaluate, report and sweep in the folder of a run that trains."""
  workdir = folders.workdir()
  one = folders.later(workdir)
  problem = ''
  for name, *arguments in (
    ('evaluate', '--workdir', workdir, '--stage', folders.chance.choice(kills.STAGES)),
    ('report', '--workdir', workdir),
    *([('sweep', workdir)] if folders.chance.random() < 0.5 else []),
  ):
    status, said = command(name, *map(str, arguments))
    if status and (
      said.count('\nerror: ') + said.startswith('error: ') != 1 or 'Traceback' in said
    ):
      problem = problem or f'{name}: {said[-400:]}'
    if name == 'sweep' and not status:
      problem = problem or 'sweep was let in'
  status, log = one.end()
  return problem or log[-300:] * bool(status) or folders.equal(workdir)


def command(name: str, *arguments: str) -> tuple[int, str]:
  """Exit status of a command of jdyn, run here, and what it said on stderr."""
  from jdyn import evaluate, report

  said = io.StringIO()
  with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
    try:
      if name == 'sweep':
        _sweep(Path(arguments[0]))
      else:
        {'evaluate': evaluate, 'report': report}[name].main(arguments)
    except SystemExit as end:
      code = end.code
      if isinstance(code, str):
        print(code, file=sys.stderr)
      return int(bool(code)), said.getvalue()
  return 0, said.getvalue()


def _sweep(workdir: Path) -> None:
  """As `python -m jdyn.sweep` does with a folder."""
  from jdyn.training import cli
  from jdyn.training.sweep import sweep
  from tests.faults import kills_config

  axes = {'loss.budget': [0.0, 0.1]}
  cli.finish(lambda: sweep(kills_config.get_config(), axes, workdir))


def read_only(folders: Folders) -> str:
  """A disk that can be read and not written, empty or with a run on it."""
  with disk_of(folders) as disk:
    workdir = disk / 'run'
    if folders.chance.random() < 0.5:
      shutil.copytree(folders.undisturbed, workdir)
    mount('-o', 'remount,ro', str(disk))
    return refused(folders.start(workdir), 'Read-only file system')


def removed(folders: Folders) -> str:
  """The folder is removed in mid-run, or another one is put in its place."""
  workdir = folders.workdir()
  process = folders.later(workdir)
  if folders.chance.random() < 0.5:
    while workdir.exists():
      shutil.rmtree(workdir, ignore_errors=True)
    # While files go one by one, a save may miss its own before the folder is gone.
    return _vanished(process, workdir, _FILE_GONE)
  workdir.rename(folders.folder / f'{workdir.name}_gone')
  workdir.mkdir()
  (workdir / 'notes.txt').write_text('of somebody else')
  return _vanished(process, workdir)


def moved_and_back(folders: Folders) -> str:
  """The folder is moved in mid-run, and is back for the next start."""
  workdir = folders.workdir()
  process = folders.later(workdir)
  away = folders.folder / f'{workdir.name}_away'
  workdir.rename(away)
  problem = _vanished(process, workdir)
  shutil.rmtree(workdir, ignore_errors=True)
  away.rename(workdir)
  folders.runner.finish(workdir, SETTING)
  return problem or folders.equal(workdir)


def unmounted(folders: Folders) -> str:
  """The disk goes away in mid-run."""
  with disk_of(folders) as disk:
    workdir = disk / 'run'
    process = folders.later(workdir)
    mount('-l', str(disk), program='umount')
    return _vanished(process, workdir)


def _vanished(process: Process, workdir: Path, otherwise: str = '(?!)') -> str:
  gone = f' was removed or replaced|{otherwise}'
  return refused(process, f'^error: {re.escape(str(workdir))}({gone})')


def clock_jumps(folders: Folders) -> str:
  """The clock jumps by days while a run trains, forwards and backwards.

  Orbax measures by that clock how long a save takes. One that seems to take days fails:
  it must say so, and the same command go on.
  """
  workdir = folders.workdir()
  jumps = [folders.chance.uniform(-400, 400) * DAY for _ in range(3)]
  process = start_with_clock(folders, workdir, jumps)
  status, log = process.end()
  if status:
    if problem := one_line(status, log, 'could not be saved: TimeoutError'):
      return problem
    folders.runner.finish(workdir, SETTING)
  return folders.equal(workdir)


def files_of_tomorrow(folders: Folders) -> str:
  """A run goes on from files that were written in the future, or long ago."""
  workdir = folders.workdir()
  process = folders.later(workdir)
  process.send(signal.SIGKILL)
  process.end()
  for path in workdir.rglob('*'):
    when = time.time() + folders.chance.uniform(-4000, 4000) * DAY
    os.utime(path, (when, when))
  folders.runner.finish(workdir, SETTING)
  return folders.equal(workdir)


def start_with_clock(
  folders: Folders, workdir: Path, jumps: Sequence[float]
) -> Process:
  """A run whose `time.time` jumps by so many seconds, again and again."""
  from tests.faults import kills_config

  runner = folders.runner
  config = kills_config.get_config()
  config.parallel, config.feed = SETTING.parallel, SETTING.feed
  config.checkpoint_async = SETTING.background
  log = runner.folder / f'{workdir.name}.log'
  arguments = (config.to_dict(), workdir, runner.cache, SETTING.devices, log, None)
  child = kills._forkserver().Process(target=_jumping, args=(jumps, arguments))
  child.start()
  return Process(child, workdir, log)


def _jumping(jumps: Sequence[float], arguments: tuple) -> None:
  """In the child: after some looks at the clock comes another jump."""
  true, looks = time.time, [0]

  def now():
    looks[0] += 1
    return true() + jumps[looks[0] // 97 % len(jumps)]

  time.time = now
  kills._train(*arguments)


def mount(*arguments: str, program: str = 'mount') -> None:
  subprocess.run([program, *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def disk_of(folders: Folders) -> Iterator[Path]:
  """A disk of 64 MiB."""
  disk = folders.folder / f'{folders.workdir().name}_disk'
  disk.mkdir()
  mount('-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', str(disk))
  try:
    yield disk
  finally:
    subprocess.run(['umount', '-l', str(disk)], capture_output=True)


def can_mount() -> bool:
  """Whether disks can be made here."""
  with tempfile.TemporaryDirectory() as folder:
    try:
      mount('-t', 'tmpfs', 'tmpfs', folder)
    except (OSError, subprocess.CalledProcessError):
      return False
    mount(folder, program='umount')
    return True


SCENARIOS: dict[Callable[[Folders], str], bool] = {
  two_at_once: False,
  while_one_runs: False,
  after_a_kill: False,
  lock_of_a_parent: False,
  commands_beside: False,
  read_only: True,
  removed: False,
  moved_and_back: False,
  unmounted: True,
  clock_jumps: False,
  files_of_tomorrow: False,
}
"""What may befall a folder, and whether it needs a disk of its own."""


def add_arguments(parser) -> None:
  """Of the long run."""
  parser.add_argument(
    '--folder-trials', type=int, default=5, help='of each thing that befalls a folder'
  )


def run(options) -> Iterator[Row]:
  """One row per scenario."""
  with tempfile.TemporaryDirectory(prefix='jdyn-') as folder:
    folders = Folders(Path(folder), options.seed)
    mountable = can_mount()
    for scenario, needs_disk in SCENARIOS.items():
      what = scenario.__doc__.splitlines()[0]
      if needs_disk and not mountable:
        yield Row('folders', what, 0, 0, 0, 'skipped: only root may mount a disk')
        continue
      lost = []
      for trial in range(options.folder_trials):
        print(f'folders: {what} {trial + 1}', file=sys.stderr, flush=True)
        if problem := scenario(folders):
          print(f'folders: lost: {problem}', file=sys.stderr, flush=True)
          lost.append(problem)
      tried = options.folder_trials
      note = lost[0][:120].replace('\n', ' ') if lost else ''
      yield Row('folders', what, tried, tried - len(lost), len(lost), note)
