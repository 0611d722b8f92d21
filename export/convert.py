"""Keras model -> .tflite bytes, with the evidence that they are right."""

import keyword
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_butterfly.execution import executions
from keras_butterfly.wiring import positive_integer, positive_number

from . import files, verify
from .lowering import lower
from .plan import LayerPlan, butterfly_layers, check_lowering, choose
from .quantize import Precision, by_name, representative_batches
from .verify import Parity, ParityError


@dataclass(frozen=True)
class TFLiteModel:
    """An exported model with its evidence.

    Attributes:
        content: the bytes of the .tflite file.
        operators: names of its operators, in the order of execution; all built in.
        input_names, output_names: of its one signature, in the order in which the Keras model takes and gives them.
        precision: of its weights and activations.
        parity: maximum and relative error against Keras, as measured on export, on the representative data where given.
        plan: per butterfly layer, what it was lowered to and what else was measured.
    """

    content: bytes = field(repr=False)
    operators: tuple[str, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    precision: Precision
    parity: Parity
    plan: tuple[LayerPlan, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def predict(self, x):
        """Runs the model in the stock runtime.

        Args:
            x: array, or for several inputs a list of arrays or a dict by input name, of any number of examples; they are run
                in batches of the exported batch size, the last one padded.

        Returns:
            The output array, or a list of them in the order of `output_names`; in float also where the model's are int8.

        Raises:
            ValueError: for inputs whose number, names or shapes do not fit.
        """
        inputs = by_name(x, self.input_names)
        interpreter = verify.load(self.content)
        batch = int(interpreter.get_input_details()[0]["shape"][0])
        examples = {len(value) if value.ndim else 0 for value in inputs.values()}
        if len(examples) != 1 or 0 in examples:
            shapes = {name: value.shape for name, value in inputs.items()}
            raise ValueError(f"Expected at least one example, as many in every input. Received shapes: {shapes}")
        results = []
        for start in range(0, examples.pop(), batch):
            part = {name: value[start : start + batch] for name, value in inputs.items()}
            count = len(next(iter(part.values())))
            padded = {name: np.concatenate([v, np.repeat(v[:1], batch - count, axis=0)]) for name, v in part.items()}
            outputs = verify.run(interpreter, padded)
            results.append([outputs[name][:count] for name in self.output_names])
        joined = [np.concatenate(column) for column in zip(*results, strict=True)]
        return joined[0] if len(joined) == 1 else joined

    def save(self, path, overwrite: bool = False) -> Path:
        """Writes the .tflite file, whole or not at all.

        Raises:
            ValueError: if the file exists and `overwrite` is False, or its folder does not.
        """
        return files.write(path, self.content, overwrite)


def to_tflite(
    model: keras.Model,
    *,
    quantize: str | None = None,
    representative_data=None,
    integer_io: bool = False,
    lowering: str = "auto",
    batch_size: int = 1,
    tolerance: float | None = None,
) -> TFLiteModel:
    """Converts a built Keras model, of any layers that TFLite can express, to TFLite.

    Butterfly layers are lowered as `lowering` says, all others as TensorFlow does. The result holds built-in operators only
    and has been run: its outputs agree with those of Keras to `tolerance`.

    Args:
        model: a Sequential or functional model with known input shapes. Wrap a subclassed one:
            `keras.Model(inputs, model(inputs))`.
        quantize: None (default): float32. "float16": weights in float16, half the file. "dynamic": weights in int8, activations
            quantised while running. "int8": both in int8, by ranges seen on `representative_data`.
        representative_data: an array of typical inputs, (examples, ...), or for several inputs a list of arrays or a dict by
            name. Needed for "int8"; where given, errors are measured on it, else on random inputs.
        integer_io: with "int8", also take inputs and give outputs in int8. Default False: float32.
        lowering: "auto" (default): measures the sensible lowerings of each butterfly layer on this machine, in the precision
            asked for, and takes the fastest whose error is within the tolerance. "gather": stage by stage. "fused": block
            factors. "folded": thin matrices. "dense": the whole kernel.
        batch_size: the batch the exported model takes.
        tolerance: largest permitted error, relative to the largest output value. Default 1e-4, for "float16" 0.01,
            "dynamic" 0.1, "int8" 0.25.

    Returns:
        A `TFLiteModel`.

    Raises:
        ValueError: for a model that is not built or not exportable (the message names the operators that have no
            built-in counterpart), data that do not fit it, or an argument out of range.
        ParityError: if the export disagrees with Keras.
    """
    check_lowering(lowering)
    batch_size = positive_integer(batch_size, "batch_size")
    precision = Precision(quantize, integer_io)
    tolerance = precision.tolerance if tolerance is None else positive_number(tolerance, "tolerance")
    inputs = _inputs(model)
    names = _input_names(inputs)
    specs = [_spec(tensor, name, batch_size) for tensor, name in zip(inputs, names, strict=True)]
    batches = representative_batches(representative_data, specs, precision)
    output_names = _output_names(model)

    def call(*values):
        outputs = keras.tree.flatten(model(_repack(model, values), training=False))
        return dict(zip(output_names, outputs, strict=True))

    layers = butterfly_layers(model, specs, call)
    plans = choose(layers, lowering, precision, tolerance, lambda: _run(call, batches), convert)
    with executions({layer: lower(layer, plan.lowering) for layer, plan in plans.items()}):
        content = convert(call, specs, precision, batches, [variable.value for variable in model.variables])
    operators = verify.check_builtin(content)
    parity = _parity(call, content, batches, tolerance)
    return TFLiteModel(content, operators, names, output_names, precision, parity, tuple(plans.values()))


def convert(
    function: Callable,
    specs: Sequence[tf.TensorSpec],
    precision: Precision = Precision(),  # noqa: B008 (frozen)
    batches: Sequence[dict[str, np.ndarray]] = (),
    variables: Sequence[tf.Variable] = (),
) -> bytes:
    """A TensorFlow function, which may read `variables`, to the bytes of a .tflite file of built-in operators.

    `batches` of its inputs calibrate it where the precision is int8.

    Raises:
        ValueError: naming the operators that TFLite has not built in.
    """
    concrete = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    owner = tf.Module()
    owner.weights = list(variables)  # what the function reads must be owned, or the converter drops the signature
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    precision.configure(converter, batches)
    try:
        with _quiet():
            return converter.convert()
    except Exception as error:
        # The converter raises several private types; whichever, the reader needs the operators it stopped at.
        raise ValueError(
            f"Expected layers that TFLite's built-in operators can express. {_complaint(error)} Replace the layers concerned."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TensorFlow's notes on the temporary folders that its converter writes."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _complaint(error: Exception) -> str:
    """The operators that the converter names, or else its first words, without its MLIR dump."""
    named = re.findall(r"(?:Custom|TF Select|Flex) ops: ([^\n]+)", str(error))
    if named:
        return f"There is none for: {', '.join(named)}."
    return f"The converter says: {str(error).splitlines()[0]}"


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
    other = [layer.name for layer in model._flatten_layers() if layer.compute_dtype in ("float16", "bfloat16", "float64")]
    if other:
        raise ValueError(
            f"Export is in float32. Received layers that compute in another precision: {other}. Build the model anew "
            'from its config, which keeps every random subset, with the dtype policy "float32", and give it these weights.'
        )
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ValueError(
            f"Model '{model.name}' does not know its input shapes. Wrap it: keras.Model(inputs, model(inputs)), with "
            "inputs = keras.Input(shape=...)."
        )
    return inputs


def _input_names(tensors) -> tuple[str, ...]:
    """The names of the Keras inputs, made into distinct Python identifiers, as a signature needs them."""
    names: list[str] = []
    for tensor in tensors:
        name = re.sub(r"\W", "_", tensor.name)
        while not name.isidentifier() or keyword.iskeyword(name) or name in ("self", *names):
            name = f"{name}_" if name[:1].isidentifier() else f"input_{name}"
        names.append(name)
    return tuple(names)


def _spec(tensor, name: str, batch_size: int) -> tf.TensorSpec:
    shape = (batch_size, *tensor.shape[1:])
    if None in shape:
        raise ValueError(
            f"Expected input '{tensor.name}' to have a known shape but for the batch. Received: {tuple(tensor.shape)}. "
            "Build the model with a keras.Input of fixed shape."
        )
    return tf.TensorSpec(shape, tensor.dtype, name=name)


def _repack(model, values):
    """`values`, in the order of `model.inputs`, in the structure that the model was built with."""
    if isinstance(model, keras.Sequential):
        return values[0]
    return keras.tree.pack_sequence_as(model.input, list(values))


def _output_names(model) -> tuple[str, ...]:
    """The keys of a model that returns a dict, else output_0, output_1, ..."""
    structure = model.outputs if isinstance(model, keras.Sequential) else model.output
    count = len(keras.tree.flatten(structure))
    # A plain dict is flattened in the order of its keys; other mappings keep an order of their own.
    if type(structure) is dict and len(structure) == count:
        return tuple(sorted(structure))
    return tuple(f"output_{index}" for index in range(count))


def _run(call: Callable, batches: Sequence[dict[str, np.ndarray]]) -> list[dict]:
    """What Keras gives for each batch."""
    return [call(*(tf.constant(value) for value in batch.values())) for batch in batches]


def _parity(call: Callable, content: bytes, batches: Sequence[dict[str, np.ndarray]], tolerance: float) -> Parity:
    interpreter = verify.load(content)
    expected = _run(call, batches)
    actual = [verify.run(interpreter, batch) for batch in batches]

    def joined(results, name):
        return np.concatenate([np.atleast_1d(result[name]) for result in results])

    broken = [name for name in expected[0] if not np.all(np.isfinite(joined(expected, name)))]
    if broken:
        raise ParityError(
            f"Keras itself gives values that are not finite in {broken}, against which nothing can be proven. "
            "Check the model's weights."
        )
    parity = verify.compare_outputs(
        [joined(expected, name) for name in expected[0]], [joined(actual, name) for name in expected[0]]
    )
    if not parity.relative_error <= tolerance:
        raise ParityError(
            f"The exported model disagrees with Keras: relative error {parity.relative_error:.3g}, maximum error "
            f"{parity.max_error:.3g}. Expected at most tolerance={tolerance:g}. Nothing was returned."
        )
    return parity
