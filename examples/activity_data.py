"""Accelerometer and gyroscope of a smartphone on people's waists, and what they were doing: data for activity.ipynb.

    python examples/activity_data.py FILE

downloads the whole data set and writes the sample of it that comes with this repository. Source and licence: data/README.md.
"""

import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
RATE = 50  # samples per second
URL = (
    "https://archive.ics.uci.edu/static/public/341/"
    "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip"
)
SHA256 = "4ac4ae064227c07045a99551876b54d204837e995e298b6488559e209b3deb09"
SAMPLE = Path(__file__).parent / "data" / "hapt_sample.npz"
SAMPLE_PEOPLE = range(1, 10)
# What one step of the sensors is: three axes in g, three in radians per second.
UNITS = np.array([1 / 720] * 3 + [np.deg2rad(0.0175)] * 3, np.float32)


class Stretch(NamedTuple):
    """One person doing one thing: samples by six channels, in g and radians per second."""

    person: int
    activity: int
    signal: np.ndarray


def load(source: str = "sample", length: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows that overlap by half: (windows, length, 6) float32, the activity of each, 0 to 5, and the person, from 1.

    Args:
        source: "sample": nine people, from this repository. "uci": all thirty, downloaded once (about 80 MB) and kept by Keras.
        length: samples in a window.
    """
    if source not in ("sample", "uci"):
        raise ValueError(f'Expected "sample" or "uci". Received: source={source!r}')
    return windows(_sample() if source == "sample" else _downloaded(), length)


def windows(stretches: list[Stretch], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return windows of `length` samples that overlap by half, with the activity and the person of each."""
    found = [
        (stretch.signal[start : start + length], stretch.activity, stretch.person)
        for stretch in stretches
        for start in range(0, len(stretch.signal) - length + 1, length // 2)
    ]
    x, activity, person = zip(*found, strict=True)
    return np.stack(x), np.array(activity), np.array(person)


def _sample() -> list[Stretch]:
    with np.load(SAMPLE) as file:
        signals, people, activities = file["signals"] * UNITS, file["person"], file["activity"]
        parts = np.split(signals, np.cumsum(file["samples"])[:-1])
    return [Stretch(*each) for each in zip(people.tolist(), activities.tolist(), parts, strict=True)]


def _downloaded() -> list[Stretch]:
    """The six basic activities of the archive's raw recordings; the transitions between them are left out."""
    with zipfile.ZipFile(keras.utils.get_file("hapt.zip", URL, file_hash=SHA256)) as archive:

        def table(name: str, dtype=np.float32) -> np.ndarray:
            with archive.open(f"RawData/{name}") as file:
                return np.loadtxt(file, dtype)

        recordings, stretches = {}, []
        for experiment, person, activity, first, last in table("labels.txt", int):  # first and last are counted from 1
            name = f"exp{experiment:02}_user{person:02}.txt"
            if name not in recordings:
                parts = table(f"acc_{name}"), table(f"gyro_{name}")
                samples = min(map(len, parts))
                recordings[name] = np.hstack([part[:samples] for part in parts])
            if activity <= len(ACTIVITIES):
                stretches.append(Stretch(int(person), int(activity) - 1, recordings[name][first - 1 : last]))
    return stretches


def write_sample(path, stretches: list[Stretch]) -> None:
    """The stretches of some of the people in one file: the sensors' own integers, packed by bzip2, which np.load reads."""
    chosen = [stretch for stretch in stretches if stretch.person in SAMPLE_PEOPLE]
    arrays = {
        "signals": np.concatenate([np.round(stretch.signal / UNITS).astype(np.int16) for stretch in chosen]),
        "samples": np.array([len(stretch.signal) for stretch in chosen]),
        "person": np.array([stretch.person for stretch in chosen]),
        "activity": np.array([stretch.activity for stretch in chosen]),
    }
    with zipfile.ZipFile(path, "x", zipfile.ZIP_BZIP2) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                # Channel after channel: smaller when packed.
                np.save(file, np.asfortranarray(array))


if __name__ == "__main__":
    write_sample(sys.argv[1], _downloaded())
