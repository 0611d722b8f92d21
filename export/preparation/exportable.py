"""The Keras model that is exported: checked, with known inputs, in float32, and with names for its signature."""

import inspect
import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.utils.keras_internals import all_layers, held_variables

from ..tflite.quantize import Precision

# A flatbuffer's offsets are 32 bits with a sign.
MAX_FILE_BYTES = 2**31
BYTES_PER_WEIGHT = {None: 4, "float16": 2, "dynamic": 1, "int8": 1}
# Names that the TFLite converter keeps as they are in a signature. With others it drops the signature.
_KEPT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_UNNAMED = re.compile(r"(keras_tensor|input_layer)(_\d+)?")
_FLOATS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


def check_exportable(model, precision: Precision) -> None:
    """Check that `model` is a built Keras 3 model on TensorFlow, with finite weights that fit into a file.

    Raises:
        ValueError: saying which of these does not hold and what to do.
    """
    if not isinstance(model, keras.Model):
        if any(cls.__module__.startswith(("tf_keras", "keras.src.engine")) for cls in type(model).__mro__):
            raise ValueError(
                "`model` must be a model of Keras 3. Received one of tf_keras, which is Keras 2. Save it with "
                'model.save("m.keras"), and load it with Keras 3: keras.models.load_model("m.keras").'
            )
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f'Export needs the TensorFlow backend. Received: "{keras.backend.backend()}". '
            "Save the model, and load it in a process with KERAS_BACKEND=tensorflow."
        )
    if not model.built:
        raise ValueError(f"Model '{model.name}' is not built. Give it a keras.Input, or call it on an input, first.")
    size = model.count_params() * BYTES_PER_WEIGHT[precision.name]
    if size >= MAX_FILE_BYTES:
        raise ValueError(
            f"Expected a model whose .tflite file stays below 2 GiB. '{model.name}' has {model.count_params():,} weights, "
            f"{size / 2**30:.1f} GiB in this precision. Quantize it, or make it smaller with replace_dense."
        )
    for layer in all_layers(model, include_self=False):
        variables = held_variables(layer)
        if any(variable.dtype != "string" and not np.all(np.isfinite(_as_numpy(variable))) for variable in variables):
            raise ValueError(
                f"Expected finite weights. The layer '{layer.name}' has weights that are NaN or infinite. Train the model "
                "again, at a lower learning rate for example."
            )


def in_float32(model: keras.Model) -> keras.Model:
    """Return `model`, or if layers of it compute in another precision a copy in float32 with the same weights.

    Raises:
        ValueError: if Keras cannot make the copy from the model's config.
    """
    other = [layer.name for layer in all_layers(model) if layer.compute_dtype in _FLOATS]
    if not other:
        return model
    try:
        copy = keras.saving.deserialize_keras_object(_float32_config(keras.saving.serialize_keras_object(model)))
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        pairs = list(zip(copy.variables, model.variables, strict=True))
    except Exception as error:  # configs of users' classes fail in their own ways
        raise ValueError(
            f"Export is in float32. The layers {other[:3]} compute in another precision, and Keras cannot make a copy of the "
            f'model from its config: {error}. Build the model with the dtype policy "float32", and give it these weights.'
        ) from error
    for new, old in pairs:
        new.assign(ops.cast(old, new.dtype))
    return copy


def with_inputs(model: keras.Model) -> keras.Model:
    """Return `model`, or for one of a user's class that takes a single input of known shape a functional model around it.

    Raises:
        ValueError: if the input shapes are not known.
    """
    if getattr(model, "inputs", None):
        return model
    # Keras notes the first argument's shape alone.
    single = len(set(inspect.signature(model.call).parameters) - {"training", "mask"}) == 1
    shape = (model.get_build_config() or {}).get("input_shape") if single else None
    if not shape or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(
            f"Model '{model.name}' does not know its input shapes. Wrap it: keras.Model(inputs, model(inputs)), with "
            "inputs = keras.Input(shape=...)."
        )
    inputs = keras.Input(shape[1:], dtype="float32", name="inputs")
    return keras.Model(inputs, model(inputs), name=model.name)


