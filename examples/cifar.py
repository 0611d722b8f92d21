"""CIFAR-10 and CIFAR-100: photographs of 32 x 32 pixels of ten or a hundred kinds of things.

    python examples/cifar.py FOLDER FILE

writes the sample that comes with this repository, a few images of CIFAR-10, from the files in FOLDER. Source: data/README.md.
"""

import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_butterfly.utils.npz import read_npz

SIDE = 32
# Of each channel (red, green, blue) of the training images of CIFAR-10, for values from 0 to 255.
MEAN, DEVIATION = (125.307, 122.950, 113.865), (62.993, 62.089, 66.705)
TRAINING, TEST = 50_000, 10_000
CLASSES = {"cifar10": 10, "cifar100": 100}
PACKED = Path("cifar10") / "cifar10_residual.npz"
SAMPLE = Path(__file__).parent / "data" / "cifar10_sample.npz"
# Images of each class in the sample.
SAMPLE_TRAINING, SAMPLE_TEST = 20, 10
HOW = "Leave out the folder to have CIFAR-10 downloaded by Keras."


class Images(NamedTuple):
    """`x_train` and `x_test` are images, uint8 (images, 32, 32, 3). `y_train` and `y_test` are their classes, int."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(name: str = "cifar10", folder: Path | str | None = None) -> Images:
    """Return the training and test images of "cifar10" or "cifar100", in the order of their authors.

    Args:
        name: name of the data set.
        folder: a folder that holds cifar10/cifar10_residual.npz, see `from_residual`. None: Keras downloads the images once.

    Raises:
        ValueError: if the name is unknown, the download fails, or the file is missing, damaged or of another data set.
    """
    if name not in CLASSES:
        raise ValueError(f"Expected one of {list(CLASSES)}. Received: name={name!r}")
    if folder is None:
        return _downloaded(name)
    if name != "cifar10":
        raise ValueError(f"Expected no folder for {name}, because it is always downloaded by Keras. Received: '{folder}'")
    images = _read(Path(folder) / PACKED)
    if (len(images.x_train), len(images.x_test)) != (TRAINING, TEST):
        raise ValueError(
            f"Expected {TRAINING} training and {TEST} test images in '{Path(folder) / PACKED}'. Found {len(images.x_train)} "
            f"and {len(images.x_test)}: the file is of another data set. {HOW}"
        )
    return images


def load_sample() -> Images:
    """Return a small part of CIFAR-10: the first 20 training images of each class, and the first 10 test images."""
    return _read(SAMPLE)


def from_residual(residual: np.ndarray) -> np.ndarray:
    """Return images, uint8 (images, 32, 32, 3), from double differences of the planes G, R - G, B - G, which pack well.

    Args:
        residual: uint8 (images, 3, 32, 32). The differences are over rows and columns, modulo 256.
    """
    planes = residual.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
    planes[:, 1:] += planes[:, :1]
    return np.ascontiguousarray(planes[:, [1, 0, 2]].transpose(0, 2, 3, 1))


def to_residual(images: np.ndarray) -> np.ndarray:
    """Return what `from_residual` turns back into `images`."""
    planes = images.transpose(0, 3, 1, 2)[:, [1, 0, 2]].copy()
    planes[:, 1:] -= planes[:, :1]
    columns = np.diff(planes, axis=3, prepend=np.uint8(0))
    return np.diff(columns, axis=2, prepend=np.uint8(0))


def _read(path: Path) -> Images:
    """Return the images of a packed file."""
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise ValueError(f"Expected the packed images of CIFAR-10 in '{path}', but {error}. {HOW}") from error
    found = []
    for part in ("train", "test"):
        residual, classes = arrays.get(f"x_{part}_residual"), arrays.get(f"y_{part}")
        if residual is None or classes is None or residual.shape[1:] != (3, SIDE, SIDE) or classes.shape != residual.shape[:1]:
            raise ValueError(
                f"Expected the arrays x_{part}_residual, of images, and y_{part}, of their classes, in '{path}'. Found "
                f"{sorted(arrays)}: the file is of another data set. {HOW}"
            )
        if residual.dtype != np.uint8 or not np.isin(classes, range(CLASSES["cifar10"])).all():
            raise ValueError(f"Expected images in uint8 and classes from 0 to 9 in '{path}'. It is of another data set. {HOW}")
        found += [from_residual(residual), classes.astype(int)]
    return Images(*found)


def _downloaded(name: str) -> Images:
    import keras

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a plain Exception when a download fails.
        raise ValueError(
            f"Expected to read {name} from the cache of keras.datasets or from the network. Received the error: {error}. Go "
            "online, or name a folder that holds the data."
        ) from error
    return Images(train[0], train[1].reshape(-1).astype(int), test[0], test[1].reshape(-1).astype(int))


def write_sample(folder: Path, path: Path) -> None:
    """Write the first images of each class, in their order, to one file, which must not exist.

    Raises:
        ValueError: as `load`.
    """
    images = load("cifar10", folder)
    with zipfile.ZipFile(path, "x", zipfile.ZIP_LZMA) as archive:
        for part, x, y, count in (
            ("train", images.x_train, images.y_train, SAMPLE_TRAINING),
            ("test", images.x_test, images.y_test, SAMPLE_TEST),
        ):
            rows = np.sort(np.concatenate([np.flatnonzero(y == each)[:count] for each in range(CLASSES["cifar10"])]))
            for name, values in ((f"x_{part}_residual", to_residual(x[rows])), (f"y_{part}", y[rows].astype(np.uint8))):
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, values)


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]), Path(sys.argv[2]))
