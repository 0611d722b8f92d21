"""Keras model -> .tflite bytes, with the evidence that they are right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_butterfly.execution import executions
from keras_butterfly.wiring import positive_integer

from . import files, verify
from .lowering import lower
from .plan import LayerPlan, butterfly_layers, check_lowering, choose
from .verify import Parity, ParityError

# Round-off of float32 sums taken in another order, relative to the largest output; measured errors are below 1e-5.
TOLERANCE = 1e-4
# Batches of random inputs that every export is compared on.
PARITY_BATCHES = 4


@dataclass(frozen=True)
class TFLiteModel:
    """An exported model with its evidence.

    Attributes:
        content: the bytes of the .tflite file.
        operators: names of its operators, in the order of execution; all built in.
        parity: maximum and relative error against Keras, as measured on export.
        plan: per butterfly layer, what it was lowered to and what else was measured.
    """

    content: bytes
    operators: tuple[str, ...]
    parity: Parity
    plan: tuple[LayerPlan, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def predict(self, x):
        """Runs the model in the stock runtime.

        Args:
            x: array, or a list of arrays for several inputs, of any number of examples; they are run in batches of
                the exported batch size, the last one padded.

        Returns:
            The output array, or a list of them.

        Raises:
            ValueError: for the wrong number of inputs, or examples of the wrong shape.
        """
        inputs = [np.asarray(value) for value in (x if isinstance(x, list | tuple) else [x])]
        interpreter = verify.load(self.content)
        batch = int(interpreter.get_input_details()[0]["shape"][0])
        examples = len(inputs[0]) if inputs[0].ndim else 0
        if not examples or any(value.ndim == 0 or len(value) != examples for value in inputs):
            raise ValueError(
                f"Expected at least one example, as many in every input. Received shapes: {[value.shape for value in inputs]}"
            )
        results = []
        for start in range(0, examples, batch):
            part = [value[start : start + batch] for value in inputs]
            missing = batch - len(part[0])
            padded = [np.concatenate([value, np.repeat(value[:1], missing, axis=0)]) for value in part]
            results.append([output[: batch - missing] for output in verify.run(interpreter, padded)])
        outputs = [np.concatenate(column) for column in zip(*results, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def save(self, path, overwrite: bool = False) -> Path:
        """Writes the .tflite file, whole or not at all.

        Raises:
            ValueError: if the file exists and `overwrite` is False, or its folder does not.
        """
        return files.write(path, self.content, overwrite)


def to_tflite(
    model: keras.Model, *, lowering: str = "auto", batch_size: int = 1, tolerance: float | None = None
) -> TFLiteModel:
    """Converts a built Keras model, of any layers that TFLite can express, to float32 TFLite.

    Butterfly layers are lowered as `lowering` says, all others as TensorFlow does. The result holds built-in operators only
    and has been run: its outputs agree with those of Keras on random inputs to `tolerance`.

    Args:
        model: a Sequential or functional model with known input shapes. Wrap a subclassed one:
            `keras.Model(inputs, model(inputs))`.
        lowering: "auto" (default): measures the sensible lowerings of each butterfly layer on this machine and takes the
            fastest. "gather": stage by stage. "fused": block factors. "folded": thin matrices. "dense": the whole kernel.
        batch_size: the batch the exported model takes.
        tolerance: largest permitted error, relative to the largest output value. Default 1e-4.

    Returns:
        A `TFLiteModel`.

    Raises:
        ValueError: for a model that is not built or not exportable (the message names the operators that have no
            built-in counterpart), or an argument out of range.
        ParityError: if the export disagrees with Keras.
    """
    check_lowering(lowering)
    batch_size = positive_integer(batch_size, "batch_size")
    tolerance = TOLERANCE if tolerance is None else _positive(tolerance, "tolerance")
    inputs = _inputs(model)
    specs = [_spec(tensor, batch_size) for tensor in inputs]

    def call(*values):
        return keras.tree.flatten(model(_repack(model, values), training=False))

    layers = butterfly_layers(model, specs, call)
    plans = choose(layers, lowering, convert)
    with executions({layer: lower(layer, plan.lowering) for layer, plan in plans.items()}):
        content = convert(call, specs)
    operators = verify.check_builtin(content)
    return TFLiteModel(content, operators, _parity(call, content, specs, tolerance), tuple(plans.values()))


def convert(function: Callable, specs: Sequence[tf.TensorSpec]) -> bytes:
    """A TensorFlow function to the bytes of a .tflite file of built-in operators.

    Raises:
        ValueError: naming the operators that TFLite has not built in.
    """
    concrete = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    # Never SELECT_TF_OPS: such a model converts, then fails to load where Flex is not linked in.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return converter.convert()
    except Exception as error:
        # The converter raises several private types; whichever, the reader needs the operators it stopped at.
        raise ValueError(f"The model holds what TFLite's built-in operators cannot express. {_complaint(error)}") from error


def _complaint(error: Exception) -> str:
    """The converter's own words, without its MLIR dump."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if "ops:" in line or line.startswith("error:") or "failed to legalize" in line]
    return " ".join(dict.fromkeys(telling or lines[:1]))


