"""Converting data in any form that Keras and TFLite take to arrays in the order of a model's inputs."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from .keras_internals import all_layers, calls_in_graph
from .validation import check_finite, check_range, reason_of


def check_data(model: keras.Model, data, name: str = "the data"):
    """Return `data` as arrays in the structure that `model` is called with. Error messages call the data `name`.

    Raises:
        ValueError: as `flat_inputs`.
    """
    if getattr(model, "inputs", None):
        return pack_inputs(model, flat_inputs(model, data, name))
    data = nested_arrays(data, name)
    flat_inputs(model, data, name)
    return data


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
    arrays = [as_array(leaf, name) for leaf in leaves]
    scalars = [leaf for leaf in leaves if np.isscalar(leaf)]
    if scalars:
        raise ValueError(f"Expected an array in {name}. Received: {type(scalars[0]).__name__}")
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
    dtypes = [tensor.dtype for tensor in inputs] or [None] * len(arrays)
    for input_name, dtype, array in zip(names, dtypes, arrays, strict=True):
        described = name if len(arrays) == 1 else f"{name} for the input '{input_name}'"
        if dtype != "string":
            check_finite(array, described)
            if dtype in (None, "float32", "float16", "bfloat16"):
                check_range(array, "float32", input_name)
        elif array.dtype.kind not in "SUOT":
            raise ValueError(f"Expected text in {described}. Received: {array.dtype}")
    _check_ids(model, dict(zip(names, arrays, strict=True)))
    return arrays


def run_model(model: keras.Model, x):
    """Return the outputs of `model` on `x`, in inference.

    Raises:
        ValueError: if the model cannot run on them. The message quotes the first line of what Keras says.
    """
    try:
        return model(x, training=False)
    except MemoryError:
        raise
    except Exception as error:  # Layers of a user's class, and the backends, raise errors of many types.
        raise ValueError(f"Expected data on which the model '{model.name}' runs. Keras says: {reason_of(error)}.") from error


def fixed_batch_size(model: keras.Model) -> int | None:
    """Return the number of examples that `model` takes at once, or None if that number is not fixed."""
    return next((tensor.shape[0] for tensor in getattr(model, "inputs", None) or ()), None)


def first_outputs(model: keras.Model, x, most: int) -> list[np.ndarray]:
    """Return the outputs of `model` on the first `most` examples of `x`, or on one batch if its size is fixed.

    Raises:
        ValueError: as `run_model`.
    """
    outputs = run_model(model, examples_at(x, slice(fixed_batch_size(model) or most)))
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def pack_inputs(model: keras.Model, values):
    """Return `values`, in the order of `model.inputs`, in the structure that the model was built with."""
    if isinstance(model, keras.Sequential):
        return values[0]
    return keras.tree.pack_sequence_as(model.input, list(values))


def sample(x, count: int):
    """Return `count` random examples of the inputs `x`, the same at each call, or all if there are no more.

    They are random because the examples may be sorted by class.
    """
    total = example_count(x)
    chosen = np.sort(np.random.default_rng(0).choice(total, min(count, total), replace=False))
    return examples_at(x, chosen)


def example_count(x) -> int:
    """Return the number of examples of `x`, arrays in any structure."""
    return len(keras.tree.flatten(x)[0])


def examples_at(x, index):
    """Return the examples of `x`, arrays in any structure, at an index or a slice of the first axis."""
    return keras.tree.map_structure(lambda array: array[index], x)


def as_array(data, name: str) -> np.ndarray:
    """Return `data`, an array of any library or nested lists of numbers, as a NumPy array.

    Raises:
        ValueError: if it cannot be one. The message calls it `name`.
    """
    if hasattr(data, "toarray"):  # a sparse matrix of SciPy
        data = data.toarray()
    elif hasattr(data, "detach"):  # a tensor of torch, which may hold gradients or lie on a GPU
        data = data.detach().cpu()
    try:
        array = np.asarray(data)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = ", whose parts have unequal lengths. Pad them" if "inhomogeneous" in str(error) else ""
        raise ValueError(f"Expected an array in {name}. Received: {type(data).__name__}{reason}.") from error
    if array.dtype == object and not array.ndim:
        raise ValueError(f"Expected an array in {name}. Received: {type(data).__name__}")
    return array


def is_array(data) -> bool:
    """Return whether `data` is an array of NumPy or of another library."""
    return hasattr(data, "__array__") or hasattr(data, "toarray")


def nested_arrays(data, name: str):
    """Return `data`, arrays or lists of values in nested dicts, lists and tuples, with NumPy arrays in place of these."""

    def array_or_none(part):
        return as_array(part, name) if not keras.tree.is_nested(part) or _is_of_values(part) else None

    return keras.tree.traverse(array_or_none, data)


def _is_of_values(data) -> bool:
    """Return whether the first element in nested lists and tuples is a number or a text."""
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, int | float | complex | str | bytes | np.generic)


def has_structure(model: keras.Model, data) -> bool:
    """Return whether `data` has the structure of the inputs of `model`."""
    try:
        _leaves(model, data, "the data")
    except ValueError:
        return False
    return True


def _leaves(model: keras.Model, data, name: str) -> list:
    """Return the parts of `data` in the order of `model.inputs`."""
    inputs = model.inputs
    structure = inputs[0] if isinstance(model, keras.Sequential) else model.input
    by_name = {tensor.name: tensor for tensor in inputs}
    if isinstance(data, Mapping) and set(data) == set(by_name):
        return [data[tensor.name] for tensor in inputs]
    if len(inputs) == 1 and not isinstance(data, Mapping):
        return [_single(inputs[0], data, name)]
    found = {id(tensor): part for tensor, part in match_inputs(structure, data, name, list(by_name))}
    return [found[id(tensor)] for tensor in inputs]


def _single(tensor, data, name: str):
    """Return the array of a model with one input: `data`, or its only element. A list of examples is an array too."""
    if isinstance(data, list | tuple) and len(data) == 1 and as_array(data[0], name).ndim == len(tensor.shape):
        return data[0]
    return data


def match_inputs(structure, data, name: str, names: list[str]) -> list[tuple[Any, Any]]:
    """Return pairs of a part of `structure` and the part of `data` at the same place.

    Args:
        structure: what stands for an input, in the nested dicts and lists in which a model takes its inputs.
        data: the data in the same structure.
        name: name of the data in error messages.
        names: names of the inputs, for error messages.

    Raises:
        ValueError: if the data have another structure.
    """
    if isinstance(structure, Mapping):
        if not isinstance(data, Mapping) or set(data) != set(structure):
            guess = "" if isinstance(data, Mapping) else ", whose order would be a guess"
            raise ValueError(
                f"Expected {name} as a dict with the keys {sorted(structure)}. Received: {described_type(data)}{guess}"
            )
        pairs = [(structure[key], data[key]) for key in structure]
    elif isinstance(structure, list | tuple):
        if not isinstance(data, list | tuple) or len(data) != len(structure):
            raise ValueError(
                f"Expected {name} as a list of {len(structure)} inputs, or a dict of {names}. Received: {described_type(data)}"
            )
        pairs = list(zip(structure, data, strict=True))
    elif isinstance(data, Mapping):
        raise ValueError(f"Expected {name} as an array, or a dict of {names}. Received: {described_type(data)}")
    else:
        return [(structure, data)]
    return [pair for inner, part in pairs for pair in match_inputs(inner, part, name, names)]


def described_type(data) -> str:
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
