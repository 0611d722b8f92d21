"""Converting data in any form that Keras and TFLite take to arrays in the order of a model's inputs."""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from .keras_internals import all_layers, calls_in_graph
from .validation import check_finite, check_range, reason_of

# A stream that goes on for more than this is taken for an endless one.
MAX_EXAMPLES, MAX_BYTES = 2**22, 2**32


def check_data(model: keras.Model, data, name: str = "the data"):
    """Return `data` as arrays in the structure that `model` is called with. Error messages call the data `name`.

    Raises:
        ValueError: as `flat_inputs`.
    """
    if getattr(model, "inputs", None):
        return pack_inputs(model, flat_inputs(model, data, name))
    data = _nested_arrays(data, name)
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


def sample(x, count: int, seed: int = 0):
    """Return `count` random examples of the inputs `x`, or all if there are no more.

    They are random because the examples may be sorted by class.
    """
    total = example_count(x)
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    return examples_at(x, chosen)


def example_count(x) -> int:
    """Return the number of examples of `x`, arrays in any structure."""
    return len(keras.tree.flatten(x)[0])


def examples_at(x, index):
    """Return the examples of `x`, arrays in any structure, at an index or a slice of the first axis."""
    return keras.tree.map_structure(lambda array: array[index], x)


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
        x = _nested_arrays(x, "the dataset")
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
    if data is None or isinstance(data, list | tuple | str | bytes | Mapping | keras.layers.Layer) or _is_array(data):
        return False
    return callable(data) or isinstance(data, Iterable | keras.utils.PyDataset)


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


def _is_array(data) -> bool:
    return hasattr(data, "__array__") or hasattr(data, "toarray")


def _nested_arrays(data, name: str):
    """Return `data`, arrays or lists of values in nested dicts, lists and tuples, with NumPy arrays in place of these."""

    def array_or_none(part):
        return as_array(part, name) if not keras.tree.is_nested(part) or _is_of_values(part) else None

    return keras.tree.traverse(array_or_none, data)


def _is_of_values(data) -> bool:
    """Return whether the first element in nested lists and tuples is a number or a text."""
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, int | float | complex | str | bytes | np.generic)


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
        raise ValueError(f"{advice} Received: {_described(data)}, which needs arguments.") from error
    returned = data()
    if _is_array(returned) or isinstance(returned, Mapping):
        return iter([returned])
    if isinstance(returned, keras.utils.PyDataset):
        return _elements(returned)
    if not isinstance(returned, Iterable):
        raise ValueError(f"{advice} Received: {_described(data)}, which returned {_described(returned)}.")
    return iter(returned)


def _inputs_and_labels(model: keras.Model, element) -> tuple[Any, Any]:
    """Return the inputs and the labels in one element of a stream. The labels are None if there are none."""
    if not isinstance(element, list | tuple):
        return element, None
    if all(isinstance(part, str) for part in element):  # a batch of texts
        return element, None
    if len(element) == 1:
        return element[0], None
    if isinstance(element[0], str) and isinstance(
        element[1], Mapping
    ):  # TFLite's form: (name of the signature, inputs by name)
        x = element[1]
        alone = len(x) == 1 and len(getattr(model, "inputs", None) or ()) == 1
        return next(iter(x.values())) if alone else x, None
    known = bool(getattr(model, "inputs", None))
    # A DataLoader of torch gives lists [inputs, labels], and TFLite's function gives lists of inputs.
    is_pair = isinstance(element[0], Mapping) or (_has_structure(model, element[0]) if known else isinstance(element, tuple))
    return (element[0], element[1]) if is_pair else (element, None)


def _has_structure(model: keras.Model, data) -> bool:
    """Return whether `data` has the structure of the inputs of `model`."""
    try:
        _leaves(model, data, "the data")
    except ValueError:
        return False
    return True


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
    batches = [_nested_arrays(batch, f"the {what} of the dataset") for batch in batches]
    try:
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:most], *batches)
    except (TypeError, ValueError) as error:
        shapes = [str(keras.tree.map_structure(np.shape, batch)) for batch in batches]
        raise ValueError(
            f"Expected batches that differ in the number of examples only. Received {what} of the shapes "
            f"{', '.join(list(dict.fromkeys(shapes))[:3])}. Pad them to one shape."
        ) from error


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
        return [(structure, data)]
    return [pair for inner, part in pairs for pair in match_inputs(inner, part, name, names)]


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
