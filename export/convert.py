"""The export of a Keras model to TFLite, from its preparation to the proof that the file computes what Keras computes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.layers.override import override_affine
from keras_butterfly.utils.model_inputs import pack_inputs
from keras_butterfly.utils.model_walk import named_layers
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.quiet import warn_user, warnings_not_raised
from keras_butterfly.utils.validation import positive_integer, positive_number

from .diagnosis import where_it_goes_wrong
from .lowering import Dense, Layer, lower
from .measurement import devices
from .measurement.figures import amount
from .model import KerasInputs, TFLiteModel
from .planning.observe import observe
from .planning.plan import LayerPlan, pareto_plans
from .planning.planner import RUNS, WARMUP, Effort, LoweringKind, Objective, Planner, default_effort
from .planning.wisdom import Wisdom
from .planning.wisdom import wisdom as process_wisdom
from .preparation.exportable import (
    check_exportable,
    decisions,
    in_float32,
    input_specs,
    output_names,
    unrolled,
    with_inputs,
)
from .preparation.representative_data import Batch, RepresentativeBatches, representative_batches
from .tflite import runtime
from .tflite.converter import convert
from .tflite.naming import rename_tensors
from .tflite.operators import check_builtin
from .tflite.parity import Parity, ParityError, compare_outputs
from .tflite.quantize import Precision, Quantize

# A quantized file that takes this many times as long as one in float32 is slower beyond the noise.
SLOWER = 1.1
# How often more exact lowerings are tried after an export that disagrees with Keras.
MORE_EXACT = 2


def to_tflite(
    model: keras.Model,
    *,
    quantize: Quantize | None = None,
    representative_data=None,
    integer_io: bool = False,
    lowering: LoweringKind = "auto",
    effort: Effort | None = None,
    objective: Objective = "latency",
    batch_size: int | None = 1,
    tolerance: float | None = None,
    device: str | devices.Device = "host",
    wisdom: Wisdom | None = None,
    progress: bool | None = None,
) -> TFLiteModel:
    """Convert a built Keras model to TFLite.

    The model may have any layers that TFLite can express. Butterfly layers are written as `lowering` says, and all other layers
    as TensorFlow writes them. The file has built-in operators only. It is run before it is returned, and its outputs agree with
    those of Keras within `tolerance`.

    Args:
        model: a built model with known input shapes. A model of your own class is accepted if it has one input of float32. Wrap
            other ones: `keras.Model(inputs, model(inputs))`.
        quantize: None (default): float32. "float16": weights in float16, which halves the file. "dynamic": weights in int8, and
            activations are quantized while the file runs. "int8": both in int8, with the ranges that the activations have on
            `representative_data`.
        representative_data: typical inputs, as `model.predict` takes them; a dict by the inputs' names; a `tf.data.Dataset`, a
            generator, or a function that returns one, such as TFLite's `representative_dataset`. At most 200 batches are read.
            "int8" needs them, and holds a quarter back from calibration. Errors are measured on these data, for "int8" on the
            part held back. Without data, errors are measured on random inputs.
        integer_io: whether the inputs and outputs of an "int8" model are int8 too. Default False: they are float32.
        lowering: how butterfly layers are written in TFLite's operators. "auto" (default): for each layer the best way by
            `objective` whose error is within the tolerance. In "int8" and "dynamic" a layer may compute in float32 with its
            weights stored in int8, if that is faster, or if int8 would be much less exact than in a Dense. "gather" and
            "slice": stage by stage. "fused": block factors. "folded": thin matrices. "dense": the whole kernel.
        effort: "measure": the promising lowerings of each layer are converted and timed. "quick": about a third of them are.
            "estimate": the lowering with the lowest estimated cost is taken. Nothing is timed, unless that lowering turns out
            not to be exact enough. None (default): what the environment variable KERAS_BUTTERFLY_EFFORT says, or "measure".
        objective: "latency" (default): the smallest file among the lowerings within 5 % of the fastest. "size": the smallest
            file.
        batch_size: the number of examples that the file takes at once, by default 1. None: any number; lowerings are chosen for
            1.
        tolerance: the largest permitted error, relative to the largest output value. Default 1e-4, for "float16" 0.01, for
            "dynamic" 0.1, for "int8" 0.25.
        device: the device that measures lowerings, and for which they are chosen: "host", which is this machine; another name
            that `keras-butterfly devices` lists, such as "arm64"; or a `devices.Device`.
        wisdom: earlier measurements, which are used and to which new ones are added. Default: `export.wisdom`, those of this
            process.
        progress: whether to show progress on stderr. None (default): bars where stderr is a terminal, else lines.

    Returns:
        A `TFLiteModel`.

    Raises:
        ValueError: if the model is not built, if TFLite cannot express a layer (the message names the operators), if the data
            do not fit the model, or if an argument is out of range.
        ParityError: if the export disagrees with Keras, and goes on to do so with more exact lowerings.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), Butterfly(64, "relu", seed=0), keras.layers.Dense(10)])
        >>> exported = export.to_tflite(model, effort="estimate")
        >>> exported.predict(np.ones((3, 64), "float32")).shape
        (3, 10)
    """
    settings = _Settings(quantize, representative_data, integer_io, batch_size, tolerance, device, wisdom, progress)
    with settings.export(model, lowering, default_effort() if effort is None else effort, objective) as exporter:
        plans, tries_left = exporter.planner.plan(exporter.layers), MORE_EXACT
        while True:
            try:
                return exporter.lowered(plans)
            except ParityError as error:
                # Each layer is exact enough alone, but the errors of several layers add up.
                exact = {layer: plan.more_exact() for layer, plan in plans.items()}
                if not tries_left or exact == plans:
                    raise exporter.with_advice(error) from None
            plans, tries_left = exporter.planner.with_errors(exact, exporter.layers), tries_left - 1


def pareto_front(
    model: keras.Model,
    *,
    quantize: Quantize | None = None,
    representative_data=None,
    integer_io: bool = False,
    batch_size: int | None = 1,
    tolerance: float | None = None,
    device: str | devices.Device = "host",
    wisdom: Wisdom | None = None,
    progress: bool | None = None,
    most: int = 8,
) -> list[TFLiteModel]:
    """Return several exports of one model, from the fastest to the smallest.

    No export in the list is both slower and larger than another one. The lowerings of every butterfly layer are measured, also
    the smallest ones. Seconds and bytes are added up over the layers. The combinations that no other beats in both are
    exported, and each is compared with Keras. Exports that disagree with Keras are left out.

    Args:
        most: the largest number of exports. They are spread evenly from the fastest to the smallest. All other arguments are
            those of `to_tflite`.

    Returns:
        A list of `TFLiteModel`, the fastest first, each smaller than the one before.

    Raises:
        ValueError: as `to_tflite`.
        ParityError: if all exports disagree with Keras.

    Example:
        >>> model = keras.Sequential([keras.Input((16,)), Butterfly(seed=0)])
        >>> front = export.pareto_front(model, most=2)
        >>> sizes = [exported.size_bytes for exported in front]
        >>> sizes == sorted(sizes, reverse=True)
        True
    """
    most = positive_integer(most, "most")
    settings = _Settings(quantize, representative_data, integer_io, batch_size, tolerance, device, wisdom, progress)
    exports: list[TFLiteModel] = []
    effort = "quick" if default_effort() == "quick" else "measure"
    with settings.export(model, "auto", effort, "size") as exporter:
        planner, seen = exporter.planner, exporter.layers
        plans = pareto_plans(planner.plan(seen))
        for index in np.unique(np.linspace(0, len(plans) - 1, min(len(plans), most)).round().astype(int)):
            try:
                candidate = exporter.lowered(planner.with_errors(plans[index], seen))
            except ParityError as error:
                refused = error
                continue
            if not exports or candidate.size_bytes < exports[-1].size_bytes:  # layers share what a file has only once
                exports.append(candidate)
        if not exports:
            raise exporter.with_advice(refused) from None
    return exports


@dataclass(frozen=True)
class _Settings:
    """The arguments that `to_tflite` and `pareto_front` have in common. `to_tflite` describes them."""

    quantize: Quantize | None
    representative_data: object
    integer_io: bool
    batch_size: int | None
    tolerance: float | None
    device: str | devices.Device
    wisdom: Wisdom | None
    progress: bool | None

    @contextmanager
    def export(self, model, lowering: str, effort: str, objective: str) -> Iterator["_Export"]:
        """Check the arguments, and yield the export of `model` while progress is shown."""
        batch_size = None if self.batch_size is None else positive_integer(self.batch_size, "batch_size")
        precision = Precision(self.quantize, self.integer_io)
        tolerance = precision.tolerance if self.tolerance is None else positive_number(self.tolerance, "tolerance")
        known = process_wisdom if self.wisdom is None else self.wisdom
        with Progress(self.progress) as bars:
            where = devices.find(self.device)
            planner = Planner(lowering, effort, objective, precision, tolerance, where, known, bars)
            with warnings_not_raised():
                export = _Export(model, planner, self.representative_data, batch_size)
            if not isinstance(self.representative_data, RepresentativeBatches):
                for note in export.data.notes:
                    warn_user(note)
            with warnings_not_raised():
                yield export


class _Export:
    """One model prepared for its export: its inputs, outputs and representative data, and the inputs of its butterfly layers.

    Raises:
        ValueError: as `to_tflite`.
    """

    def __init__(self, model, planner: Planner, data, batch_size: int | None):
        self.original, self.planner = model, planner
        check_exportable(model, planner.precision)
        self.float32 = in_float32(model)
        self.model = with_inputs(self.float32)
        self.specs, self.output_names = input_specs(self.model, batch_size), output_names(self.model)
        self.decisions = decisions(self.original, self.output_names)
        prepared = isinstance(data, RepresentativeBatches)
        self.data = data if prepared else representative_batches(self.model, data, self.specs, planner.precision)
        self.layers, self.expected = self._observed()

    def _observed(self):
        """Return the inputs of each butterfly layer on all data, and Keras's outputs on the data that verify the export."""
        verification = self.data.verification
        others = [] if self.data.calibration is verification else list(self.data.calibration)
        layers, outputs = observe(self.model, self.specs, self.call, [*others, *verification])
        return layers, outputs[len(others) :]

    def lowered(self, plans: dict[Layer, LayerPlan]) -> TFLiteModel:
        """Convert the model with its butterfly layers as `plans` say, compare the file with Keras, and return the result."""
        content, plain = self._converted(plans)
        operators = check_builtin(content)
        if self.planner.precision.name == "int8":
            runtime.check_survives(content)
        interpreter = runtime.load(content)
        try:
            parity = self._proven_parity(interpreter)
        except ParityError as error:
            error.content = content
            raise
        partitions = runtime.partitions(interpreter)
        notes = (*self.data.notes, *_no_gain(plans, len(content)), *self._worse_than_float32(content, plain))
        return TFLiteModel(
            content=content,
            operators=operators,
            partitions=partitions,
            input_names=tuple(spec.name for spec in self.specs),
            output_names=self.output_names,
            precision=self.planner.precision,
            parity=parity,
            plan=_with_paths(plans, self.model),
            notes=notes,
            original_parity=self._original_parity(interpreter),
            keras_inputs=KerasInputs(
                tuple(tensor.name for tensor in self.model.inputs), pack_inputs(self.model, [spec.name for spec in self.specs])
            ),
        )

    def _converted(self, plans: dict[Layer, LayerPlan]) -> tuple[bytes, bytes | None]:
        """Return the file, and if the export is measured against one in float32, that file too."""
        precision, keep_float32 = self.planner.precision, any(plan.lowering.keep_float32 for plan in plans.values())
        variables = [variable.value for variable in self.model.variables]
        replaced = override_affine({layer: lower(layer, plan.lowering) for layer, plan in plans.items()})
        with replaced:
            with self._without_loops(precision):
                batches = self.data.calibration
                content = rename_tensors(convert(self.call, self.specs, precision, batches, variables, keep_float32))
            with self._without_loops(Precision()):
                return content, convert(self.call, self.specs, variables=variables) if self._weighs_float32 else None

    def with_advice(self, error: ParityError) -> ParityError:
        """Return the error of an export that was refused. That of an int8 export is given advice, which takes one more export.

        The advice says which layer goes wrong, and whether "dynamic" fits.
        """
        if self.planner.precision.name != "int8" or error.content is None:
            return error
        return ParityError(f"{error} {self._advice(error.content)}")

    def _advice(self, content: bytes) -> str:
        """Return advice on the int8 file `content`, which disagrees with Keras."""
        planner = self.planner
        advice = where_it_goes_wrong(content, self.model, self.data.verification, planner.tolerance)
        dynamic = Precision("dynamic")
        easier = replace(planner, precision=dynamic, tolerance=dynamic.tolerance, effort="estimate", objective="size")
        try:
            fits = _Export(self.original, easier, self.data, self.specs[0].shape[0])
            error = fits.lowered(easier.plan(fits.layers)).parity.relative_error
        except ValueError:
            return f"{advice} Give more typical data, or take float32."
        return f'{advice} quantize="dynamic" fits: it is off by {error:.2g}.'

    def _proven_parity(self, interpreter: runtime.Interpreter) -> Parity:
        """Return how far the export is from Keras on the data that verify it.

        Raises:
            ParityError: if an error is larger than the tolerance (the message names the worst output), or if Keras's results
                are not finite.
        """
        broken = [name for name, value in runtime.joined(self.expected).items() if not np.all(np.isfinite(value))]
        if broken:
            raise ParityError(
                f"Keras itself gives values that are not finite in {broken}, against which nothing can be proven. "
                "Check the model's weights."
            )
        parity = self._parity(interpreter, self.expected)
        if not parity.relative_error <= self.planner.tolerance:
            worst = max(parity.outputs, key=lambda output: output.relative_error)
            raise ParityError(
                f"The exported model disagrees with Keras in the output '{worst.name}': relative error "
                f"{worst.relative_error:.3g}, maximum error {worst.max_error:.3g}, on {self.data.inputs}. Expected at most "
                f"tolerance={self.planner.tolerance:g}. Nothing was returned."
            )
        return parity

    def _original_parity(self, interpreter: runtime.Interpreter) -> Parity | None:
        """Return how far the export is from the model itself, if that does not compute in float32."""
        if self.float32 is self.original:
            return None
        model, batches = with_inputs(self.original), self.data.verification

        # The batches are many and small. Without a graph a large model would run them layer by layer.
        @tf.function(autograph=False)
        def call(*values):
            outputs = keras.tree.flatten(model(pack_inputs(model, list(values)), training=False))
            return [ops.cast(output, "float32") for output in outputs]

        results = []
        for batch in batches:
            outputs = call(*map(tf.constant, batch.values()))
            results.append({name: output.numpy() for name, output in zip(self.output_names, outputs, strict=True)})
        return self._parity(interpreter, results)

    def _parity(self, interpreter: runtime.Interpreter, results: Sequence[Batch]) -> Parity:
        """Return how far the export is from Keras's `results` on the data that verify it."""
        expected, actual = runtime.joined(results), runtime.run_all(interpreter, self.data.verification)
        values = [actual[name] for name in expected]
        return compare_outputs(list(expected.values()), values, list(expected), self.data.inputs, self.decisions)

    def _without_loops(self, precision: Precision) -> AbstractContextManager[None]:
        """Return a context in which recurrent layers are unrolled, if a file of this precision and batch size needs that."""
        return unrolled(self.model) if precision.name == "int8" or self.specs[0].shape[0] is None else nullcontext()

    @property
    def _weighs_float32(self) -> bool:
        """Whether the export is measured against one in float32, because quantizing does not always help."""
        return self.planner.precision.name is not None and self.planner.effort != "estimate"

    def _worse_than_float32(self, content: bytes, plain: bytes | None) -> list[str]:
        """Return a sentence if the quantized file is larger or slower than the file in float32, measured in turn."""
        if plain is None:
            return []
        notes = []
        if len(content) > len(plain):
            notes.append(f"larger ({len(content) / 1024:,.0f} KiB, float32 {len(plain) / 1024:,.0f} KiB)")
        contents = {"quantized": content, "float32": plain}
        figures = self.planner.device.measure(contents, threads=1, warmup=WARMUP, runs=RUNS, on_round=lambda _: None)
        cost, plain_cost = (figures[name].cost for name in contents)
        if cost > SLOWER * plain_cost:
            unit = figures["quantized"].unit
            notes.append(f"slower ({amount(cost, unit)}, float32 {amount(plain_cost, unit)})")
        name = self.planner.precision.name
        return [f'With quantize="{name}" the file is {" and ".join(notes)} than without. Consider float32.'] if notes else []

    def call(self, *values) -> dict:
        """Call the model on tensors in the order of its inputs, and return its outputs by name."""
        outputs = keras.tree.flatten(self.model(pack_inputs(self.model, values), training=False))
        return dict(zip(self.output_names, outputs, strict=True))


