"""What a compressed model is predicted to cost: the sum of what was measured of its layers, each alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ..convert import to_tflite
from ..measurement import devices
from ..measurement.timing import measure_all
from ..model import TFLiteModel
from ..planning.planner import Objective, default_effort
from ..planning.wisdom import Wisdom
from ..tflite.quantize import Precision, Quantize

# The largest permitted error of a quantized file of which only the cost matters, relative to the largest output.
LOOSE_TOLERANCE = 1.0
# Timed blocks of each file, where only a prediction depends on them.
RUNS = 30


class Cost(NamedTuple):
    """The cost of a model or of a layer.

    Attributes:
        seconds: seconds per invocation.
        size_bytes: bytes of the file.
    """

    seconds: float
    size_bytes: float

    def plus(self, other: "Cost") -> "Cost":
        """Return the sum of this cost and another one."""
        return Cost(self.seconds + other.seconds, self.size_bytes + other.size_bytes)

    def minus(self, other: "Cost") -> "Cost":
        """Return this cost without another one, never below 0."""
        return Cost(max(0.0, self.seconds - other.seconds), max(0.0, self.size_bytes - other.size_bytes))


@dataclass(frozen=True)
class Exporter:
    """The settings by which every model of a search is exported and timed.

    Attributes:
        quantize: as in `to_tflite`.
        typical: typical inputs of the model, which calibrate "int8". Quantized files are compared with Keras on them.
        objective: as in `to_tflite`.
        device: the device that measures.
        wisdom: the measurements of lowerings made before, to which new ones are added.
    """

    quantize: Quantize | None
    typical: object
    objective: Objective
    device: devices.Device
    wisdom: Wisdom

    @property
    def precision(self) -> str:
        """The name of the precision."""
        return Precision(self.quantize).label

    def export(self, model: keras.Model, tolerance: float | None = None) -> TFLiteModel:
        """Return `model` as a .tflite file that has been compared with Keras.

        Raises:
            ValueError: as `to_tflite`.
        """
        return self._export(model, self.typical, integer_io=False, tolerance=tolerance)

    def export_untrained(self, model: keras.Model) -> TFLiteModel:
        """Return `model`, of which only the cost matters, as a file. If quantized, it may be off by its largest output.

        Its biases and scales become different from each other, as training makes them: a file stores equal ones only once.

        Raises:
            ValueError: as `to_tflite`.
        """
        make_different(model)
        return self.export(model, self._loose_tolerance)

    def export_layer(self, model: keras.Model, inputs: np.ndarray | None, rows: int) -> TFLiteModel:
        """Return a model of a single layer as a file, with the inputs and outputs that it has inside a larger one.

        Args:
            model: the model.
            inputs: typical inputs, as `typical` is for the model. None: random ones.
            rows: the batch size.
        """
        random = np.random.default_rng(0).standard_normal((64, *model.input_shape[1:])).astype(np.float32)
        typical = random if inputs is None or len(inputs) < rows else inputs
        settings = {"batch_size": rows, "tolerance": self._loose_tolerance}
        return self._export(model, typical, integer_io=self.quantize == "int8", **settings)

    @property
    def _loose_tolerance(self) -> float | None:
        """The largest permitted error of a file of which only the cost matters. None: the default of the precision."""
        return None if self.quantize is None else LOOSE_TOLERANCE

    def _export(self, model: keras.Model, typical, **settings) -> TFLiteModel:
        return to_tflite(
            model,
            quantize=self.quantize,
            # In float32 random inputs show whether the file is right. Rounded weights may be wrong on typical inputs only.
            representative_data=None if self.quantize is None else typical,
            # Few lowerings of each layer are measured, because the search exports many models.
            effort="estimate" if default_effort() == "estimate" else "quick",
            objective=self.objective,
            device=self.device,
            wisdom=self.wisdom,
            progress=False,
            **settings,
        )

    def measure(self, files: Mapping[str, TFLiteModel]) -> dict[str, Cost]:
        """Return the cost of each file. Latencies are measured in turns."""
        latencies = measure_all(files, runs=RUNS, device=self.device)
        return {name: Cost(latencies[name].cost, file.size_bytes) for name, file in files.items()}


def make_different(model: keras.Model) -> None:
    """Add small random numbers to the weights of a model whose values are all the same, such as those of an untrained bias."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        value = ops.convert_to_numpy(variable)
        if variable.dtype.startswith("float") and value.size > 1 and (value == value.flat[0]).all():
            variable.assign(value + 0.01 * random.standard_normal(value.shape).astype(value.dtype))


def empty_model() -> keras.Model:
    """Return a model that does next to nothing. What it costs is the cost of any file and of any invocation."""
    return keras.Sequential([keras.Input((1,)), keras.layers.Activation("relu")])
