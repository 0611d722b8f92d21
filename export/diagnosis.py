"""Why an int8 export disagrees with Keras: the first layer whose values go wrong."""

import re
import warnings
from collections.abc import Sequence

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_butterfly.utils.keras_internals import calls_in_graph

from .preparation.representative_data import Batch
from .tflite.parity import compare_outputs
from .tflite.runtime import run


def first_wrong_layer(content: bytes, model: keras.Model, batch: Batch, tolerance: float) -> tuple[str, float] | None:
    """Return the first layer of `model` whose values in the file are off by more than `tolerance`, and by how much.

    The values of a layer are found in the file by the layer's name and the shape of its output. Layers whose values were merged
    into others, and models that are not functional, cannot be told.

    Args:
        content: bytes of the .tflite file.
        model: the model that it was made of.
        batch: inputs by the names of the file's signature, in the order of the model's inputs.
        tolerance: largest permitted difference, relative to the largest value of the layer.

    Returns:
        The layer's name and its relative error, or None if no such layer is found.
    """
    layers = [layer for layer in getattr(model, "layers", ()) if _has_one_output(layer)]
    if not layers:
        return None
    inside = keras.Model(model.inputs, {layer.name: layer.output for layer in layers})
    expected = inside(list(batch.values()), training=False)
    values = _tensors(content, batch)
    for layer in layers:
        wanted = np.asarray(keras.ops.convert_to_numpy(expected[layer.name]))
        # A second trace of the same layer gets a number behind its name.
        named = re.compile(rf"(^|[/;]){re.escape(layer.name)}(_\d+)?/")
        found = [value for name, value in values if named.search(name) and value.shape == wanted.shape]
        if found:
            error = compare_outputs([wanted], [found[-1]]).relative_error
            if error > tolerance:
                return layer.name, error
    return None


def _has_one_output(layer) -> bool:
    """Return whether a layer of a functional model was called once and gives one floating tensor."""
    nodes = calls_in_graph(layer)
    one = len(nodes) == 1 and len(nodes[0].output_tensors) == 1
    return one and not isinstance(layer, keras.layers.InputLayer) and keras.backend.is_float_dtype(layer.output.dtype)


def _tensors(content: bytes, batch: Batch) -> Sequence[tuple[str, np.ndarray]]:
    """Return the names and the values, in float, of all tensors of the file after one invocation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors", category=UserWarning)
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    run(interpreter, batch)
    found = []
    for detail in interpreter.get_tensor_details():
        try:
            value = interpreter.get_tensor(detail["index"])
        except ValueError:  # a tensor that the delegate keeps to itself
            continue
        scale, zero = detail["quantization"]
        found.append((detail["name"], (value.astype(np.float32) - zero) * scale if scale else value))
    return found
