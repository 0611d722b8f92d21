"""Keras model -> .tflite bytes, with the evidence that they are right."""

import inspect
import keyword
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_butterfly.execution import executions
from keras_butterfly.progress import Progress
from keras_butterfly.wiring import positive_integer, positive_number

from . import devices, verify
from .lowering import Layer, lower
from .model import TFLiteModel
from .naming import renamed
from .observe import observe
from .plan import LayerPlan, Planner, front
from .quantize import Precision, representative_batches, with_islands
from .verify import Parity, ParityError
from .wisdom import Wisdom
from .wisdom import wisdom as process_wisdom


def to_tflite(
    model: keras.Model,
    *,
    quantize: str | None = None,
    representative_data=None,
    integer_io: bool = False,
    lowering: str = "auto",
    effort: str = "measure",
    objective: str = "latency",
    batch_size: int | None = 1,
    tolerance: float | None = None,
    device: str | devices.Device = "host",
    wisdom: Wisdom | None = None,
    progress: bool | None = None,
) -> TFLiteModel:
    """Converts a built Keras model, of any layers that TFLite can express, to TFLite.

    Butterfly layers are lowered as `lowering` says, all others as TensorFlow does. The result holds built-in operators only
    and has been run: its outputs agree with those of Keras to `tolerance`.

    Args:
        model: a built model with known input shapes. One of your own class is taken as it is where it has one input, then of
            float32; wrap others: `keras.Model(inputs, model(inputs))`.
        quantize: None (default): float32. "float16": weights in float16, half the file. "dynamic": weights in int8, activations
            quantised while running. "int8": both in int8, by ranges seen on `representative_data`.
        representative_data: an array of typical inputs, (examples, ...), or for several inputs a list of arrays or a dict by
            name. Needed for "int8"; where given, errors are measured on it, else on random inputs.
        integer_io: with "int8", also take inputs and give outputs in int8. Default False: float32.
        lowering: "auto" (default): the best lowering of each butterfly layer by `objective`, in the precision asked for, among
            those whose error is within the tolerance; in int8 a layer may be kept in float32 where that is faster, or where
            int8 would be much less exact than a Dense's. "gather", "slice": stage by stage. "fused": block factors.
            "folded": thin matrices. "dense": the whole kernel.
        effort: "measure" (default): the promising lowerings of each layer are converted and timed. "estimate": the one with the
            lowest estimated cost is taken; nothing is timed, unless that one turns out not to be exact enough.
        objective: "latency" (default), or "size": the smallest file.
        batch_size: the batch the exported model takes; None: any, planned for 1.
        tolerance: largest permitted error, relative to the largest output value. Default 1e-4, for "float16" 0.01,
            "dynamic" 0.1, "int8" 0.25.
        device: where lowerings are timed: "host", this machine, or a `devices.Device`.
        wisdom: measurements made before, to use and to add to. Default: `export.wisdom`, those of this process.
        progress: show bars on stderr. Default: where it is a terminal.

    Returns:
        A `TFLiteModel`.

    Raises:
        ValueError: for a model that is not built or not exportable (the message names the operators that have no
            built-in counterpart), data that do not fit it, or an argument out of range.
        ParityError: if the export disagrees with Keras.
    """
    settings = _Settings(quantize, representative_data, integer_io, batch_size, tolerance, device, wisdom, progress)
    with settings.export(model, lowering, effort, objective) as exporter:
        return exporter.lowered(exporter.planner.plan(exporter.layers))


def pareto_front(
    model: keras.Model,
    *,
    quantize: str | None = None,
    representative_data=None,
    integer_io: bool = False,
    batch_size: int | None = 1,
    tolerance: float | None = None,
    device: str | devices.Device = "host",
    wisdom: Wisdom | None = None,
    progress: bool | None = None,
    most: int = 8,
) -> list[TFLiteModel]:
    """Exports of one model that trade latency for size: of those found no other one has less of both.

    The lowerings of every butterfly layer are measured, the smallest among them too; seconds and bytes are added up over the
    layers, and the combinations that none beats are exported, each compared with Keras; those that disagree are left out.

    Args:
        most: at most so many exports, evenly spread. The others are as for `to_tflite`.

    Returns:
        `TFLiteModel`s, the fastest first, each smaller than the one before.

    Raises:
        ValueError: as `to_tflite`.
        ParityError: if all disagree with Keras.
    """
    most = positive_integer(most, "most")
    settings = _Settings(quantize, representative_data, integer_io, batch_size, tolerance, device, wisdom, progress)
    exports: list[TFLiteModel] = []
    with settings.export(model, "auto", "measure", "size") as exporter:
        planner, seen = exporter.planner, exporter.layers
        plans = front(planner.plan(seen))
        for index in np.unique(np.linspace(0, len(plans) - 1, min(len(plans), most)).round().astype(int)):
            try:
                candidate = exporter.lowered(planner.with_errors(plans[index], seen))
            except ParityError as error:
                refused = error
                continue
            if not exports or candidate.size_bytes < exports[-1].size_bytes:  # layers share what a file has only once
                exports.append(candidate)
    if not exports:
        raise refused
    return exports


@dataclass(frozen=True)
class _Settings:
    """What `to_tflite` and `pareto_front` have in common; the fields are described there."""

    quantize: str | None
    representative_data: object
    integer_io: bool
    batch_size: int | None
    tolerance: float | None
    device: str | devices.Device
    wisdom: Wisdom | None
    progress: bool | None

    @contextmanager
    def export(self, model, lowering: str, effort: str, objective: str) -> Iterator["_Export"]:
        """The model on its way, while progress is shown."""
        batch_size = None if self.batch_size is None else positive_integer(self.batch_size, "batch_size")
        precision = Precision(self.quantize, self.integer_io)
        tolerance = precision.tolerance if self.tolerance is None else positive_number(self.tolerance, "tolerance")
        known = process_wisdom if self.wisdom is None else self.wisdom
        with Progress(self.progress) as bars:
            where = devices.find(self.device)
            planner = Planner(lowering, effort, objective, precision, tolerance, where, known, convert, bars)
            yield _Export(model, planner, self.representative_data, batch_size)


