"""Streams of batches, such as datasets and generators, and reading them into arrays."""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from .model_inputs import described_type, has_structure, is_array, nested_arrays

# A stream that goes on for more than this is taken for an endless one.
MAX_EXAMPLES, MAX_BYTES = 2**22, 2**32


def read_examples(model: keras.Model, data, most: int | None = None) -> tuple[Any, Any]:
    """Return inputs of `model` and labels as arrays, of data that may come as a stream.

    Args:
        model: a built model.
        data: arrays, which are returned as they are; or a stream of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            torch `DataLoader`, a generator, or a function that returns one, such as TFLite's `representative_dataset`. An
            element is a batch of inputs; a pair (inputs, labels); or as in TFLite a pair of a signature's name and its inputs.
        most: largest number of examples to read. None (default): all of them.

    Returns:
        The inputs and the labels; the labels are None if there are none.

    Raises:
        ValueError: for a stream without elements, or with elements that are no batches. If `most` is None, also for a stream
            without end, or with weights of the examples.
    """
    if not is_stream(data):
        return data, None
    if most is None and _is_endless(data):
        raise _no_end()
    inputs, labels, count, size = [], [], 0, 0
    for element in _elements(data):
        x, y = _inputs_and_labels(model, element)
        if most is None and y is not None and len(element) > 2 and element[2] is not None:
            raise ValueError(
                "Expected elements (inputs, labels) in the dataset. Received weights of the examples too, which would not be "
                "used. Leave them out: dataset.map(lambda x, y, weights: (x, y))."
            )
        x = nested_arrays(x, "the dataset")
        leaves = keras.tree.flatten(x)
        _check_batch(model, leaves)
        inputs.append(x)
        labels.append(y)
        count += len(leaves[0])
        size += sum(leaf.nbytes for leaf in leaves)
        if most is not None and count >= most:
            break
        if most is None and (count > MAX_EXAMPLES or size > MAX_BYTES):
            raise _no_end()
    if not count:
        raise ValueError(
            "Expected at least one example in the dataset. Received none. A generator can be read once: pass the function that "
            "makes it."
        )
    x = _joined(inputs, most, "inputs")
    return x, None if labels[0] is None else _joined(labels, most, "labels")


def is_stream(data) -> bool:
    """Return whether `data` must be iterated over to get batches."""
    if data is None or isinstance(data, list | tuple | str | bytes | Mapping | keras.layers.Layer) or is_array(data):
        return False
    return callable(data) or isinstance(data, Iterable | keras.utils.PyDataset)


def _elements(data) -> Iterator:
    """Yield the elements of a stream.

    Raises:
        ValueError: if it is a function that needs an argument, or that returns no stream.
    """
    if isinstance(data, keras.utils.PyDataset):
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        return (data[index] for index in indices)
    if isinstance(data, Iterable):
        return iter(data)
    advice = "Expected data, or a function without arguments that returns a generator of batches."
    try:
        inspect.signature(data).bind()
    except TypeError as error:
        raise ValueError(f"{advice} Received: {described_type(data)}, which needs arguments.") from error
    returned = data()
    if is_array(returned) or isinstance(returned, Mapping):
        return iter([returned])
    if isinstance(returned, keras.utils.PyDataset):
        return _elements(returned)
    if not isinstance(returned, Iterable):
        raise ValueError(f"{advice} Received: {described_type(data)}, which returned {described_type(returned)}.")
    return iter(returned)


def _inputs_and_labels(model: keras.Model, element) -> tuple[Any, Any]:
    """Return the inputs and the labels in one element of a stream. The labels are None if there are none."""
    if not isinstance(element, list | tuple):
        return element, None
    if all(isinstance(part, str) for part in element):  # a batch of texts
        return element, None
    if len(element) == 1:
        return element[0], None
    if isinstance(element[0], str) and isinstance(element[1], Mapping):
        x = element[1]  # TFLite's form: (name of the signature, inputs by name)
        alone = len(x) == 1 and len(getattr(model, "inputs", None) or ()) == 1
        return next(iter(x.values())) if alone else x, None
    known = bool(getattr(model, "inputs", None))
    # A DataLoader of torch gives lists [inputs, labels], and TFLite's function gives lists of inputs.
    is_pair = isinstance(element[0], Mapping) or (has_structure(model, element[0]) if known else isinstance(element, tuple))
    return (element[0], element[1]) if is_pair else (element, None)


def _check_batch(model: keras.Model, leaves: list[np.ndarray]) -> None:
    """Check that the inputs in an element of a stream have a batch axis.

    Raises:
        ValueError: if they are those of a single example.
    """
    axes = sorted(len(tensor.shape) - 1 for tensor in getattr(model, "inputs", None) or ())
    if not leaves or any(leaf.ndim == 0 for leaf in leaves) or sorted(leaf.ndim for leaf in leaves) == axes:
        raise ValueError(
            "Expected batches of examples in the dataset. Received single examples, of the shapes "
            f"{[leaf.shape for leaf in leaves]}. Call dataset.batch(32), or give the arrays of a generator a batch axis: "
            "array[None]."
        )


def _no_end() -> ValueError:
    return ValueError(
        "Expected a dataset that ends. Received an endless one, or one that is too large to keep. Limit it: "
        "dataset.take(number of batches), or itertools.islice(generator, number of batches)."
    )


def _is_endless(data) -> bool:
    """Return whether a dataset says that it has no end. A tf.data.Dataset marks that by -1, a PyDataset by None."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _joined(batches: list, most: int | None, what: str):
    """Return batches as one, of at most `most` examples. `what` is in them, for the message."""
    batches = [nested_arrays(batch, f"the {what} of the dataset") for batch in batches]
    try:
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:most], *batches)
    except (TypeError, ValueError) as error:
        shapes = [str(keras.tree.map_structure(np.shape, batch)) for batch in batches]
        raise ValueError(
            f"Expected batches that differ in the number of examples only. Received {what} of the shapes "
            f"{', '.join(list(dict.fromkeys(shapes))[:3])}. Pad them to one shape."
        ) from error
