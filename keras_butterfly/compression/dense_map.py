"""Layers that compute a dense map of the last axis: `Dense`, and some `EinsumDense` and `Conv2D` layers."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

KINDS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D)
# A butterfly layer that keeps a larger part of a dense layer's weights is not worth the accuracy that it may cost.
MAX_WEIGHT_RATIO = 0.5


def little_saved(layer: str, weights: int, dense_weights: int) -> str | None:
    """Return a warning if a butterfly layer saves less than half of the weights of a dense one, else None.

    Args:
        layer: name of the layer, for the warning.
        weights: number of weights of the butterfly layer.
        dense_weights: number of weights of the dense layer.
    """
    if weights <= MAX_WEIGHT_RATIO * dense_weights:
        return None
    return f"'{layer}' saves little: {weights:,} weights, where Dense has {dense_weights:,}. Dense is likely the better choice."


@dataclass(frozen=True)
class DenseMap:
    """The map `y = activation(x @ kernel + bias)` of the last axis that a layer computes.

    Attributes:
        layer: a `Dense`, an `EinsumDense` whose equation contracts the last axis with a matrix, or a 1x1 `Conv2D`.
        inputs, units: sizes of the last axis of inputs and outputs.
        strides: of a convolution: the layer keeps every so many rows and columns. (1, 1) for other layers.
    """

    layer: keras.layers.Layer
    inputs: int
    units: int
    strides: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: keras.layers.Layer) -> "DenseMap":
        """Return the dense map that a built `layer` computes.

        Raises:
            ValueError: if `layer` computes something else, with the reason from `why_not_dense`.
        """
        reason = why_not_dense(layer)
        if reason is not None:
            raise ValueError(f"Expected a dense map of the last axis. Received: layer '{layer.name}', which {reason}.")
        inputs, units = layer.kernel.shape[-2:]
        strides = tuple(layer.strides) if isinstance(layer, keras.layers.Conv2D) else (1, 1)
        return cls(layer, int(inputs), int(units), strides)

    @property
    def kernel(self) -> np.ndarray:
        """Return the kernel as a float32 array (inputs, units)."""
        return ops.convert_to_numpy(ops.cast(self.layer.kernel, "float32")).reshape(self.inputs, self.units)

    @property
    def bias(self) -> np.ndarray | None:
        """Return the bias as a float32 array (units,), or None if the layer has none."""
        bias = getattr(self.layer, "bias", None)
        return None if bias is None else ops.convert_to_numpy(ops.cast(bias, "float32")).reshape(self.units)

    @property
    def weights(self) -> int:
        """Return the number of weights, with the bias."""
        return self.inputs * self.units + (0 if self.bias is None else self.units)


def why_not_dense(layer: keras.layers.Layer) -> str | None:
    """Return why no butterfly layer can replace `layer`, as the end of a sentence about it, or None if one can."""
    # A subclass may compute something else.
    if type(layer) not in KINDS:
        return f"is a {type(layer).__name__}, not one of {', '.join(kind.__name__ for kind in KINDS)}"
    if not layer.built:
        return "is not built"
    if getattr(layer, "quantization_mode", None):
        return f"is quantized to {layer.quantization_mode}"
    if layer.kernel_constraint is not None:
        return (
            "has a kernel_constraint, which the factors of a butterfly would not keep. Set layer.kernel_constraint = None to "
            "give it up"
        )
    if isinstance(layer, keras.layers.EinsumDense):
        return _why_not_dense_einsum(layer)
    if isinstance(layer, keras.layers.Conv2D):
        return _why_not_dense_convolution(layer)
    return None


def _why_not_dense_einsum(layer: keras.layers.EinsumDense) -> str | None:
    """Return what is wrong unless the equation is "...x,xy->...y" and the bias has one number per unit."""
    operands, _, result = layer.equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    is_matrix = len(kernel) == 2 and kernel[0] != kernel[1]
    if not (is_matrix and inputs[-1:] == kernel[0] and result[-1:] == kernel[1] and inputs[:-1] == result[:-1]):
        return f"has the equation '{layer.equation}'; a dense map of the last axis is '...x,xy->...y'"
    if set(kernel) & set(inputs[:-1]):
        return f"has the equation '{layer.equation}', whose kernel differs along another axis"
    if layer.bias is not None and int(np.prod(layer.bias.shape)) != layer.kernel.shape[-1]:
        return f"has a bias of shape {tuple(layer.bias.shape)}, not one number per unit"
    return None


def _why_not_dense_convolution(layer: keras.layers.Conv2D) -> str | None:
    """Return what is wrong unless the kernel is 1x1, in one group, on the last axis."""
    if tuple(layer.kernel_size) != (1, 1) or layer.groups != 1:
        return f"is a convolution of {tuple(layer.kernel_size)} in {layer.groups} group(s); 1 x 1 in one is expected"
    if layer.data_format != "channels_last":
        return 'has data_format="channels_first"; a butterfly works on the last axis'
    return None
