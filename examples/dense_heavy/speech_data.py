"""Spoken digits: the Free Spoken Digit Dataset, recorded by six people at 8,000 samples per second.

    python examples/dense_heavy/speech_data.py DATA FILE

writes the sample that comes with this repository from the recordings in the folder DATA. Source and licence: ../data/README.md.
"""

import re
import sys
import wave
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_butterfly.utils.npz import read_npz

RATE = 8000  # samples per second
PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
ARCHIVE = "free-spoken-digit-dataset"
SAMPLE = Path(__file__).parent.parent / "data" / "fsdd_sample.npz"
# The recordings of each digit and person that the sample holds.
SAMPLE_INDICES = range(5)
FEWEST = 600  # recordings in a folder: ten digits of six people, ten times
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
HOW = f"Get the recordings by: git clone {PAGE}"
ARRAYS = {"audio", "offsets", "label", "speaker", "index"}


class Recordings(NamedTuple):
    """`clips` are int16 arrays of samples. `digit`, `speaker` (from 0) and `index` have one entry for each clip."""

    clips: list[np.ndarray]
    digit: np.ndarray
    speaker: np.ndarray
    index: np.ndarray


def load(folder: Path | str | None = None) -> Recordings:
    """Return the recordings of spoken digits.

    Args:
        folder: a folder that holds the .wav files, such as a clone of the data set, or fsdd/fsdd_0-19.npz. "sample": 300
            recordings from this repository. None: all 3,000 recordings, downloaded once (16 MB) and kept by Keras.

    Raises:
        ValueError: if the folder does not exist, lacks recordings, holds damaged files or other data, or the download fails.
    """
    if folder == "sample":
        return read_arrays(SAMPLE)
    if folder is None:
        return read_waves(_downloaded())
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"Expected a folder of spoken digits. There is no folder {folder}. {HOW}")
    packed = folder / "fsdd" / "fsdd_0-19.npz"
    return read_arrays(packed) if packed.exists() else read_waves(folder)


def read_arrays(path: Path) -> Recordings:
    """Return the recordings in an .npz file: the clips end to end, their offsets, digits, speakers and indices.

    Raises:
        ValueError: if the file is damaged or holds other data.
    """
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise ValueError(f"Expected spoken digits in {path}. It cannot be read: {error}. {HOW}") from error
    if missing := ARRAYS - set(arrays):
        raise ValueError(f"Expected spoken digits in {path}. It lacks the arrays {sorted(missing)}. {HOW}")
    audio, offsets = arrays["audio"], arrays["offsets"]
    labels = [arrays[name].astype(int) for name in ("label", "speaker", "index")]
    if offsets[-1] != len(audio) or any(len(label) != len(offsets) - 1 for label in labels):
        raise ValueError(f"Expected whole recordings in {path}. Their offsets and labels do not fit the samples. {HOW}")
    return Recordings(np.split(audio, offsets[1:-1]), *labels)


def read_waves(folder: Path) -> Recordings:
    """Return the recordings in the files DIGIT_SPEAKER_INDEX.wav of a folder or of its folder "recordings".

    Raises:
        ValueError: if there are too few, or if a file is damaged or is no mono sound of 16 bits at 8,000 samples per second.
    """
    inner = folder / "recordings"
    paths = (inner if inner.is_dir() else folder).glob("*.wav")
    found = [(match, path) for path in paths if (match := NAME.fullmatch(path.name))]
    if len(found) < FEWEST:
        raise ValueError(
            f"Expected at least {FEWEST} files DIGIT_SPEAKER_INDEX.wav, or fsdd/fsdd_0-19.npz, in {folder}. "
            f"Found {len(found)}. {HOW}"
        )
    found.sort(key=lambda pair: (int(pair[0][1]), pair[0][2], int(pair[0][3])))
    names = sorted({match[2] for match, _ in found})
    digit, speaker, index = ([] for _ in range(3))
    for match, _ in found:
        digit.append(int(match[1]))
        speaker.append(names.index(match[2]))
        index.append(int(match[3]))
    return Recordings([read_wave(path) for _, path in found], np.array(digit), np.array(speaker), np.array(index))


def read_wave(path: Path) -> np.ndarray:
    """Return the samples of a .wav file, int16. Raise ValueError if it is damaged or of another format."""
    try:
        with wave.open(str(path)) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            expected, content = 2 * file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise ValueError(f"Expected a sound in {path}. It cannot be read: {error or 'it ends too early'}. {HOW}") from error
    if form != (1, 2, RATE):
        raise ValueError(f"Expected one channel of 16 bits at {RATE} samples per second in {path}. Received: {form}. {HOW}")
    if not content or len(content) < expected:
        raise ValueError(f"Expected {expected:,} bytes of sound in {path}. It holds {len(content):,}. {HOW}")
    return np.frombuffer(content, "<i2")


def _downloaded() -> Path:
    """Return the folder of the data set, downloaded unless Keras has it."""
    try:
        path = keras.utils.get_file(f"{ARCHIVE}.zip", f"{PAGE}/archive/refs/heads/master.zip", extract=True)
    except Exception as error:  # Keras raises a plain Exception when a download fails
        raise ValueError(f"Expected to download the spoken digits. Received the error: {error}. {HOW}") from error
    return next(Path(path).glob(f"**/{ARCHIVE}-*/recordings")).parent


def waveforms(clips: list[np.ndarray], length: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return the clips as waveforms of one length and of a root mean square of 1: float32 (clips, length).

    A short clip is surrounded by zeros, and of a long one a part is taken.

    Args:
        clips: arrays of samples.
        length: number of samples of each waveform.
        rng: None: the clips stand in the middle. A random generator, for training: each clip is played faster or slower by up
            to a fifth, which changes its pitch too, and stands anywhere.
    """
    waves = np.zeros((len(clips), length), np.float32)
    for row, clip in zip(waves, clips, strict=True):
        if rng is not None:
            speed = np.exp(rng.uniform(-0.2, 0.2))
            clip = np.interp(np.arange(0, len(clip) - 1, speed), np.arange(len(clip)), clip)
        room = length - len(clip)
        place = abs(room) // 2 if rng is None else rng.integers(abs(room) + 1)
        scaled = clip / np.sqrt(np.mean(np.square(clip, dtype=float)))
        if room >= 0:
            row[place : place + len(clip)] = scaled
        else:
            row[:] = scaled[place : place + length]
    return waves


def write_sample(source: Path, target: Path) -> None:
    """Write some recordings of each digit and person to one file, packed by LZMA, which np.load reads."""
    recordings = load(source)
    chosen = np.flatnonzero(np.isin(recordings.index, SAMPLE_INDICES))
    clips = [recordings.clips[position] for position in chosen]
    labels = {"label": recordings.digit, "speaker": recordings.speaker, "index": recordings.index}
    arrays = {name: values[chosen].astype(np.uint8) for name, values in labels.items()}
    arrays |= {"audio": np.concatenate(clips), "offsets": np.cumsum([0, *map(len, clips)], dtype=np.int32)}
    with zipfile.ZipFile(target, "x", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, array)


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]), Path(sys.argv[2]))
