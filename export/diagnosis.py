"""Finding the layer at which an int8 export begins to disagree with Keras."""

import re
from collections.abc import Sequence

import keras
import numpy as np

from keras_butterfly.utils.keras_internals import calls_in_graph
from keras_butterfly.utils.quiet import silent_libraries

from .preparation.exportable import output_names
from .preparation.representative_data import Batch
from .tflite.parity import compare_outputs
from .tflite.runtime import dequantized, run
from .tflite.tensorflow_internals import interpreter_that_keeps_tensors

# So many batches are looked at, and fewer if the outputs of the layers have more bytes. More take long for a layer that is
# wrong on few examples only.
MAX_COMPARED_BATCHES, MAX_BYTES = 32, 2**28


def where_it_goes_wrong(content: bytes, model: keras.Model, batches: Sequence[Batch], tolerance: float) -> str:
    """Return a sentence that names the first layer whose outputs in the file differ from Keras's by more than `tolerance`.

    If there is none, the sentence says why.

    Args:
        content: the bytes of the .tflite file.
        model: the Keras model that was exported.
        batches: the inputs by the names of the file's signature, in the order of the model's inputs.
        tolerance: the largest permitted difference, relative to the largest output of the layer.
    """
    wrong = first_wrong_layer(content, model, batches, tolerance)
    if wrong is None:
        return (
            "No layer can be named: the converter merged those that go wrong, or they are inside a model of a user's class, or "
            "they are right on the first batches."
        )
    return f"The first layer to go wrong is '{wrong[0]}', off by {wrong[1]:.2g}."


def first_wrong_layer(
    content: bytes, model: keras.Model, batches: Sequence[Batch], tolerance: float
) -> tuple[str, float] | None:
    """Return the name and the error of the first layer whose outputs in the file differ from Keras's by more than `tolerance`.

    The file's tensors are matched with the layers by name and shape. A layer that the converter merged with another one cannot
    be matched, nor can any layer of a model that is not functional.

    Args:
        content: the bytes of the .tflite file.
        model: the Keras model that was exported.
        batches: the inputs by the names of the file's signature, in the order of the model's inputs.
        tolerance: the largest permitted difference, relative to the largest output of the layer.

    Returns:
        The layer's name and its relative error, or None if no such layer is found.
    """
    outputs_of = {layer.name: tensor for layer in getattr(model, "layers", ()) if (tensor := _only_output(layer)) is not None}
    if not outputs_of:
        return None
    every_output = keras.Model(model.inputs, outputs_of)
    expected: list[dict[str, np.ndarray]] = []
    size = 0
    for batch in batches[:MAX_COMPARED_BATCHES]:
        outputs = every_output(list(batch.values()), training=False)
        expected.append({name: np.asarray(keras.ops.convert_to_numpy(output)) for name, output in outputs.items()})
        size += sum(output.nbytes for output in expected[-1].values())
        if size > MAX_BYTES:
            break
    batches = batches[: len(expected)]
    tensors, file_outputs = _tensor_values(content, batches)
    layer_of = {id(tensor): layer for layer, tensor in outputs_of.items()}
    for tensor, name in zip(model.outputs, output_names(model), strict=True):
        if id(tensor) in layer_of:  # The file names this tensor after the output.
            tensors.append((f"{layer_of[id(tensor)]}/", file_outputs[name]))
    for layer in outputs_of:
        wanted = [outputs[layer] for outputs in expected]
        # TensorFlow appends a number to the name of a layer that is traced a second time.
        name_pattern = re.compile(rf"(^|[/;]){re.escape(layer)}(_\d+)?/")
        matches = [values for name, values in tensors if name_pattern.search(name) and values[0].shape == wanted[0].shape]
        if matches:
            error = compare_outputs([np.concatenate(wanted)], [np.concatenate(matches[-1])]).relative_error
            if error > tolerance:
                return layer, error
    return None


def _only_output(layer):
    """Return what a layer of a functional model gives if it was called once and gave one tensor of floats, else None.

    That is not `layer.output` if the layer is a model: its `output` belongs to its own graph.
    """
    nodes = calls_in_graph(layer)
    if isinstance(layer, keras.layers.InputLayer) or len(nodes) != 1 or len(nodes[0].output_tensors) != 1:
        return None
    (tensor,) = nodes[0].output_tensors
    return tensor if keras.backend.is_float_dtype(tensor.dtype) else None


def _tensor_values(
    content: bytes, batches: Sequence[Batch]
) -> tuple[list[tuple[str, list[np.ndarray]]], dict[str, list[np.ndarray]]]:
    """Return the name of each tensor of the file with its values on each batch, and the outputs by name on each batch.

    Int8 values are made floats.
    """
    interpreter = interpreter_that_keeps_tensors(content)
    with silent_libraries():
        interpreter.allocate_tensors()
    found: dict[int, tuple[str, list[np.ndarray]]] = {}
    outputs: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        for name, value in run(interpreter, batch).items():
            outputs.setdefault(name, []).append(value)
        for detail in interpreter.get_tensor_details():
            try:
                value = interpreter.get_tensor(detail["index"])
            except ValueError:  # The tensor is inside a part of the graph that XNNPACK runs.
                continue
            found.setdefault(detail["index"], (detail["name"], []))[1].append(dequantized(value, detail))
    return list(found.values()), outputs
