"""AV-MNIST is built right: images, spectrograms, pairs, speakers, and bad input."""

import gzip
import json
import os
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest
from matplotlib import mlab

from jdyn import prepare
from jdyn.data import mnist, pca, spectrogram, spoken_digits
from jdyn.data import prepare_avmnist as avmnist
from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.sources.avmnist import AVMNIST

SIZES = {'train': 60, 'test': 30}
SPEAKERS = ('ann', 'bob', 'cid')
RECIPE = avmnist.Recipe(test_speakers=('cid',))


def _idx(array):
  header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
  return header + array.tobytes()


def _wav(path, samples, rate=8000, channels=1, width=2):
  with wave.open(str(path), 'wb') as file:
    file.setnchannels(channels)
    file.setsampwidth(width)
    file.setframerate(rate)
    file.writeframes(np.asarray(samples).tobytes())


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  """A tiny MNIST (training set gzipped, test set not) and a tiny FSDD."""
  root = tmp_path_factory.mktemp('parts')
  rng = np.random.RandomState(0)
  mnist, fsdd = root / 'mnist', root / 'fsdd'
  mnist.mkdir()
  fsdd.mkdir()
  for part, name in (('train', 'train'), ('test', 't10k')):
    labels = rng.permutation(np.arange(SIZES[part]) % 10).astype(np.uint8)
    images = rng.randint(0, 256, (SIZES[part], 28, 28)).astype(np.uint8)
    for rest, array in (('images-idx3', images), ('labels-idx1', labels)):
      data, path = _idx(array), mnist / f'{name}-{rest}-ubyte'
      if part == 'train':
        path.with_name(f'{path.name}.gz').write_bytes(gzip.compress(data))
      else:
        path.write_bytes(data)
  for digit in range(10):
    for speaker in SPEAKERS:
      for index in (2, 10, 45):
        samples = rng.randint(-3000, 3000, rng.randint(300, 900)).astype('<i2')
        _wav(fsdd / f'{digit}_{speaker}_{index}.wav', samples)
  return mnist, fsdd


@pytest.fixture(scope='module')
def built(parts, tmp_path_factory):
  """The dataset built with `RECIPE`."""
  out = tmp_path_factory.mktemp('built') / 'avmnist'
  avmnist.prepare_avmnist(*parts, out, RECIPE)
  return out


def _manifest(folder):
  return json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))


