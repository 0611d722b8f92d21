"""Preparing a Keras model for the export: the checks, its copy in float32, and the names and shapes of its signature."""

import inspect
import keyword
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.compression.dense_map import why_not_dense
from keras_butterfly.compression.selection import candidates_of
from keras_butterfly.utils.keras_internals import all_layers, calls_in_graph
from keras_butterfly.utils.labels import loss_name
from keras_butterfly.utils.model_checks import check_finite_weights, check_model
from keras_butterfly.utils.validation import reason_of

from ..tflite.parity import Decision
from ..tflite.quantize import Precision

# The offsets in a flatbuffer are signed integers of 32 bits.
MAX_FILE_BYTES = 2**31
BYTES_PER_WEIGHT = {None: 4, "float16": 2, "dynamic": 1, "int8": 1}
# The input names with which the TFLite converter keeps the signature. With any other name it drops the signature.
_VALID_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# The names that Keras gives to inputs whose name the user left out.
_AUTOMATIC_NAME = re.compile(r"(keras_tensor|input_layer)(_\d+)?")
_OTHER_FLOATS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


def check_exportable(model, precision: Precision) -> None:
    """Check that `model` is a built model of Keras 3 on TensorFlow, and that its weights are finite and fit into a file.

    Raises:
        ValueError: if it is not. The message says what to do.
    """
    check_model(model)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f'Expected Keras on the TensorFlow backend. Received: "{keras.backend.backend()}". '
            "Save the model, and load it in a process with KERAS_BACKEND=tensorflow."
        )
    size = model.count_params() * BYTES_PER_WEIGHT[precision.name]
    if size >= MAX_FILE_BYTES:
        raise ValueError(
            f"Expected a model whose .tflite file stays below 2 GiB. '{model.name}' has {model.count_params():,} weights, "
            f"{size / 2**30:.1f} GiB in this precision. {_how_to_shrink(model)}"
        )
    stateful = [layer.name for layer in all_layers(model) if isinstance(layer, keras.layers.RNN) and layer.stateful]
    if stateful:
        raise ValueError(
            f"Expected layers without a state between calls, which a file cannot keep. Received stateful ones: {stateful}. "
            "Build the model with stateful=False, and give it these weights."
        )
    check_finite_weights(model)


def _is_of_keras(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.split(".")[0] == "keras"


def _how_to_shrink(model: keras.Model) -> str:
    """Return advice on how a file of `model` can stay below 2 GiB."""
    fitting = [name for name, size in BYTES_PER_WEIGHT.items() if name and model.count_params() * size < MAX_FILE_BYTES]
    dense = sum(layer.count_params() for _, layer in candidates_of(model) if why_not_dense(layer) is None)
    if fitting:
        return f'Give quantize="{fitting[0]}".'
    small_enough = (model.count_params() - dense) * BYTES_PER_WEIGHT["int8"] < MAX_FILE_BYTES
    return "Make it smaller with replace_dense." if small_enough else "Divide it into several models."


def in_float32(model: keras.Model) -> keras.Model:
    """Return `model` itself if it computes in float32, else a copy in float32 with the same weights.

    Raises:
        ValueError: if Keras cannot make the copy from the model's config.
    """
    other = [layer.name for layer in all_layers(model) if layer.compute_dtype in _OTHER_FLOATS]
    if not other:
        return model
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)  # An export needs no loss, and Keras may not find the user's.
        # The classes of the model itself need not be registered.
        classes = {type(layer).__name__: type(layer) for layer in all_layers(model) if not _is_of_keras(layer)}
        copy = keras.saving.deserialize_keras_object(_float32_config(config), custom_objects=classes)
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        pairs = list(zip(copy.variables, model.variables, strict=True))
    except Exception as error:  # The config of a user's class may raise any exception.
        functions = [layer.name for layer in all_layers(model) if type(layer) is keras.layers.Lambda]
        reason = (
            f"Keras copies no Lambda layers, such as '{functions[0]}'"
            if functions and "Lambda" in str(error)
            else reason_of(error)
        )
        raise ValueError(
            "Expected a model in float32, or one that Keras can copy from its config. "
            f"The layers {other[:3]} compute in another precision, and the copy failed: {reason}. "
            'Build the model with the dtype policy "float32", and give it these weights.'
        ) from error
    for new, old in pairs:
        new.assign(ops.cast(old, new.dtype))
    return copy


