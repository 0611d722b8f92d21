"""Precisions of an export: how weights and activations are stored, and what int8 costs a Dense layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

Quantize = Literal["float16", "dynamic", "int8"]

# name -> largest permitted error by default, relative to the largest output. float32: round-off of sums taken in another order,
# measured below 1e-5. The others allow for what one rounding of every weight, and for int8 of every activation, costs
# a network of several layers; a wrong lowering is off by more than the output itself.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.25}
# The name that the converter gives to a function's signature.
SIGNATURE = "serving_default"


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

    def configure(self, converter, batches: Sequence[Mapping[str, np.ndarray]], keep_float32: bool = False) -> None:
        """Set up a TFLite converter; for "int8" it calibrates on `batches`, whose values are in the order of the inputs.

        With `keep_float32` and "int8" it does no more than calibrate; `mixed_precision.with_float32_layers` goes on from there.
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
        if keep_float32 and self.name == "int8":
            converter._experimental_calibrate_only = True
        elif self.integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8


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
