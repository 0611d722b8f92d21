"""Checks of labels: of classes, which are one integer for each example, and of any labels for a loss."""

from math import prod
from typing import Any

import keras
import numpy as np

from .model_inputs import as_array, check_data, example_count
from .streams import is_stream, read_examples
from .validation import check_finite

# Losses of Keras whose labels have another shape than the output.
_ANY_LABELS = ("ctc", "circle")


def check_labels(labels, examples: int, classes: int | None = None) -> np.ndarray:
    """Return class labels as an array of integers, (examples,).

    Args:
        labels: integers, (examples,) or (examples, 1).
        examples: number of labels that there must be.
        classes: number of classes. None (default): not known.

    Raises:
        ValueError: if the labels are not integers, of another number or shape, or beyond the classes.
    """
    array = as_array(labels, "the labels")
    if array.ndim == 0:
        raise ValueError(f"Expected one label for each of {examples} examples. Received a single value.")
    if array.ndim > 1 and array.shape[-1] > 1 and len(array) == examples:
        raise ValueError(
            f"Expected one integer label for each example. Received labels of shape {array.shape}. If they are one-hot, give "
            "y.argmax(-1)."
        )
    if not np.issubdtype(array.dtype, np.integer):
        hint = " If they are whole numbers, give y.astype(int)." if np.issubdtype(array.dtype, np.floating) else ""
        raise ValueError(f"Expected integer labels. Received: {array.dtype}.{hint}")
    if array.size != examples:
        raise ValueError(f"Expected as many labels as examples, {examples}. Received: {len(array)}")
    array = array.reshape(examples)
    if array.min() < 0 or (classes is not None and array.max() >= classes):
        limit = "not negative" if classes is None else f"within 0 .. {classes - 1}"
        raise ValueError(f"Expected labels {limit}. Received labels from {array.min()} to {array.max()}.")
    return array


def label_arrays(labels, examples: int, outputs: int, name: str = "the labels"):
    """Return labels as arrays: one for a model of one output, otherwise in the list or dict in which they are.

    Args:
        labels: arrays or lists of numbers.
        examples: number of labels that there must be.
        outputs: number of outputs of the model.
        name: name of the labels in error messages.

    Raises:
        ValueError: if there are not as many labels as examples, or they are no finite numbers.
    """
    arrays: Any
    if isinstance(labels, dict):
        arrays = {key: as_array(value, name) for key, value in labels.items()}
    elif isinstance(labels, list | tuple) and (outputs > 1 or (len(labels) == 1 and np.shape(labels[0])[:1] == (examples,))):
        arrays = [as_array(value, name) for value in labels]
    else:
        arrays = as_array(labels, name)
    listed = keras.tree.flatten(arrays)
    if any(part.ndim == 0 or len(part) != examples for part in listed):
        shapes = [part.shape for part in listed]
        raise ValueError(f"Expected as many labels as examples, {examples}, in {name}. Received labels of the shapes {shapes}")
    for part in listed:
        check_finite(part, name)
    return listed[0] if outputs == 1 and isinstance(arrays, list) else arrays


def validation_arrays(model: keras.Model, data, outputs: int) -> tuple:
    """Return validation data as (x, y), or (x, y, weights of the examples) if they have weights.

    Args:
        model: the model that is trained.
        data: (x, y), (x, y, weights), or a stream of batches, see `streams.read_examples`.
        outputs: number of outputs of the model.

    Raises:
        ValueError: if the data do not fit the model, or are not finite.
    """
    if is_stream(data):
        data = read_examples(model, data)
    elif not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(
            f"Expected `validation_data` as (x, y), or a stream of such batches. Received: a {type(data).__name__}."
        )
    x, y, *weights = data
    if y is None:
        raise ValueError("Expected labels in `validation_data`, as (x, y). Received: y=None")
    x = check_data(model, x, "`validation_data`")
    return (x, label_arrays(y, example_count(x), outputs, "`validation_data`"), *weights)


def in_output_order(model: keras.Model, by_name):
    """Return labels or losses, given by the names of the outputs of `model`, as a list in the order of these outputs.

    Anything else is returned as it is, and so is a dict for a model whose outputs are a dict.
    """
    names = getattr(model, "output_names", None) or ()
    if isinstance(by_name, dict) and isinstance(getattr(model, "output", None), list | tuple) and set(by_name) == set(names):
        return [by_name[name] for name in names]
    return by_name


def check_against_loss(labels, loss, shapes) -> None:
    """Check labels against the loss that they are for.

    Args:
        labels: arrays, in the structure that `label_arrays` and then `in_output_order` return.
        loss: a loss of Keras, by its name too, or of the user's, which takes any labels; or one for each output, in the order
            of the outputs.
        shapes: the shape of each output of the model, with the examples first. The number of examples is not looked at.

    Raises:
        ValueError: if labels of a sparse categorical cross-entropy are not integers below the number of classes, or others have
            not the shape of the output.
    """
    arrays, losses = keras.tree.flatten(labels), keras.tree.flatten(loss)
    losses = losses * len(arrays) if len(losses) == 1 else losses
    if not len(arrays) == len(losses) == len(shapes):
        return
    for array, each, (_, *sizes) in zip(arrays, losses, shapes, strict=True):
        name = loss_name(each)
        if "sparse_categorical" in name:
            positions = len(array) * prod(sizes[:-1])
            array = array.reshape(-1) if array.size == positions else array
            ignored = getattr(each, "ignore_class", None)
            if ignored is not None:  # such as -1 or 255, which stand for "no class"
                positions -= np.count_nonzero(array == ignored)
                array = array[array != ignored]
            if positions:
                check_labels(array, positions, sizes[-1])
        elif hasattr(keras.losses, name) and name not in _ANY_LABELS and not _same_shape(list(array.shape[1:]), sizes):
            hint = ' For integer labels, take "sparse_categorical_crossentropy".' if name.startswith("categorical") else ""
            raise ValueError(
                f"Expected labels of the shape {(len(array), *sizes)} for the loss {name}. Received: {array.shape}.{hint}"
            )


def loss_name(loss) -> str:
    """Return the name of a loss, given as a name, a function or a `keras.losses.Loss`; or "" if it has none."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # a loss of the user's, which is not registered
            return loss
    return str(getattr(loss, "__name__", None) or getattr(loss, "name", None) or "")


def _same_shape(first: list, second: list) -> bool:
    """Return whether two shapes are equal, but for a last axis of size 1."""
    return [*first, 1] == second or first == [*second, 1] or first == second
