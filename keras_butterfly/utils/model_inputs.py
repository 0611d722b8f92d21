"""Converting data in any form that Keras and TFLite take to arrays in the order of a model's inputs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from .keras_internals import all_layers, calls_in_graph
from .validation import check_finite


def check_data(model: keras.Model, data):
    """Return `data` as arrays in the structure that `model` is called with.

    Raises:
        ValueError: as `flat_inputs`.
    """
    arrays = flat_inputs(model, data)
    if not getattr(model, "inputs", None):
        return keras.tree.pack_sequence_as(data, arrays) if keras.tree.is_nested(data) else arrays[0]
    return pack_inputs(model, arrays)


def flat_inputs(model: keras.Model, data, name: str = "the data") -> list[np.ndarray]:
    """Return one array (examples, ...) for each input of `model`, in the order of `model.inputs`.

    Args:
        model: a built model.
        data: what `model.predict` takes: an array, or arrays in the structure of the model's inputs; or a dict by the inputs'
            names. A list is refused where the model takes a dict, because its order would have to be guessed.
        name: name of the data in error messages.

    Raises:
        ValueError: for data in another structure or of other shapes, no or unequal numbers of examples, text, NaN, or ids
            beyond the table of the `Embedding` that they go into.
    """
    inputs = list(getattr(model, "inputs", None) or [])
    leaves = _leaves(model, data, name) if inputs else keras.tree.flatten(data)
    arrays = [np.asarray(leaf) for leaf in leaves]
    names = [tensor.name for tensor in inputs] or [f"input {index}" for index in range(len(arrays))]
    expected = [tuple(tensor.shape[1:]) for tensor in inputs] or [array.shape[1:] for array in arrays]
    if not all(_fits(array, shape) for array, shape in zip(arrays, expected, strict=True)):
        raise ValueError(
            f"Expected {name} of the shapes {[('examples', *shape) for shape in expected]}. "
            f"Received: {[array.shape for array in arrays]}"
        )
    if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        counts = {input_name: len(array) for input_name, array in zip(names, arrays, strict=True)}
        raise ValueError(f"Expected at least one example, and as many for every input, in {name}. Received: {counts}")
    for input_name, array in zip(names, arrays, strict=True):
        check_finite(array, name if len(arrays) == 1 else f"{name} for the input '{input_name}'")
    _check_ids(model, dict(zip(names, arrays, strict=True)))
    return arrays


def pack_inputs(model: keras.Model, values):
    """Return `values`, in the order of `model.inputs`, in the structure that the model was built with."""
    if isinstance(model, keras.Sequential):
        return values[0]
    return keras.tree.pack_sequence_as(model.input, list(values))


def read_examples(data, most: int | None = None) -> tuple[Any, Any]:
    """Return inputs and labels as arrays, of data that may come as a stream.

    Args:
        data: arrays, which are returned as they are; or a stream of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator, or a function that returns a generator, such as TFLite's `representative_dataset`. An element is a batch
            of inputs, or a tuple (inputs, labels).
        most: largest number of examples to read. None (default): all of them.

    Returns:
        The inputs and the labels; the labels are None if there are none.

    Raises:
        ValueError: for a stream without elements, without end where `most` is None, or with elements that are no batches.
    """
    if not is_stream(data):
        return data, None
    if most is None and _is_endless(data):
        raise ValueError("Expected a dataset that ends. Received an endless one. Limit it: dataset.take(number of batches).")
    inputs, labels, count = [], [], 0
    for element in _elements(data):
        x, y = element[:2] if isinstance(element, tuple) and len(element) > 1 else (element, None)
        x = keras.tree.map_structure(np.asarray, x[0] if isinstance(x, tuple) and len(x) == 1 else x)
        first = keras.tree.flatten(x)[0]
        if first.ndim == 0:
            raise ValueError("Expected batches of examples in the dataset. Received single numbers. Call dataset.batch(...).")
        inputs.append(x)
        labels.append(y)
        count += len(first)
        if most is not None and count >= most:
            break
    if not count:
        raise ValueError("Expected at least one example in the dataset. Received none.")
    x = _joined(inputs, most)
    return x, None if labels[0] is None else _joined(labels, most)


def is_stream(data) -> bool:
    """Return whether `data` must be iterated over to get batches."""
    if data is None or isinstance(data, list | tuple | str | bytes | Mapping) or hasattr(data, "__array__"):
        return False
    return callable(data) or isinstance(data, Iterable | keras.utils.PyDataset)


def _elements(data) -> Iterator:
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches))
    return iter(data) if isinstance(data, Iterable) else iter(data())


def _is_endless(data) -> bool:
    """Return whether a tf.data.Dataset says that it has no end. It marks that by -1."""
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _joined(batches: list, most: int | None):
    return keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(part) for part in parts])[:most], *batches)


def _leaves(model: keras.Model, data, name: str) -> list:
    """Return the parts of `data` in the order of `model.inputs`."""
    inputs = model.inputs
    structure = inputs[0] if isinstance(model, keras.Sequential) else model.input
    by_name = {tensor.name: tensor for tensor in inputs}
    if isinstance(data, Mapping) and set(data) == set(by_name):
        return [data[tensor.name] for tensor in inputs]
    if len(inputs) == 1 and not isinstance(data, Mapping):
        return [_single(inputs[0], data)]
    found: dict[int, Any] = {}
    _match(structure, data, name, list(by_name), found)
    return [found[id(tensor)] for tensor in inputs]


def _single(tensor, data):
    """Return the array of a model with one input: `data`, or its only element. A list of examples is an array too."""
    if isinstance(data, list | tuple) and len(data) == 1 and np.ndim(data[0]) == len(tensor.shape):
        return data[0]
    return data


def _match(structure, data, name: str, names: list[str], found: dict[int, Any]) -> None:
    """Add to `found`, for each tensor of `structure`, the part of `data` at the same place. The key is the tensor's id."""
    if isinstance(structure, Mapping):
        if not isinstance(data, Mapping) or set(data) != set(structure):
            guess = "" if isinstance(data, Mapping) else ", whose order would be a guess"
            raise ValueError(
                f"Expected {name} as a dict with the keys {sorted(structure)}. Received: {_described(data)}{guess}"
            )
        pairs = [(structure[key], data[key]) for key in structure]
    elif isinstance(structure, list | tuple):
        if not isinstance(data, list | tuple) or len(data) != len(structure):
            raise ValueError(
                f"Expected {name} as a list of {len(structure)} inputs, or a dict of {names}. Received: {_described(data)}"
            )
        pairs = list(zip(structure, data, strict=True))
    elif isinstance(data, Mapping):
        raise ValueError(f"Expected {name} as an array, or a dict of {names}. Received: {_described(data)}")
    else:
        found[id(structure)] = data
        return
    for inner, part in pairs:
        _match(inner, part, name, names, found)


def _described(data) -> str:
    """Return the type of `data` in words, for an error message."""
    if isinstance(data, Mapping):
        return f"a dict with the keys {list(data)}"
    return f"a {type(data).__name__}" + (f" of {len(data)}" if isinstance(data, list | tuple) else "")


def _fits(array: np.ndarray, shape: tuple) -> bool:
    sizes = array.shape[1:]
    return array.ndim == len(shape) + 1 and all(e in (None, a) for e, a in zip(shape, sizes, strict=True))


def _check_ids(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Check the ids of inputs that go straight into an `Embedding`: TensorFlow's own message does not name the input."""
    tables = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    for layer, node in ((table, node) for table in tables for node in calls_in_graph(table) if node.input_tensors):
        name = node.input_tensors[0].name
        ids = arrays.get(name)
        if ids is not None and not 0 <= ids.min() <= ids.max() < layer.input_dim:
            raise ValueError(
                f"Expected ids within 0 .. {layer.input_dim - 1} for the input '{name}', which goes into the Embedding "
                f"'{layer.name}'. Received ids from {ids.min()} to {ids.max()}."
            )
