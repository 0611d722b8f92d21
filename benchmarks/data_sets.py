"""The data sets of the benchmarks, as rows of features with labels.

Keras and scikit-learn load "fashion_mnist", "mnist", "cifar10" and "digits". "hapt" is six channels of a smartphone's sensors
in windows of 2.56 s. People 1 to 21 are for training, people 22 to 30 for testing. It is downloaded, or read from
DATA/hapt/hapt_raw.npz. "isolet" is spoken letters. It is downloaded from OpenML, or a part of it is read from
DATA/isolet/isolet1.npz. "cifar10" too may be read from DATA/cifar10/cifar10_residual.npz.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import activity_data
import cifar
import keras_butterfly_cli.datasets
from keras_butterfly_cli.datasets import Data
from sklearn.datasets import fetch_openml

TRAINING_PEOPLE = 21


def load(name: str, folder: Path | None = None) -> Data:
    """Return the training and test examples of a data set.

    Args:
        name: one of `DATA_SETS`.
        folder: a folder that holds the files of some data sets. None: they are downloaded.
    """
    return DATA_SETS[name](folder)


def images(name: str) -> Callable[[Path | None], Data]:
    """Return a function that loads the flattened images of the data set `name`, which Keras or scikit-learn provides."""
    return lambda folder: keras_butterfly_cli.datasets.load(name)


def load_cifar10(folder: Path | None) -> Data:
    """Return the flattened images of CIFAR-10: 3,072 values from 0 to 1, the three colors of a pixel together."""
    images = cifar.load("cifar10", folder if folder is not None and (folder / "cifar10").exists() else None)
    x_train, x_test = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (images.x_train, images.x_test))
    return Data(x_train, images.y_train, x_test, images.y_test)


def load_hapt(folder: Path | None) -> Data:
    """Return windows of 128 samples, channel after channel, standardized by the training people's mean and deviation."""
    windows, activity, person = activity_data.load("uci") if folder is None else read_hapt(folder / "hapt" / "hapt_raw.npz")
    x = windows.transpose(0, 2, 1).reshape(len(windows), -1)
    known = person <= TRAINING_PEOPLE
    x = (x - x[known].mean(0)) / x[known].std(0)
    return Data(x[known], activity[known], x[~known], activity[~known])


def load_isolet(folder: Path | None) -> Data:
    """Return the training and test examples of ISOLET: spoken letters as 617 features, scaled to -1 .. 1 by its authors.

    From `folder`: 1,100 examples drawn at random for training, and 460 for testing. From OpenML: the split of the data set's
    authors, 6,238 and 1,559 examples.
    """
    if folder is None:
        x, letters = fetch_openml(data_id=300, return_X_y=True, as_frame=False)
        y, training = letters.astype(int) - 1, np.arange(len(x)) < 6238
    else:
        with np.load(folder / "isolet" / "isolet1.npz") as file:
            x, y = file["x_times_10000"] / 1e4, file["y"].astype(int)
        training = np.isin(np.arange(len(x)), np.random.default_rng(0).permutation(len(x))[:1100])
    x = x.astype("float32")
    return Data(x[training], y[training], x[~training], y[~training])


def read_hapt(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the windows, activities and people of the raw recordings in one file, as `activity_data.load` does."""
    with np.load(path) as file:
        signals, offsets, segments = file["signals"].T * activity_data.UNITS, file["offsets"], file["segments"]
        recording = {int(number): index for index, number in enumerate(file["experiment"])}
    stretches = [
        activity_data.Stretch(int(person), int(activity) - 1, signals[start + first - 1 : start + last])
        for experiment, person, activity, first, last in segments
        if activity <= len(activity_data.ACTIVITIES)
        for start in [offsets[recording[int(experiment)]]]
    ]
    return activity_data.windows(stretches, 128)


DATA_SETS: dict[str, Callable[[Path | None], Data]] = {
    "fashion_mnist": images("fashion_mnist"),
    "mnist": images("mnist"),
    "digits": images("digits"),
    "cifar10": load_cifar10,
    "hapt": load_hapt,
    "isolet": load_isolet,
}