def _with_paths(plans: dict[Layer, LayerPlan], model: keras.Model) -> tuple[LayerPlan, ...]:
    """Return the plans. Those of layers that share a name, such as "query" of each attention, get the path instead."""
    named = Counter(plan.layer for plan in plans.values())
    # A layer and the wrapper around it have the same name, which comes once.
    paths = {id(layer): "/".join(name for name, _ in groupby(path.split("/"))) for path, layer in named_layers(model)}
    return tuple(replace(plan, layer=paths[id(layer)]) if named[plan.layer] > 1 else plan for layer, plan in plans.items())


def _no_gain(plans: dict[Layer, LayerPlan], size: int) -> list[str]:
    """Return a sentence if a dense kernel was the best lowering of every butterfly layer."""
    pairs = [(plan.chosen, min(plan.candidates, key=lambda c: c.estimated_bytes, default=None)) for plan in plans.values()]
    if not pairs or any(chosen is None or not isinstance(chosen.lowering, Dense) for chosen, _ in pairs):
        return []
    saved = sum(chosen.estimated_bytes - smallest.estimated_bytes for chosen, smallest in pairs if chosen and smallest)
    smaller = f' objective="size" gives about {(size - saved) / 1024:,.0f} KiB.' if saved > 0 else ""
    return [f"No gain over Dense here: the fastest way to write each butterfly layer is a dense kernel.{smaller}"]