def with_inputs(model: keras.Model) -> keras.Model:
    """Return `model` itself if it has symbolic inputs, else a functional model that calls it.

    A model of a user's class has no symbolic inputs. It can be called if it takes a single input whose shape is known.

    Raises:
        ValueError: if the model takes several inputs, or the shape of its input is not known.
    """
    if getattr(model, "inputs", None):
        return model
    # `get_build_config` has the shape of the first argument only.
    single = len(set(inspect.signature(model.call).parameters) - {"training", "mask"}) == 1
    shape = (model.get_build_config() or {}).get("input_shape") if single else None
    if not shape or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(
            f"Expected a model with known input shapes. Those of '{model.name}' are not known. "
            "Wrap it: keras.Model(inputs, model(inputs)), with inputs = keras.Input(shape=...)."
        )
    inputs = keras.Input(shape[1:], dtype="float32", name="inputs")
    return keras.Model(inputs, model(inputs), name=model.name)


def input_specs(model: keras.Model, batch_size: int | None) -> list[tf.TensorSpec]:
    """Return the shape, dtype and signature name of each input, in the order of `model.inputs`.

    Args:
        model: a model with symbolic inputs.
        batch_size: the size of the batch axis. None: any.

    Raises:
        ValueError: if an input is text, is too large, or has an unknown size in another axis than the batch.
    """
    names = input_names(model.inputs)
    if any(isinstance(layer, keras.layers.RNN) for layer in all_layers(model)):
        advice = "Build the model for sequences of one length: keras.Input((steps, features)), and pad or cut them."
    else:
        advice = (
            'Build the model with a keras.Input of fixed shape. Or call model.export(path, format="litert"), which keeps the '
            "axis open and leaves out the planning, the comparison and the measurement."
        )
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"Expected the input '{tensor.name}' to have a known shape but for the batch. Received: {tuple(tensor.shape)}. "
                f"{advice} The weights fit: new.set_weights(model.get_weights())."
            )
    return [_spec(tensor, name, batch_size) for tensor, name in zip(model.inputs, names, strict=True)]


