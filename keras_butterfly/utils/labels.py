"""Checks of class labels, which are one integer for each example."""

import numpy as np


def check_labels(labels, examples: int, classes: int | None = None) -> np.ndarray:
    """Return class labels as an array of integers, (examples,).

    Args:
        labels: integers, (examples,) or (examples, 1).
        examples: number of labels that there must be.
        classes: number of classes. None (default): not known.

    Raises:
        ValueError: if the labels are not integers, of another number or shape, or beyond the classes.
    """
    array = np.asarray(labels)
    if array.ndim == 0:
        raise ValueError(f"Expected one label for each of {examples} examples. Received a single value.")
    if not np.issubdtype(array.dtype, np.integer):
        hint = " Round them first." if np.issubdtype(array.dtype, np.floating) else ""
        raise ValueError(f"Expected integer labels. Received: {array.dtype}.{hint}")
    if len(array) != examples:
        raise ValueError(f"Expected as many labels as examples, {examples}. Received: {len(array)}")
    if array.size != examples:
        raise ValueError(
            f"Expected one integer label for each example. Received labels of shape {array.shape}. If they are one-hot, give "
            "y.argmax(-1)."
        )
    array = array.reshape(examples)
    if array.min() < 0 or (classes is not None and array.max() >= classes):
        limit = "not negative" if classes is None else f"within 0 .. {classes - 1}"
        raise ValueError(f"Expected labels {limit}. Received labels from {array.min()} to {array.max()}.")
    return array
