"""The examples that a model is compressed on: those to train on, and those to score on."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_butterfly.utils.model_inputs import check_data, example_count, examples_at
from keras_butterfly.utils.streams import is_stream, read_examples

# The part of the examples that is held back to score on, and the largest number of them.
HELD_BACK, MOST = 0.2, 10_000


@dataclass(frozen=True)
class Examples:
    """Inputs and labels to train on, and others to score on.

    Attributes:
        x, y: the inputs of the training, in the structure that the model takes, and their labels, or None.
        held_x, held_y: the same to score on.
        given: whether the user gave the examples to score on. Else they are a part of the data.
    """

    x: Any
    y: Any
    held_x: Any
    held_y: Any
    given: bool

    @classmethod
    def of(cls, model: keras.Model, data, validation_data=None, seed: int | None = 0) -> "Examples":
        """Return the examples in `data` and `validation_data`, each (x, y), or x alone, or a stream of batches.

        Raises:
            ValueError: if they do not fit the model, are not finite, are all equal, or too few of them to hold some back.
        """
        x, y = _read(model, data, "`data`")
        if validation_data is not None:
            held_x, held_y = _read(model, validation_data, "`validation_data`")
            if (y is None) != (held_y is None):
                raise ValueError("Expected labels in both `data` and `validation_data`, or in neither. Received them in one.")
            return cls(x, y, held_x, held_y, True)
        count = example_count(x)
        if count < 2:
            raise ValueError(f"Expected at least two examples, to train on some and score on others. Received: {count}")
        held = min(max(1, round(count * HELD_BACK)), MOST)
        shuffled = np.random.default_rng(seed).permutation(count)
        train, scored = np.sort(shuffled[held:]), np.sort(shuffled[:held])
        parts = [(examples_at(x, part), None if y is None else examples_at(y, part)) for part in (train, scored)]
        return cls(*parts[0], *parts[1], False)


def _read(model: keras.Model, data, name: str) -> tuple[Any, Any]:
    """Return the inputs and the labels in `data`. The labels are None if there are none.

    Raises:
        ValueError: as `Examples.of`. The message calls the data `name`.
    """
    if data is None:
        raise ValueError(f"Expected {name} as a pair (x, y), or x alone. Received: None")
    x, y = read_examples(model, data) if is_stream(data) else data if _is_pair(data) else (data, None)
    x = check_data(model, x, name)
    arrays = keras.tree.flatten(x)
    if len(arrays[0]) > 1 and all((array == array[:1]).all() for array in arrays):
        raise ValueError(f"Expected typical examples in {name}. Received {len(arrays[0])} that are all equal.")
    if y is None:
        return x, None
    y = keras.tree.map_structure(np.asarray, y) if isinstance(y, dict | list | tuple) and not _are_values(y) else np.asarray(y)
    count = example_count(x)
    shapes = [array.shape for array in keras.tree.flatten(y)]
    if any(shape[:1] != (count,) for shape in shapes):
        raise ValueError(f"Expected as many labels as examples in {name}, {count}. Received labels of the shapes {shapes}")
    return x, y


def _is_pair(data) -> bool:
    return isinstance(data, tuple) and len(data) == 2


def _are_values(labels) -> bool:
    """Return whether `labels` is a plain list of numbers, not a list or a dict of the labels of several outputs."""
    return isinstance(labels, list | tuple) and bool(labels) and np.ndim(labels[0]) == 0