def input_names(tensors) -> tuple[str, ...]:
    """Return the names that the inputs of a Keras model get in the signature.

    An input that the user gave no name is called "input_0", "input_1" and so on by its position. A name that a signature cannot
    hold, for example with letters outside ASCII, is changed as little as possible.

    Args:
        tensors: the symbolic inputs of the model.
    """
    names: list[str] = []
    for index, tensor in enumerate(tensors):
        name = f"input_{index}" if _AUTOMATIC_NAME.fullmatch(tensor.name) else tensor.name
        if not _is_valid_name(name):
            name = re.sub(r"\W", "_", name, flags=re.ASCII)
            name = name if _is_valid_name(name) else f"input_{name}"
        while _as_compared(name) in map(_as_compared, names):
            name += "_"
        names.append(name)
    return tuple(names)


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Return the names of the outputs: the keys if the model returns a dict, else "output_0", "output_1" and so on."""
    structure = model.outputs if isinstance(model, keras.Sequential) else model.output
    count = len(keras.tree.flatten(structure))
    # Keras sorts the keys of a plain dict when it flattens an output, but not the keys of other mappings.
    if type(structure) is dict and len(structure) == count:
        return tuple(sorted(structure))
    return tuple(f"output_{index}" for index in range(count))


def _is_valid_name(name: str) -> bool:
    """Return whether an input of this name keeps its name in a signature."""
    return bool(_VALID_NAME.fullmatch(name)) and not keyword.iskeyword(name) and name != "self"


def _as_compared(name: str) -> str:
    """Return a name as TensorFlow compares it: "a-b", "a_b" and "A_b" are one name there."""
    return name.replace("-", "_").lower()


@contextmanager
def unrolled(model: keras.Model) -> Iterator[None]:
    """Unroll the recurrent layers of `model` until the `with` block ends.

    TensorFlow cannot calibrate a loop for int8, and TFLite has no loop whose batch is open.
    """
    layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.RNN) and not layer.unroll]
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def decisions(model: keras.Model, names: Sequence[str], loss=None) -> list[Decision | None]:
    """Return for each output how it decides about a class, by its loss or its last activation.

    Args:
        model: the model.
        names: the names of the outputs in the signature, as `output_names` returns them.
        loss: the loss, as `compile` takes it. None: that with which the model is compiled.
    """
    loss = model.loss if loss is None and model.compiled else loss
    tensors = list(getattr(model, "outputs", None) or [None] * len(names))
    return [_decision(model, *pair) for pair in zip(tensors, _losses(model, names, loss), strict=True)]


def _losses(model: keras.Model, names: Sequence[str], loss) -> list:
    """Return the loss for each output, None if there is none."""
    if isinstance(loss, dict):
        if len(loss) == len(names) == 1:
            return list(loss.values())
        of_keras = getattr(model, "output_names", None) or names
        return [loss.get(name, loss.get(keras_name)) for name, keras_name in zip(names, of_keras, strict=True)]
    if isinstance(loss, list | tuple):
        return list(loss) if len(loss) == len(names) else [None] * len(names)
    return [loss] * len(names)


def _decision(model: keras.Model, tensor, loss) -> Decision | None:
    """Return how one output decides about a class, or None if that is not known."""
    name = loss_name(loss)
    if "categorical_crossentropy" in name:
        return "largest"
    if name == "binary_crossentropy" and getattr(loss, "from_logits", False):
        return "positive"
    return "half" if name == "binary_crossentropy" or (not name and _is_sigmoid(model, tensor)) else None


def _is_sigmoid(model: keras.Model, tensor) -> bool:
    """Return whether an output of a Sequential or functional model comes from a layer with the activation sigmoid."""
    return any(
        getattr(layer, "activation", None) is keras.activations.sigmoid
        and any(output is tensor for node in calls_in_graph(layer) for output in node.output_tensors)
        for layer in getattr(model, "layers", ())
    )


def _spec(tensor, name: str, batch_size: int | None) -> tf.TensorSpec:
    """Return the shape and dtype of one input under the name that it gets in the signature.

    Raises:
        ValueError: as `input_specs`.
    """
    if tensor.dtype == "string":
        raise ValueError(
            f"Expected inputs of numbers. The input '{tensor.name}' is text, which TFLite's built-in operators cannot process. "
            "Export the part of the model after its text is turned into numbers."
        )
    shape = (batch_size, *tensor.shape[1:])
    size = int(np.prod([axis or 1 for axis in shape])) * tf.as_dtype(tensor.dtype).size
    if size >= MAX_FILE_BYTES:
        raise ValueError(
            f"Expected a batch whose inputs stay below 2 GiB. '{tensor.name}' has {size / 2**30:,.1f} GiB with "
            f"batch_size={batch_size}. Choose a smaller batch."
        )
    return tf.TensorSpec(shape, tensor.dtype, name=name)


def _float32_config(config):
    """Return the config of a model with every other floating precision replaced by float32.

    Args:
        config: what `keras.saving.serialize_keras_object` returned, or any part of it.
    """
    if isinstance(config, dict):
        changed = {key: _float32_config(value) for key, value in config.items()}
        if isinstance(config.get("class_name"), str) and config["class_name"].endswith("DTypePolicy"):
            changed["config"] = {**changed["config"], "name": _float32_name(changed["config"].get("name"))}
        if "dtype" in config:
            changed["dtype"] = _float32_name(changed["dtype"])
        return changed
    if isinstance(config, list | tuple):
        return type(config)(_float32_config(value) for value in config)
    return config


def _float32_name(dtype):
    """Return "float32" for the name of another floating dtype or policy, and any other value as it is."""
    return "float32" if dtype in _OTHER_FLOATS else dtype
