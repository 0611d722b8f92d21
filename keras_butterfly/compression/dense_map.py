"""Layers that are a dense map of the last axis, whatever Keras calls them."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

KINDS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D)


# A butterfly layer that would keep a larger part of a dense layer's weights is not worth the accuracy that it may cost.
MAX_WEIGHT_RATIO = 0.5


def little_saved(layer: str, weights: int, dense_weights: int) -> str | None:
    """Return a sentence that says so if `layer`, with `weights`, saves less than half of `dense_weights`; else None."""
    if weights <= MAX_WEIGHT_RATIO * dense_weights:
        return None
    return f"'{layer}' saves little: {weights:,} weights, where Dense has {dense_weights:,}. Dense is likely the better choice."


@dataclass(frozen=True)
class DenseMap:
    """`y = activation(x @ kernel + bias)` on the last axis.

    Attributes:
        layer: a `Dense`, an `EinsumDense` whose equation contracts the last axis with a matrix, or a 1x1 `Conv2D`.
        inputs, units: sizes of the last axis before and after.
        strides: of a convolution: of every so many rows and columns one is kept.
    """

    layer: keras.layers.Layer
    inputs: int
    units: int
    strides: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: keras.layers.Layer) -> "DenseMap":
        """The dense map that a built `layer` is.

        Raises:
            ValueError: saying why it is none.
        """
        # A subclass may compute something else.
        if type(layer) not in KINDS:
            raise ValueError(f"is a {type(layer).__name__}, not one of {', '.join(kind.__name__ for kind in KINDS)}")
        if not layer.built:
            raise ValueError("is not built")
        if getattr(layer, "quantization_mode", None):
            raise ValueError(f"is quantized to {layer.quantization_mode}")
        if layer.kernel_constraint is not None:
            raise ValueError(
                "has a kernel_constraint, which the factors of a butterfly would not keep. Set layer.kernel_constraint = None "
                "to give it up"
            )
        if isinstance(layer, keras.layers.EinsumDense):
            _check_einsum(layer)
        strides = _checked_strides(layer) if isinstance(layer, keras.layers.Conv2D) else (1, 1)
        inputs, units = layer.kernel.shape[-2:]
        return cls(layer, int(inputs), int(units), strides)

    @property
    def kernel(self) -> np.ndarray:
        """(inputs, units), float32."""
        return ops.convert_to_numpy(ops.cast(self.layer.kernel, "float32")).reshape(self.inputs, self.units)

    @property
    def bias(self) -> np.ndarray | None:
        """(units,), float32, or None."""
        bias = getattr(self.layer, "bias", None)
        return None if bias is None else ops.convert_to_numpy(ops.cast(bias, "float32")).reshape(self.units)

    @property
    def weights(self) -> int:
        """Number of weights, with the bias."""
        return self.inputs * self.units + (0 if self.bias is None else self.units)


def _check_einsum(layer: keras.layers.EinsumDense) -> None:
    """The equation must be "...x,xy->...y", and the bias one number a unit."""
    operands, _, result = layer.equation.replace(" ", "").partition("->")
    given, _, kernel = operands.partition(",")
    matrix = len(kernel) == 2 and kernel[0] != kernel[1]
    if not (matrix and given[-1:] == kernel[0] and result[-1:] == kernel[1] and given[:-1] == result[:-1]):
        raise ValueError(f"has the equation '{layer.equation}'; a dense map of the last axis is '...x,xy->...y'")
    if set(kernel) & set(given[:-1]):
        raise ValueError(f"has the equation '{layer.equation}', whose kernel differs along another axis")
    if layer.bias is not None and int(np.prod(layer.bias.shape)) != layer.kernel.shape[-1]:
        raise ValueError(f"has a bias of shape {tuple(layer.bias.shape)}, not one number a unit")


def _checked_strides(layer: keras.layers.Conv2D) -> tuple[int, int]:
    if tuple(layer.kernel_size) != (1, 1) or layer.groups != 1:
        raise ValueError(f"is a convolution of {tuple(layer.kernel_size)} in {layer.groups} group(s); 1 x 1 in one is expected")
    if layer.data_format != "channels_last":
        raise ValueError('has data_format="channels_first"; a butterfly works on the last axis')
    return tuple(layer.strides)