class _Export:
    """A model on its way: what it takes and gives, and the data it is calibrated and compared on.

    Raises:
        ValueError: as `to_tflite`.
    """

    def __init__(self, model, planner: Planner, data, batch_size: int | None):
        model = _with_inputs(model)
        inputs = model.inputs
        self.model, self.planner = model, planner
        self.input_names, self.output_names = _input_names(inputs), _output_names(model)
        self.specs = [_spec(tensor, name, batch_size) for tensor, name in zip(inputs, self.input_names, strict=True)]
        self.batches = representative_batches(data, self.specs, planner.precision)
        self.layers, self.expected = observe(model, self.specs, self.call, self.batches)

    def lowered(self, plans: dict[Layer, LayerPlan]) -> TFLiteModel:
        """The model with its butterfly layers as `plans` say, converted and compared with Keras."""
        precision, island = self.planner.precision, any(plan.lowering.island for plan in plans.values())
        variables = [variable.value for variable in self.model.variables]
        with executions({layer: lower(layer, plan.lowering) for layer, plan in plans.items()}):
            content = renamed(convert(self.call, self.specs, precision, self.batches, variables, island=island))
        operators = verify.check_builtin(content)
        if precision.name == "int8":
            verify.check_survives(content)
        interpreter = verify.load(content)
        parity = _parity(interpreter, self.batches, self.expected, self.planner.tolerance)
        partitions, names = verify.partitions(interpreter), (self.input_names, self.output_names)
        return TFLiteModel(content, operators, partitions, *names, precision, parity, tuple(plans.values()))

    def call(self, *values) -> dict:
        outputs = keras.tree.flatten(self.model(_repack(self.model, values), training=False))
        return dict(zip(self.output_names, outputs, strict=True))


def convert(
    function: Callable,
    specs: Sequence[tf.TensorSpec],
    precision: Precision = Precision(),  # noqa: B008 (frozen)
    batches: Sequence[dict[str, np.ndarray]] = (),
    variables: Sequence[tf.Variable] = (),
    island: bool = False,
) -> bytes:
    """A TensorFlow function, which may read `variables`, to the bytes of a .tflite file of built-in operators.

    `batches` of its inputs calibrate it where the precision is int8; with `island` some of its layers stay in float32 then.

    Raises:
        ValueError: naming the operators that TFLite has not built in.
    """
    concrete = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    if precision.name == "int8" and any("While" in operation.type for operation in concrete.graph.get_operations()):
        raise ValueError(
            "Expected a model without loops, which TensorFlow cannot calibrate for int8. Received one with a recurrent layer "
            'that is not unrolled. Build that layer with unroll=True, or take quantize="dynamic".'
        )
    owner = tf.Module()
    owner.weights = list(variables)  # what the function reads must be owned, or the converter drops the signature
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    precision.configure(converter, batches, island)
    try:
        with _quiet():
            content = converter.convert()
            return with_islands(content, precision) if island else content
    except Exception as error:
        # The converter raises several private types; whichever, the reader needs the operators it stopped at.
        raise ValueError(
            f"Expected layers that TFLite's built-in operators can express. {_complaint(error)} Replace the layers concerned."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TensorFlow's notes on the temporary folders that its converter writes and on the interpreter that it calibrates
    with."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _complaint(error: Exception) -> str:
    """The operators that the converter names, or else its first words, without its MLIR dump."""
    named = re.findall(r"(?:Custom|TF Select|Flex) ops: ([^\n]+)", str(error))
    if named:
        return f"There is none for: {', '.join(named)}."
    return f"The converter says: {str(error).splitlines()[0]}"


def _with_inputs(model) -> keras.Model:
    """`model`, or for one of a user's class that takes a single input of known shape a functional model around it.

    Raises:
        ValueError: for a model that cannot be exported.
    """
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


def _input_names(tensors) -> tuple[str, ...]:
    """The names of the Keras inputs, made into distinct Python identifiers, as a signature needs them."""
    names: list[str] = []
    for tensor in tensors:
        name = re.sub(r"\W", "_", tensor.name)
        while not name.isidentifier() or keyword.iskeyword(name) or name in ("self", *names):
            name = f"{name}_" if name[:1].isidentifier() else f"input_{name}"
        names.append(name)
    return tuple(names)


def _spec(tensor, name: str, batch_size: int | None) -> tf.TensorSpec:
    shape = (batch_size, *tensor.shape[1:])
    if None in shape[1:]:
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


def _parity(
    interpreter: verify.Interpreter,
    batches: Sequence[dict[str, np.ndarray]],
    results: Sequence[dict[str, np.ndarray]],
    tolerance: float,
) -> Parity:
    expected, actual = verify.joined(results), verify.run_all(interpreter, batches)
    broken = [name for name, value in expected.items() if not np.all(np.isfinite(value))]
    if broken:
        raise ParityError(
            f"Keras itself gives values that are not finite in {broken}, against which nothing can be proven. "
            "Check the model's weights."
        )
    parity = verify.compare_outputs(list(expected.values()), [actual[name] for name in expected])
    if not parity.relative_error <= tolerance:
        raise ParityError(
            f"The exported model disagrees with Keras: relative error {parity.relative_error:.3g}, maximum error "
            f"{parity.max_error:.3g}. Expected at most tolerance={tolerance:g}. Nothing was returned."
        )
    return parity
