"""Finding the layer at which an int8 export begins to disagree with Keras."""

import re
from collections.abc import Sequence

import keras
import numpy as np

from keras_butterfly.utils.keras_internals import calls_in_graph

from .preparation.representative_data import Batch
from .tflite.parity import compare_outputs
from .tflite.runtime import dequantized, run
from .tflite.tensorflow_internals import interpreter_that_keeps_tensors


def first_wrong_layer(content: bytes, model: keras.Model, batch: Batch, tolerance: float) -> tuple[str, float] | None:
    """Return the name and the error of the first layer whose outputs in the file differ from Keras's by more than `tolerance`.

    The file's tensors are matched with the layers by name and shape. A layer that the converter merged with another one cannot
    be matched, nor can any layer of a model that is not functional.

    Args:
        content: the bytes of the .tflite file.
        model: the Keras model that was exported.
        batch: the inputs by the names of the file's signature, in the order of the model's inputs.
        tolerance: the largest permitted difference, relative to the largest output of the layer.

    Returns:
        The layer's name and its relative error, or None if no such layer is found.
    """
    layers = [layer for layer in getattr(model, "layers", ()) if _has_one_output(layer)]
    if not layers:
        return None
    every_output = keras.Model(model.inputs, {layer.name: layer.output for layer in layers})
    outputs = every_output(list(batch.values()), training=False)
    tensors = _tensor_values(content, batch)
    for layer in layers:
        expected = np.asarray(keras.ops.convert_to_numpy(outputs[layer.name]))
        # TensorFlow appends a number to the name of a layer that is traced a second time.
        name_pattern = re.compile(rf"(^|[/;]){re.escape(layer.name)}(_\d+)?/")
        matches = [value for name, value in tensors if name_pattern.search(name) and value.shape == expected.shape]
        if matches:
            error = compare_outputs([expected], [matches[-1]]).relative_error
            if error > tolerance:
                return layer.name, error
    return None


def _has_one_output(layer) -> bool:
    """Return whether a layer of a functional model was called once and returned one tensor of floats."""
    nodes = calls_in_graph(layer)
    single = len(nodes) == 1 and len(nodes[0].output_tensors) == 1
    return single and not isinstance(layer, keras.layers.InputLayer) and keras.backend.is_float_dtype(layer.output.dtype)


def _tensor_values(content: bytes, batch: Batch) -> Sequence[tuple[str, np.ndarray]]:
    """Run the file on one batch, and return the name and the values of each of its tensors. Int8 values are made floats."""
    interpreter = interpreter_that_keeps_tensors(content)
    interpreter.allocate_tensors()
    run(interpreter, batch)
    found = []
    for detail in interpreter.get_tensor_details():
        try:
            value = interpreter.get_tensor(detail["index"])
        except ValueError:  # The tensor is inside a part of the graph that XNNPACK runs.
            continue
        found.append((detail["name"], dequantized(value, detail)))
    return found