def input_specs(model: keras.Model, batch_size: int | None) -> list[tf.TensorSpec]:
    """Return shape, dtype and signature name of each input, in the order of `model.inputs`.

    Raises:
        ValueError: for an input of text, or of a shape that is not known but for the batch.
    """
    return [_spec(tensor, name, batch_size) for tensor, name in zip(model.inputs, input_names(model.inputs), strict=True)]


def input_names(tensors) -> tuple[str, ...]:
    """Return the names of the Keras inputs as the signature gets them.

    An input without a name of its own is "input_0" and so on. A name that a signature cannot hold, with letters outside ASCII
    for example, is changed as little as possible.
    """
    names: list[str] = []
    for index, tensor in enumerate(tensors):
        name = f"input_{index}" if _UNNAMED.fullmatch(tensor.name) else tensor.name
        if not _KEPT_NAME.fullmatch(name) or keyword.iskeyword(name) or name == "self":
            name = re.sub(r"\W", "_", name, flags=re.ASCII)
            name = name if name[:1].isalpha() and not keyword.iskeyword(name) and name != "self" else f"input_{name}"
        while _plain(name) in map(_plain, names):  # TensorFlow takes "a-b" and "a_b" for one name
            name += "_"
        names.append(name)
    return tuple(names)


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Return the keys of a model that returns a dict, else output_0, output_1, ..."""
    structure = model.outputs if isinstance(model, keras.Sequential) else model.output
    count = len(keras.tree.flatten(structure))
    # A plain dict is flattened in the order of its keys; other mappings keep an order of their own.
    if type(structure) is dict and len(structure) == count:
        return tuple(sorted(structure))
    return tuple(f"output_{index}" for index in range(count))


def _plain(name: str) -> str:
    return name.replace("-", "_")


@contextmanager
def unrolled(model: keras.Model) -> Iterator[None]:
    """While active, recurrent layers are traced step by step: TensorFlow cannot calibrate a loop for int8."""
    layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.RNN) and not layer.unroll]
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def gives_classes(model: keras.Model) -> bool:
    """Return whether the model is compiled with a loss of classes, so that its outputs are classes even if they are logits."""
    loss = getattr(model, "loss", None) if model.compiled else None
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or ""
    return "categorical_crossentropy" in str(name)


def _spec(tensor, name: str, batch_size: int | None) -> tf.TensorSpec:
    if tensor.dtype == "string":
        raise ValueError(
            f"Expected inputs of numbers. The input '{tensor.name}' is text, which TFLite's built-in operators cannot process. "
            "Export the part of the model after its text is turned into numbers."
        )
    shape = (batch_size, *tensor.shape[1:])
    if None in shape[1:]:
        raise ValueError(
            f"Expected input '{tensor.name}' to have a known shape but for the batch. Received: {tuple(tensor.shape)}. Build "
            'the model with a keras.Input of fixed shape; or call model.export(path, format="litert"), which keeps the axis '
            "open and leaves out the planning, the comparison and the measurement."
        )
    size = int(np.prod([axis or 1 for axis in shape])) * tf.as_dtype(tensor.dtype).size
    if size >= MAX_FILE_BYTES:
        raise ValueError(
            f"Expected a batch whose inputs stay below 2 GiB. '{tensor.name}' has {size / 2**30:,.1f} GiB with "
            f"batch_size={batch_size}. Choose a smaller batch."
        )
    return tf.TensorSpec(shape, tensor.dtype, name=name)


def _as_numpy(variable) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))


def _float32_config(config):
    """Return a serialised model with float32 in place of every other floating precision."""
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
    return "float32" if dtype in _FLOATS else dtype
