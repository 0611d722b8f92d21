"""Reading models and data from files."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_butterfly.utils.npz import read_npz

LABELS = "y"
TEST = "_test"


def load_model(path) -> keras.Model:
    """Return the Keras model in a .keras or .h5 file.

    Raises:
        ValueError: if there is no such file, it is damaged, or it holds layers of classes that are not registered.
    """
    if not Path(path).is_file():
        raise ValueError(f"Expected a .keras file. Received: '{path}', which is not a file.")
    try:
        try:
            model = keras.models.load_model(path)
        except TypeError:  # a loss or metric of the user's own cannot be loaded, and only training needs it
            model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras, zipfile, h5py and json raise errors of many types
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"Expected a Keras model in a .keras or .h5 file. '{path}' could not be loaded: {reason}") from error
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


def split(arrays: dict[str, np.ndarray], names: Sequence[str], held_out: float = 0.2):
    """Return (x, y) to train on, and (x, y) to score on.

    Args:
        arrays: the arrays by name. If "y_test" is among them, the arrays whose names end in "_test" are the ones to score on.
        names: names of the model's inputs.
        held_out: part of the examples that is drawn to score on if there is no "y_test".

    Raises:
        ValueError: if inputs or labels are missing, or there are fewer than two examples.
    """
    x = inputs_of(arrays, names)
    if LABELS not in arrays:
        raise ValueError(f"Expected labels '{LABELS}' in the data, to score with. Received: {list(arrays)}")
    counts = {array.shape[:1] for array in [*keras.tree.flatten(x), arrays[LABELS]]}
    if len(counts) != 1 or () in counts:
        shapes = [array.shape for array in keras.tree.flatten(x)]
        raise ValueError(f"Expected a label for each example. Received inputs of {shapes} and labels of {arrays[LABELS].shape}")
    if LABELS + TEST in arrays:
        return (x, arrays[LABELS]), (inputs_of(arrays, names, TEST), arrays[LABELS + TEST])
    count = len(arrays[LABELS])
    if count < 2:
        raise ValueError(f"Expected at least two examples, to train on some and score on others. Received: {count}")
    cut, shuffled = count - max(1, round(count * held_out)), np.random.default_rng(0).permutation(count)
    parts = [np.sort(shuffled[:cut]), np.sort(shuffled[cut:])]
    train, test = ((keras.tree.map_structure(lambda array, p=p: array[p], x), arrays[LABELS][p]) for p in parts)
    return train, test
