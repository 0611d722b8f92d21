"""Images to train on: a sample of Fashion-MNIST that is part of the package, and data sets of scikit-learn and Keras."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

SAMPLE = "fashion_mnist_sample"


@dataclass(frozen=True)
class Data:
    """Inputs, for images flattened and in 0 .. 1, float32 (examples, features), and integer labels from 0 on (examples,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.y_train.max()) + 1


def load(dataset: str) -> Data:
    """Return the images and labels of a data set.

    Args:
        dataset: "fashion_mnist_sample": 10,000 training and 2,000 test images of clothes, which are part of the package.
            "fashion_mnist" or "mnist": 60,000 and 10,000 images of 28 x 28, which `keras.datasets` downloads once.
            "digits": 1,797 images of 8 x 8 from scikit-learn, a quarter of them for testing.

    Raises:
        ValueError: if scikit-learn is missing or the download fails.
    """
    if dataset == "digits":
        x_train, y_train, x_test, y_test = _digits()
    else:
        x_train, y_train, x_test, y_test = _sample() if dataset == SAMPLE else _download(dataset)
        x_train, x_test = x_train / 255, x_test / 255
    flat = [x.reshape(len(x), -1).astype("float32") for x in (x_train, x_test)]
    return Data(flat[0], y_train, flat[1], y_test)


def _sample():
    with np.load(Path(__file__).parent / "data" / f"{SAMPLE}.npz") as arrays:
        return tuple(arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))


def _download(dataset: str):
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, dataset).load_data()
    except Exception as error:  # Keras raises a plain Exception when a download fails
        raise ValueError(
            f"Expected to read '{dataset}' from the cache of keras.datasets or from the network. Received the error: {error}. "
            f"Go online, or take --dataset {SAMPLE}, which is part of the package."
        ) from error
    return x_train, y_train, x_test, y_test


def _digits():
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ValueError("The digits data needs scikit-learn: pip install 'keras-butterfly[examples]'") from error
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=0.25, stratify=y, random_state=0)
    return x_train, y_train, x_test, y_test
