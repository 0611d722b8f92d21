"""Reading models and data from files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_butterfly.utils.npz import read_npz
from keras_butterfly.utils.validation import reason_of

LABELS = "y"
TEST = "_test"


def load_model(path) -> keras.Model:
    """Return the Keras model in a .keras or .h5 file.

    Raises:
        ValueError: if there is no such file, it is damaged, or it holds layers of classes that are not registered.
    """
    if not Path(path).is_file():
        raise ValueError(f"Expected a .keras file. Received: '{path}', which is not a file.")
    if Path(path).suffix == ".keras" and not zipfile.is_zipfile(path):  # Keras says that the file is not found
        raise ValueError(
            f"Expected a Keras model in a .keras or .h5 file. '{path}' could not be loaded: it is not a zip archive."
        )
    try:
        try:
            model = keras.models.load_model(path)
        except TypeError:  # a loss or metric of the user's own cannot be loaded, and only training needs it
            model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras, zipfile, h5py and json raise errors of many types
        raise ValueError(
            f"Expected a Keras model in a .keras or .h5 file. '{path}' could not be loaded: {reason_of(error)}."
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a Keras model. '{path}' holds a {type(model).__name__}.")
    return model


def load_arrays(path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name, or the array of a .npy file as "x".

    Raises:
        ValueError: if there is no such file, it is damaged, or it holds pickled objects, dates, NaN or infinities.
    """
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise ValueError(f"Expected arrays in a .npz file. '{path}' could not be read: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind in "mM":
            raise ValueError(
                f"Expected numbers in '{path}'. The array '{name}' holds dates or times: {array.dtype}. Convert or remove it."
            )
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise ValueError(f"Expected finite numbers in '{path}'. The array '{name}' holds some that are NaN or infinite.")
    return arrays


def inputs_of(arrays: dict[str, np.ndarray], names: Sequence[str], suffix: str = ""):
    """Return the inputs of a model, selected from the arrays of a file.

    Args:
        arrays: the arrays by name.
        names: names of the model's inputs. If there is one input, its array may also be called "x", or be the only array.
        suffix: ending of the names in the file, such as "_test".

    Raises:
        ValueError: if the arrays of the inputs are missing.
    """
    if not names:
        raise ValueError("Expected a model with inputs, to run on the data. Received one without inputs.")
    wanted = [name + suffix for name in names]
    if all(name in arrays for name in wanted):
        return {name: arrays[name + suffix] for name in names} if len(names) > 1 else arrays[wanted[0]]
    if len(names) == 1:
        others = [name for name in arrays if name != LABELS + suffix and name.endswith(TEST) == bool(suffix)]
        if "x" + suffix in arrays:
            return arrays["x" + suffix]
        if len(others) == 1:
            return arrays[others[0]]
        wanted = ["x" + suffix]
    raise ValueError(f"Expected the arrays {wanted} in the data. Received: {list(arrays)}")


def training_and_test(arrays: dict[str, np.ndarray], names: Sequence[str]):
    """Return the data to train on, and those to score on, as `export.compress` takes them: (x, y), or x without labels.

    Args:
        arrays: the arrays by name. Those whose names end in "_test" are the ones to score on. If there are none, this part is
            None.
        names: names of the model's inputs.

    Raises:
        ValueError: if inputs are missing, or labels are there for one part only.
    """
    x, y = inputs_of(arrays, names), arrays.get(LABELS)
    train = x if y is None else (x, y)
    if not any(name.endswith(TEST) for name in arrays):
        return train, None
    test_x, test_y = inputs_of(arrays, names, TEST), arrays.get(LABELS + TEST)
    return train, test_x if test_y is None else (test_x, test_y)