def _inputs(model) -> list:
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f'Export needs the TensorFlow backend. Received: "{keras.backend.backend()}". '
            "Save the model, and load it in a process with KERAS_BACKEND=tensorflow."
        )
    if not model.built:
        raise ValueError(f"Model '{model.name}' is not built. Give it a keras.Input, or call it on an input, first.")
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ValueError(
            f"Model '{model.name}' does not know its input shapes. Wrap it: keras.Model(inputs, model(inputs)), with "
            "inputs = keras.Input(shape=...)."
        )
    return inputs


def _spec(tensor, batch_size: int) -> tf.TensorSpec:
    shape = (batch_size, *tensor.shape[1:])
    if None in shape:
        raise ValueError(
            f"Expected input '{tensor.name}' to have a known shape but for the batch. Received: {tuple(tensor.shape)}. "
            "Build the model with a keras.Input of fixed shape."
        )
    return tf.TensorSpec(shape, tensor.dtype, name=tensor.name)


def _repack(model, values):
    """`values`, in the order of `model.inputs`, in the structure that the model was built with."""
    if isinstance(model, keras.Sequential):
        return values[0]
    return keras.tree.pack_sequence_as(model.input, list(values))


def _parity(call: Callable, content: bytes, specs: Sequence[tf.TensorSpec], tolerance: float) -> Parity:
    rng = np.random.default_rng(0)
    interpreter = verify.load(content)
    expected, actual = [], []
    for _ in range(PARITY_BATCHES):
        values = [_random(spec, rng) for spec in specs]
        expected.append([np.asarray(output) for output in call(*(tf.constant(value) for value in values))])
        actual.append(verify.run(interpreter, values))
    join = lambda batches: [np.concatenate([np.atleast_1d(v) for v in column]) for column in zip(*batches, strict=True)]  # noqa: E731
    parity = verify.compare_outputs(join(expected), join(actual))
    if not parity.relative_error <= tolerance:
        raise ParityError(
            f"The exported model disagrees with Keras: relative error {parity.relative_error:.3g}, maximum error "
            f"{parity.max_error:.3g}. Expected at most tolerance={tolerance:g}. Nothing was returned."
        )
    return parity


def _random(spec: tf.TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values; 0 and 1 for integers and booleans, which every embedding can look up."""
    dtype = spec.dtype.as_numpy_dtype
    if spec.dtype.is_floating:
        return rng.standard_normal(spec.shape).astype(dtype)
    return rng.integers(0, 2, spec.shape).astype(dtype)


def _positive(value, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"`{name}` must be a positive number. Received: {name}={value!r}")
    return float(value)