class TestDataset:
  def test_layout(self, built):
    for part, size in SIZES.items():
      for name, dtype, shape in (
        (f'image/{part}_data.npy', np.float64, (size, 784)),
        (f'audio/{part}_data.npy', np.uint8, (size, 112, 112)),
        (f'{part}_labels.npy', np.uint8, (size,)),
      ):
        array = np.load(built / name)
        assert (array.dtype, array.shape) == (dtype, shape)
    assert len(list(built.rglob('*.*'))) == 7

  def test_the_source_reads_it(self, built):
    splits = AVMNIST().load(built)
    assert {part: len(split) for part, split in splits.items()} == {
      'train': 55,
      'valid': 5,
      'test': 30,
    }
    assert splits['test'].ids[0].startswith('test/00000-')

  @pytest.mark.parametrize('part', SIZES)
  def test_every_pair_agrees(self, parts, built, part):
    """Row by row: MNIST's label, the stored label, the wav's name, its spectrogram."""
    images, fsdd = parts
    _, labels = mnist.read_mnist(images, part)
    np.testing.assert_array_equal(np.load(built / f'{part}_labels.npy'), labels)
    audio = np.load(built / 'audio' / f'{part}_data.npy')
    for row, name in enumerate(_manifest(built)['ids'][part]):
      number, stem = name.split('-')
      assert int(number) == row
      assert int(stem.split('_')[0]) == labels[row]
      samples = spoken_digits.read_wav(fsdd / f'{stem}.wav')
      np.testing.assert_array_equal(audio[row], spectrogram.spectrogram(samples))

  @pytest.mark.parametrize('part', SIZES)
  @pytest.mark.parametrize('fit', ['train', 'separate'])
  def test_images_equal_the_svd(self, parts, tmp_path, part, fit):
    recipe = avmnist.Recipe(test_speakers=('cid',), pca_fit=fit)
    avmnist.prepare_avmnist(*parts, tmp_path / 'out', recipe)
    images = {p: mnist.read_mnist(parts[0], p)[0].astype(float) for p in SIZES}
    fitted = images['train' if fit == 'train' else part]
    _, _, v = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)
    expected = (images[part] - fitted.mean(0)) @ v[:4].T @ v[:4]
    image = np.load(tmp_path / 'out' / 'image' / f'{part}_data.npy')
    np.testing.assert_allclose(image, expected, atol=1e-8)

  def test_no_speaker_is_on_both_sides(self, built):
    speakers = {
      part: {name.split('_')[1] for name in ids}
      for part, ids in _manifest(built)['ids'].items()
    }
    assert speakers == {'train': {'ann', 'bob'}, 'test': {'cid'}}

  def test_recordings_are_dealt_out_evenly(self, built):
    for part, pool in (('train', 6), ('test', 3)):
      names = [name.split('-')[1] for name in _manifest(built)['ids'][part]]
      used, counts = np.unique(names, return_counts=True)
      assert len(used) == 10 * pool
      assert set(counts) == {SIZES[part] // (10 * pool)}

  def test_manifest(self, built):
    manifest = _manifest(built)
    assert manifest['recipe']['pca_components'] == 4
    assert set(manifest['files']) == {
      str(path.relative_to(built)) for path in built.rglob('*.npy')
    }
    for name, digest in manifest['files'].items():
      assert sha256_file(built / name) == digest
    assert 0 < manifest['variance_share']['train'] < 1

  def test_two_runs_are_equal_and_another_seed_is_not(self, parts, built, tmp_path):
    for name, seed in (('again', 0), ('other', 1)):
      recipe = avmnist.Recipe(test_speakers=('cid',), seed=seed)
      avmnist.prepare_avmnist(*parts, tmp_path / name, recipe)
    assert _manifest(tmp_path / 'again') == _manifest(built)
    files, others = _manifest(built)['files'], _manifest(tmp_path / 'other')['files']
    assert {name for name in files if files[name] != others[name]} == {
      'audio/train_data.npy',
      'audio/test_data.npy',
    }

  def test_limits_take_the_first_rows(self, parts, built, tmp_path):
    recipe = avmnist.Recipe(test_speakers=('cid',), limit_train=20, limit_test=7)
    avmnist.prepare_avmnist(*parts, tmp_path / 'out', recipe)
    for part, size in (('train', 20), ('test', 7)):
      for name in (f'audio/{part}_data.npy', f'{part}_labels.npy'):
        whole = np.load(built / name)
        np.testing.assert_array_equal(np.load(tmp_path / 'out' / name), whole[:size])
    images, _ = mnist.read_mnist(parts[0], 'train')
    share = pca.fit_pca(images[:20], 4).variance_share  # The fit sees these rows only.
    assert _manifest(tmp_path / 'out')['variance_share']['train'] == share

  def test_noise_is_seeded_and_changes_the_audio_only(self, parts, built, tmp_path):
    recipe = avmnist.Recipe(test_speakers=('cid',), noise_snr_db=0.0)
    for name in ('a', 'b'):
      avmnist.prepare_avmnist(*parts, tmp_path / name, recipe)
    files = _manifest(tmp_path / 'a')['files']
    assert files == _manifest(tmp_path / 'b')['files']
    clean = _manifest(built)['files']
    assert {name.split('/')[0] for name in files if files[name] != clean[name]} == {
      'audio'
    }

  def test_real_recordings(self, data_dir, tmp_path):
    recipe = avmnist.Recipe(limit_train=40, limit_test=20)
    images, fsdd = data_dir / 'mnist', data_dir / 'fsdd' / 'recordings'
    avmnist.prepare_avmnist(images, fsdd, tmp_path / 'out', recipe)
    test = AVMNIST().load(tmp_path / 'out')['test']
    assert {name.split('_')[1] for name in test.ids} <= {'george', 'lucas'}
    digits = [int(name.split('-')[1][0]) for name in test.ids]
    np.testing.assert_array_equal(test.label, digits)

  def test_existing_folder_is_kept(self, parts, tmp_path):
    (tmp_path / 'mine.txt').write_text('x', encoding='utf-8')
    with pytest.raises(DataError, match='exists'):
      avmnist.prepare_avmnist(*parts, tmp_path, RECIPE)
    assert os.listdir(tmp_path) == ['mine.txt']

  def test_failure_leaves_nothing(self, parts, tmp_path):
    def stop(what, _done, _total):
      if what == 'test audio':
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      avmnist.prepare_avmnist(*parts, tmp_path / 'out', RECIPE, stop)
    assert not os.listdir(tmp_path)


class TestSplit:
  def _recordings(self, parts):
    return spoken_digits.find_recordings(parts[1])

  def test_recordings_are_sorted_by_number(self, parts):
    names = [recording.path.stem for recording in self._recordings(parts)[:4]]
    assert names == ['0_ann_2', '0_ann_10', '0_ann_45', '0_bob_2']

  def test_by_index(self, parts):
    recipe = avmnist.Recipe(audio_split='index')
    pools = avmnist.split_recordings(self._recordings(parts), recipe)
    indices = {
      part: {recording.index for pool in digits.values() for recording in pool}
      for part, digits in pools.items()
    }
    assert indices == {'train': {2, 10}, 'test': {45}}

  def test_unknown_speaker(self, parts):
    recipe = avmnist.Recipe(test_speakers=('cid', 'zoe'))
    with pytest.raises(DataError, match='by zoe; there are ann, bob, cid'):
      avmnist.split_recordings(self._recordings(parts), recipe)

  @pytest.mark.parametrize(
    ('missing', 'message'),
    [('7_cid', 'digit 7 for test'), ('3_[ab]', 'digit 3 for train')],
  )
  def test_digit_without_recording_on_one_side(self, parts, missing, message):
    gone = set(parts[1].glob(f'{missing}*'))
    assert gone
    kept = [item for item in self._recordings(parts) if item.path not in gone]
    with pytest.raises(DataError, match=message):
      avmnist.split_recordings(kept, RECIPE)

  def test_pairs_are_checked_against_the_file_names(self, parts):
    recordings = self._recordings(parts)
    with pytest.raises(DataError, match='paired with row 1, which is a 4'):
      avmnist.pair(np.array([0, 4]), {0: recordings[:1], 4: recordings[:1]})

  @pytest.mark.parametrize('name', ['0_ann.wav', 'x_ann_1.wav', '0_ann_1b.wav'])
  def test_other_file_names(self, tmp_path, name):
    _wav(tmp_path / name, np.zeros(300, '<i2'))
    with pytest.raises(DataError, match=name):
      spoken_digits.find_recordings(tmp_path)

  def test_no_recordings(self, tmp_path):
    with pytest.raises(DataError, match='no wav files'):
      spoken_digits.find_recordings(tmp_path)

  @pytest.mark.parametrize(
    'options',
    [
      {'pca_fit': 'test'},
      {'audio_split': 'none'},
      {'pca_components': 785},
      {'limit_test': 0},
    ],
  )
  def test_options_without_meaning(self, options):
    (name,) = options
    with pytest.raises(ValueError, match=f'{name}='):
      avmnist.Recipe(**options)


class TestIdx:
  IMAGES = _idx(np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28))

  def test_read(self, tmp_path):
    (tmp_path / 'a').write_bytes(self.IMAGES)
    (tmp_path / 'a.gz').write_bytes(gzip.compress(self.IMAGES))
    expected = np.arange(2 * 784).reshape(2, 28, 28) % 256
    for name in ('a', 'a.gz'):
      np.testing.assert_array_equal(mnist.read_idx(tmp_path / name), expected)

  @pytest.mark.parametrize(
    ('data', 'message'),
    [
      (b'', 'truncated'),
      (IMAGES[:3], 'truncated'),
      (IMAGES[:10], 'truncated'),
      (IMAGES[:-1], 'promises 1568 bytes, there are 1567'),
      (IMAGES + b'x', 'promises 1568 bytes, there are more'),
      (b'\x00\x00\x0d' + IMAGES[3:], 'not an idx file'),
      (b'\x01' + IMAGES[1:], 'not an idx file'),
      (b'\x00\x00\x08\x03' + b'\xff' * 12, 'more than a file of this size'),
    ],
  )
  def test_damaged(self, tmp_path, data, message):
    for name, content in (('a', data), ('a.gz', gzip.compress(data))):
      (tmp_path / name).write_bytes(content)
      with pytest.raises(DataError, match=rf'{tmp_path / name}: .*{message}'):
        mnist.read_idx(tmp_path / name)

  def test_damaged_gzip(self, tmp_path):
    path, packed = tmp_path / 'a.gz', gzip.compress(self.IMAGES)
    flipped = bytes([*packed[:40], packed[40] ^ 255, *packed[41:]])
    for data in (packed[:-20], flipped, self.IMAGES):
      path.write_bytes(data)
      with pytest.raises(DataError, match='truncated or damaged'):
        mnist.read_idx(path)

  @pytest.mark.parametrize(
    ('images', 'labels', 'message'),
    [
      (np.zeros((3, 28, 28)), np.zeros(2), 'labels'),
      (np.zeros((3, 28, 27)), np.zeros(3), 'expected'),
      (np.zeros((3, 28, 28)), np.array([1, 10, 2]), 'not digits'),
      (np.zeros((0, 28, 28)), np.zeros(0), 'more than a file of this size'),
    ],
  )
  def test_files_that_do_not_fit(self, tmp_path, images, labels, message):
    for rest, array in (('images-idx3', images), ('labels-idx1', labels)):
      path = tmp_path / f'train-{rest}-ubyte'
      path.write_bytes(_idx(array.astype(np.uint8)))
    with pytest.raises(DataError, match=message):
      mnist.read_mnist(tmp_path, 'train')

  def test_absent(self, tmp_path):
    with pytest.raises(DataError, match=r't10k-images-idx3-ubyte\[\.gz\]: absent'):
      mnist.read_mnist(tmp_path, 'test')


