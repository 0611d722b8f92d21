"""Precisions of an export, and the data that calibrate it and that its errors are measured on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from . import verify
from .lowering import ISLAND_SCOPE

# name -> largest permitted error by default, relative to the largest output. float32: round-off of sums taken in another order,
# measured below 1e-5. The others allow for what one rounding of every weight, and for int8 of every activation, costs
# a network of several layers; a wrong lowering is off by more than the output itself.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.25}
# The name that the converter gives to a function's signature.
SIGNATURE = "serving_default"
# Batches of random inputs that stand in where no data are given.
RANDOM_BATCHES = 4
# Batches of representative data that are run to calibrate and to compare; more change little.
MOST_BATCHES = 100


@dataclass(frozen=True)
class Precision:
    """How weights and activations are stored.

    Attributes:
        name: None: float32. "float16": weights in float16. "dynamic": weights in int8, activations quantised while running.
            "int8": weights and activations in int8, by ranges seen on representative data.
        integer_io: whether the model's inputs and outputs are int8 as well; only with "int8".
    """

    name: str | None = None
    integer_io: bool = False

    def __post_init__(self):
        if self.name not in TOLERANCES:
            raise ValueError(f"`quantize` must be one of {tuple(TOLERANCES)}. Received: quantize={self.name!r}")
        if self.integer_io and self.name != "int8":
            raise ValueError(f'`integer_io` needs quantize="int8". Received: quantize={self.name!r}')

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.name]

    def configure(self, converter, batches: Sequence[Mapping[str, np.ndarray]], island: bool = False) -> None:
        """Sets up a TFLite converter; for "int8" it calibrates on `batches`, whose values are in the order of the inputs.

        With `island` it does no more than calibrate; `with_islands` goes on from there.
        """
        # Never SELECT_TF_OPS: such a model converts, then fails to load where Flex is not linked in.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if self.name is None:
            return
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if self.name == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ((SIGNATURE, dict(batch)) for batch in batches)
        if island:
            converter._experimental_calibrate_only = True
        elif self.integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8


def representative_batches(data, specs: Sequence[tf.TensorSpec], precision: Precision) -> list[dict[str, np.ndarray]]:
    """Batches of inputs by name, of the shapes and dtypes of `specs`: of `data`, or random ones where it is None.

    Args:
        data: an array of examples, or for several inputs a list of arrays or a dict by input name.

    Raises:
        ValueError: for data that do not fit the inputs, are not finite or fill no batch, or for int8 without data.
    """
    if data is None:
        if precision.name == "int8":
            raise ValueError(
                'quantize="int8" takes its ranges from real inputs. Expected `representative_data`, some hundred examples. '
                "Received: None"
            )
        rng = np.random.default_rng(0)
        return [{spec.name: _random(spec, rng) for spec in specs} for _ in range(RANDOM_BATCHES)]
    arrays = by_name(data, [spec.name for spec in specs])
    for spec in specs:
        arrays[spec.name] = _checked(arrays[spec.name], spec)
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise ValueError(f"Expected as many examples of every input. Received: { {n: len(a) for n, a in arrays.items()} }")
    batch, count = specs[0].shape[0] or 1, counts.pop()
    if count < batch:
        raise ValueError(f"Expected at least one batch of {batch} examples in `representative_data`. Received: {count}")
    return [{name: array[start : start + batch] for name, array in arrays.items()} for start in _starts(count, batch)]


def with_islands(calibrated: bytes, precision: Precision) -> bytes:
    """The int8 model of a calibrated float one, with the operators in `lowering.ISLAND_SCOPE` left in float32."""
    # The function below the public QuantizationDebugger, which knows no int8 inputs and needs an operator to debug.
    from tensorflow.lite.python.convert import mlir_quantize

    kept = [name for name in verify.tensor_names(calibrated) if f"/{ISLAND_SCOPE}/" in name]
    io = tf.int8 if precision.integer_io else tf.float32
    return mlir_quantize(calibrated, input_data_type=io, output_data_type=io, denylisted_nodes=kept)


def dense_error(inputs: Sequence[np.ndarray], units: int) -> float:
    """Relative error in int8 of a Dense with uniform random weights, by rounding in NumPy as TFLite does: inputs
    and outputs by one scale over all of `inputs`, the kernel by one symmetric scale a column."""
    width = inputs[0].shape[-1]
    x = np.concatenate([value.reshape(-1, width) for value in inputs])
    kernel = np.random.default_rng(0).uniform(-1, 1, (width, units)).astype(np.float32)
    scales = np.abs(kernel).max(axis=0) / 127
    exact, rounded = x @ kernel, _rounded(_rounded(x) @ (np.round(kernel / scales) * scales))
    largest = np.abs(exact).max()
    return float(np.abs(rounded - exact).max() / largest) if largest else 0.0


def _rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest of 256 steps over the range of `values` and 0."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return np.round(values / scale) * scale


def by_name(values, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays by input name, of an array, a list in the order of `names`, or a dict.

    Raises:
        ValueError: for inputs whose number or names do not fit.
    """
    if not isinstance(values, Mapping):
        listed = list(values) if isinstance(values, list | tuple) else [values]
        if len(listed) != len(names):
            raise ValueError(f"Expected {len(names)} inputs, {tuple(names)}. Received: {len(listed)}")
        values = dict(zip(names, listed, strict=True))
    if set(values) != set(names):
        raise ValueError(f"Expected the inputs {tuple(names)}. Received: {tuple(values)}")
    return {name: np.asarray(values[name]) for name in names}


def _starts(count: int, batch: int) -> Iterator[int]:
    """Where batches begin: at most MOST_BATCHES, spread over all examples."""
    whole = count // batch
    return (int(index) * batch for index in np.unique(np.linspace(0, whole - 1, min(whole, MOST_BATCHES)).astype(int)))


def _checked(array: np.ndarray, spec: tf.TensorSpec) -> np.ndarray:
    example = tuple(spec.shape[1:])
    if array.shape[1:] != example or array.ndim == 0:
        raise ValueError(
            f"Expected `representative_data` for input '{spec.name}' of shape {('examples', *example)}. Received: {array.shape}"
        )
    if not np.issubdtype(array.dtype, np.number) or not np.all(np.isfinite(array)):
        raise ValueError(f"Expected finite numbers in `representative_data`. Received others for input '{spec.name}'.")
    return array.astype(spec.dtype.as_numpy_dtype)


def _random(spec: tf.TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values; 0 and 1 for integers and booleans, which every embedding can look up."""
    dtype = spec.dtype.as_numpy_dtype
    shape = (spec.shape[0] or 1, *spec.shape[1:])
    if spec.dtype.is_floating:
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
