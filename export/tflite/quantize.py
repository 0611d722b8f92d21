"""The precisions of an export: how weights and activations are stored, and the error that int8 costs a Dense layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

from .tensorflow_internals import set_calibrate_only

Quantize = Literal["float16", "dynamic", "int8"]

# name -> largest permitted error by default, relative to the largest output. In float32 sums are taken in another order, whose
# round-off was measured below 1e-5. The other tolerances allow for the rounding of every weight, and in int8 of every
# activation, in a network of several layers. A wrong lowering exceeds all of them: it is off by more than the output itself.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.25}
# The name that the converter gives to the signature of a function.
SIGNATURE = "serving_default"


def check_quantize(name: str | None, choices: tuple[str | None, ...]) -> None:
    """Check that `name`, the argument `quantize` of a function, is one of `choices`.

    Raises:
        ValueError: if it is not.
    """
    if name not in choices:
        raise ValueError(f"`quantize` must be one of {choices}. Received: quantize={name!r}")


@dataclass(frozen=True)
class Precision:
    """A precision: how weights and activations are stored.

    Attributes:
        name: None: float32. "float16": weights in float16. "dynamic": weights in int8, and activations are quantized at every
            invocation. "int8": weights and activations in int8. The ranges of the activations come from representative data.
        integer_io: whether the model's inputs and outputs are int8 as well. Only for "int8".
    """

    name: str | None = None
    integer_io: bool = False

    def __post_init__(self):
        check_quantize(self.name, tuple(TOLERANCES))
        if self.integer_io and self.name != "int8":
            raise ValueError(f'`integer_io` needs quantize="int8". Received: quantize={self.name!r}')

    @property
    def label(self) -> str:
        """The name of the precision for people and files: "float32" instead of None."""
        return self.name or "float32"

    @property
    def tolerance(self) -> float:
        """The largest permitted error by default, relative to the largest output."""
        return TOLERANCES[self.name]

    def configure(self, converter, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Set up a TFLite converter for this precision. For "int8" it only calibrates; the ranges are checked before the rest.

        Args:
            converter: a `tf.lite.TFLiteConverter`.
            batches: the data that the ranges of "int8" come from. Each batch is a dict of the inputs by name.
        """
        # SELECT_TF_OPS is never allowed: such a model converts, but does not load where the Flex delegate is not linked in.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if self.name is None:
            return
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if self.name == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ((SIGNATURE, dict(batch)) for batch in batches)
            set_calibrate_only(converter)


def dense_error(inputs: Sequence[np.ndarray], units: int) -> float:
    """Return the relative error in int8 of a Dense layer with uniform random weights on `inputs`.

    The layer is computed in NumPy with the roundings of TFLite. The inputs have one scale, the outputs have one scale, and each
    column of the kernel has a symmetric scale.

    Args:
        inputs: the batches of the layer's inputs, of any rank. The features are on the last axis.
        units: the number of outputs.
    """
    width = inputs[0].shape[-1]
    x = np.concatenate([value.reshape(-1, width) for value in inputs])
    kernel = np.random.default_rng(0).uniform(-1, 1, (width, units)).astype(np.float32)
    scales = np.abs(kernel).max(axis=0) / 127
    exact, rounded = x @ kernel, _round_to_steps(_round_to_steps(x) @ (np.round(kernel / scales) * scales))
    largest = np.abs(exact).max()
    return float(np.abs(rounded - exact).max() / largest) if largest else 0.0


def _round_to_steps(values: np.ndarray) -> np.ndarray:
    """Round each value to the nearest of 256 evenly spaced ones, which cover the range of `values` and 0."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return np.round(values / scale) * scale