class TestAudio:
  @pytest.mark.parametrize(
    'form', [{'rate': 16000}, {'channels': 2}, {'width': 1}], ids=str
  )
  def test_other_wav_forms(self, tmp_path, form):
    _wav(tmp_path / 'a.wav', np.zeros(400, '<i2'), **form)
    with pytest.raises(DataError, match=r'a\.wav: .*expected 8000 Hz, 1 channel'):
      spoken_digits.read_wav(tmp_path / 'a.wav')

  @pytest.mark.parametrize('keep', [0, 10, 30, 700])
  def test_truncated_wav(self, tmp_path, keep):
    path = tmp_path / 'a.wav'
    _wav(path, np.zeros(400, '<i2'))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r'a\.wav'):
      spoken_digits.read_wav(path)

  def test_window_gives_112_frames_and_is_the_shortest(self):
    for length in [*range(113, 3000), 5000, 12_000, 18_262, 24_900]:
      size, hop = spectrogram.window(length)
      assert 1 <= hop <= size <= 223
      assert (length - size) // hop + 1 == 112
    for length in (1149, 3360, 18_262):
      size, _ = spectrogram.window(length)
      for shorter in range(-(-length // 112) - 1, size):
        frames = {(length - shorter) // hop + 1 for hop in range(1, shorter + 1)}
        assert 112 not in frames

  @pytest.mark.parametrize('length', [0, 1, 111, 25_500, 10**6])
  def test_clip_of_impossible_length(self, length):
    with pytest.raises(DataError, match=f'A clip of {length} samples'):
      spectrogram.window(length)

  @pytest.mark.parametrize('length', [400, 3360, 9001])
  def test_spectrogram_equals_matplotlib(self, length):
    samples = np.random.RandomState(length).randint(-9000, 9000, length)
    size, hop = spectrogram.window(length)
    power, _, _ = mlab.specgram(
      samples, NFFT=size, Fs=8000, noverlap=size - hop, pad_to=223, mode='psd'
    )
    assert power.shape == (112, 112)
    if size % 2 == 0:  # Matplotlib takes the last row for the Nyquist frequency then,
      power[-1] *= 2  # which it is not: the transform, of 223 points, has none.
    level = 10 * np.log10(power[::-1])
    grey = 255 * (1 - (level - level.min()) / (level.max() - level.min()))
    ours = spectrogram.spectrogram(samples.astype(np.int16))
    assert np.abs(ours - grey).max() < 0.501  # Rounding to whole grey levels.

  def test_low_tone_is_dark_at_the_bottom_when_it_sounds(self):
    time = np.arange(3360)
    tone = 8000 * np.sin(2 * np.pi * 500 / 8000 * time) * (time < 1680)
    picture = spectrogram.spectrogram((tone + (time % 3)).astype(np.int16))
    row, column = np.unravel_index(picture.argmin(), picture.shape)
    assert abs(row - (111 - 500 / 4000 * 111.5)) < 2  # Short windows smear it.
    assert column < 56
    assert picture.min() == 0
    assert picture.max() == 255

  def test_digital_silence_inside_a_clip(self):
    samples = np.zeros(3360, np.int16)
    samples[1000:2000] = np.random.RandomState(0).randint(-9000, 9000, 1000)
    picture = spectrogram.spectrogram(samples)
    assert (picture[:, :20] == 255).all()
    assert picture.min() == 0
    assert picture[:, 40:60].max() > 60  # Silence does not use up the grey levels.

  def test_silent_clip(self, parts, tmp_path):
    with pytest.raises(DataError, match='silent'):
      spectrogram.spectrogram(np.zeros(3360, np.int16))

  def test_error_in_a_recording_names_it(self, parts, tmp_path):
    images, _ = parts
    for digit in range(10):
      for speaker in SPEAKERS:
        _wav(tmp_path / f'{digit}_{speaker}_0.wav', np.zeros(400, '<i2'))
    with pytest.raises(DataError, match=r'\d_ann_0\.wav: A silent clip'):
      avmnist.prepare_avmnist(images, tmp_path, tmp_path / 'out', RECIPE)

  def test_pink_noise_falls_by_ten_decibels_per_decade(self):
    noise = spectrogram.pink_noise(2**16, np.random.RandomState(0))
    assert np.mean(noise**2) == pytest.approx(1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[100:200].mean(), power[10_000:20_000].mean()
    assert 10 * np.log10(low / high) == pytest.approx(20, abs=1)

  @pytest.mark.parametrize('snr', [-5.0, 0.0, 20.0])
  def test_noise_has_the_ratio_asked_for(self, snr):
    samples = np.random.RandomState(1).randint(-9000, 9000, 3001).astype(np.int16)
    noisy = spectrogram.add_noise(samples, snr, seed=0, name='a.wav')
    noise = noisy - samples
    ratio = np.mean(samples.astype(float) ** 2) / np.mean(noise**2)
    assert 10 * np.log10(ratio) == pytest.approx(snr)
    again = spectrogram.add_noise(samples, snr, seed=0, name='a.wav')
    np.testing.assert_array_equal(noisy, again)
    for other in ({'seed': 1, 'name': 'a.wav'}, {'seed': 0, 'name': 'b.wav'}):
      assert not np.allclose(noisy, spectrogram.add_noise(samples, snr, **other))


class TestCommand:
  def test_builds(self, parts, built, tmp_path, capsys):
    images, fsdd = parts
    out = tmp_path / 'out'
    flags = ['--mnist', str(images), '--fsdd', str(fsdd), '--out', str(out)]
    prepare.main(['avmnist', *flags, '--test-speakers', 'cid'])
    assert _manifest(out)['files'] == _manifest(built)['files']
    assert 'test recordings 30/30' in capsys.readouterr().err

  def test_every_flag_reaches_the_recipe(self, parts, tmp_path):
    images, fsdd = parts
    out = tmp_path / 'out'
    prepare.main(
      f'avmnist --mnist {images} --fsdd {fsdd} --out {out} --pca-components 2 '
      '--pca-fit separate --audio-split index --test-speakers ann,bob '
      '--noise-snr-db 3.5 --seed 4 --limit-train 12 --limit-test 11'.split()
    )
    assert _manifest(out)['recipe'] == {
      'pca_components': 2,
      'pca_fit': 'separate',
      'audio_split': 'index',
      'test_speakers': ['ann', 'bob'],
      'noise_snr_db': 3.5,
      'seed': 4,
      'limit_train': 12,
      'limit_test': 11,
    }

  def test_bad_input_is_one_line_and_status_one(self, parts, tmp_path, capsys):
    images, _ = parts
    flags = [
      '--mnist',
      str(images),
      '--fsdd',
      str(tmp_path),
      '--out',
      str(tmp_path / 'o'),
    ]
    with pytest.raises(SystemExit) as stop:
      prepare.main(['avmnist', *flags])
    assert stop.value.code == 1
    assert capsys.readouterr().err.strip().startswith(f'error: {tmp_path}: no wav')

  def test_help_imports_nothing_heavy(self):
    code = (
      'import sys; from jdyn import prepare\n'
      'try: prepare.main(["avmnist", "--help"])\n'
      'except SystemExit: print("numpy" in sys.modules, "jax" in sys.modules)'
    )
    run = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert run.stdout.endswith('False False\n')
    assert 'pink noise' in run.stdout
