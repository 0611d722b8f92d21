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
        input_names, output_names: of its one signature, in the order in which the Keras model takes and gives them.
        parity: maximum and relative error against Keras, as measured on export.
        plan: per butterfly layer, what it was lowered to and what else was measured.
    """

    content: bytes = field(repr=False)
    operators: tuple[str, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
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
            The output array, or a list of them in the order of `output_names`.

        Raises:
            ValueError: for inputs whose number, names or shapes do not fit.
        """
        inputs = self._named(x)
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

    def _named(self, x) -> dict[str, np.ndarray]:
        if not isinstance(x, dict):
            values = x if isinstance(x, list | tuple) else [x]
            if len(values) != len(self.input_names):
                raise ValueError(f"Expected {len(self.input_names)} inputs, {self.input_names}. Received: {len(values)}")
            x = dict(zip(self.input_names, values, strict=True))
        if set(x) != set(self.input_names):
            raise ValueError(f"Expected the inputs {self.input_names}. Received: {tuple(x)}")
        return {name: np.asarray(value) for name, value in x.items()}


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
    tolerance = TOLERANCE if tolerance is None else positive_number(tolerance, "tolerance")
    inputs = _inputs(model)
    names = _input_names(inputs)
    specs = [_spec(tensor, name, batch_size) for tensor, name in zip(inputs, names, strict=True)]
    output_names = _output_names(model)

    def call(*values):
        outputs = keras.tree.flatten(model(_repack(model, values), training=False))
        return dict(zip(output_names, outputs, strict=True))

    layers = butterfly_layers(model, specs, call)
    plans = choose(layers, lowering, convert)
    with executions({layer: lower(layer, plan.lowering) for layer, plan in plans.items()}):
        content = convert(call, specs, [variable.value for variable in model.variables])
    operators = verify.check_builtin(content)
    parity = _parity(call, content, specs, tolerance)
    return TFLiteModel(content, operators, names, output_names, parity, tuple(plans.values()))


def convert(function: Callable, specs: Sequence[tf.TensorSpec], variables: Sequence[tf.Variable] = ()) -> bytes:
    """A TensorFlow function, which may read `variables`, to the bytes of a .tflite file of built-in operators.

    Raises:
        ValueError: naming the operators that TFLite has not built in.
    """
    concrete = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    owner = tf.Module()
    owner.weights = list(variables)  # what the function reads must be owned, or the converter drops the signature
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    # Never SELECT_TF_OPS: such a model converts, then fails to load where Flex is not linked in.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
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


def _parity(call: Callable, content: bytes, specs: Sequence[tf.TensorSpec], tolerance: float) -> Parity:
    rng = np.random.default_rng(0)
    interpreter = verify.load(content)
    batches = [{spec.name: _random(spec, rng) for spec in specs} for _ in range(PARITY_BATCHES)]
    expected = [call(*(tf.constant(value) for value in batch.values())) for batch in batches]
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


def _random(spec: tf.TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values; 0 and 1 for integers and booleans, which every embedding can look up."""
    dtype = spec.dtype.as_numpy_dtype
    if spec.dtype.is_floating:
        return rng.standard_normal(spec.shape).astype(dtype)
    return rng.integers(0, 2, spec.shape).astype(dtype)
