"""Layers that compute a dense map of the last axes: `Dense`, and some `EinsumDense` and `Conv2D` layers."""

from dataclasses import dataclass
from math import prod

import keras
import numpy as np
from keras import ops

KINDS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D)
# A butterfly layer that keeps a larger part of a dense layer's weights is not worth the accuracy that it may cost.
MAX_WEIGHT_RATIO = 0.5
# Constraints on norms along an axis. Constraints of other classes act on each weight alone, or are not known.
_OF_AN_AXIS = (keras.constraints.MaxNorm, keras.constraints.MinMaxNorm, keras.constraints.UnitNorm)


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
    """The map `y = activation(x @ kernel + bias)` that a layer computes on its last axes, which are taken as one axis.

    Attributes:
        layer: a `Dense`, an `EinsumDense` whose equation contracts the last axes with a kernel, or a 1x1 `Conv2D`.
        input_shape, output_shape: sizes of those last axes of the inputs and of the outputs. This is one axis each, except for
            some `EinsumDense`.
        kernel_axes: order of the kernel's axes that puts the input's axes before the output's.
        strides: the strides of a convolution, in rows and columns. (1, 1) for other layers.
    """

    layer: keras.layers.Layer
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_axes: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: keras.layers.Layer) -> "DenseMap":
        """Return the dense map that a built `layer` computes.

        Raises:
            ValueError: if `layer` computes something else, with the reason from `why_not_dense`.
        """
        reason = why_not_dense(layer)
        if reason is not None:
            raise ValueError(f"Expected a dense map of the last axes. Received: layer '{layer.name}', which {reason}.")
        shape = tuple(map(int, layer.kernel.shape))
        if isinstance(layer, keras.layers.EinsumDense):
            letters = _Letters.of(layer.equation)
            axes = tuple(letters.kernel.index(letter) for letter in letters.contracted + letters.new)
            sizes, count = tuple(shape[axis] for axis in axes), len(letters.contracted)
            return cls(layer, sizes[:count], sizes[count:], axes)
        strides = tuple(layer.strides) if isinstance(layer, keras.layers.Conv2D) else (1, 1)
        return cls(layer, shape[-2:-1], shape[-1:], tuple(range(len(shape))), strides)

    @property
    def inputs(self) -> int:
        """Return the number of inputs: the size of the input's last axes, taken as one."""
        return prod(self.input_shape)

    @property
    def units(self) -> int:
        """Return the number of units: the size of the output's last axes, taken as one."""
        return prod(self.output_shape)

    @property
    def kernel(self) -> np.ndarray:
        """Return the kernel as a float32 array (inputs, units)."""
        kernel = ops.convert_to_numpy(ops.cast(self.layer.kernel, "float32"))
        return kernel.transpose(self.kernel_axes).reshape(self.inputs, self.units)

    @property
    def bias(self) -> np.ndarray | None:
        """Return the bias as a float32 array (units,), or None if the layer has none."""
        if self.layer.bias is None:
            return None
        bias = ops.convert_to_numpy(ops.cast(self.layer.bias, "float32"))
        bias = bias.reshape(bias.shape[-len(self.output_shape) :])  # without axes of size 1 before the output's last axes
        return np.broadcast_to(bias, self.output_shape).reshape(self.units)

    @property
    def weights(self) -> int:
        """Return the number of weights, with the bias."""
        return self.inputs * self.units + (0 if self.layer.bias is None else prod(self.layer.bias.shape))

    def rows_of(self, values: np.ndarray) -> np.ndarray:
        """Return inputs of the layer, `values`, as the vectors that the map takes: a float32 array (rows, inputs)."""
        seen = values if self.strides == (1, 1) else values[:, :: self.strides[0], :: self.strides[1]]
        return seen.astype("float32").reshape(-1, self.inputs)


@dataclass(frozen=True)
class _Letters:
    """The letters of an `EinsumDense` equation. An ellipsis is the letter "0".

    Attributes:
        inputs, kernel, result: the letters of the input, the kernel and the result.
        contracted: the last letters of the input, as many as the kernel has letters that are not in the result.
        new: the last letters of the result, as many as the kernel has letters that are in it.
    """

    inputs: str
    kernel: str
    result: str
    contracted: str
    new: str

    @classmethod
    def of(cls, equation: str) -> "_Letters":
        operands, _, result = equation.replace(" ", "").replace("...", "0").partition("->")
        inputs, _, kernel = operands.partition(",")
        new = sum(letter in result for letter in kernel)
        contracted = len(kernel) - new
        return cls(inputs, kernel, result, inputs[len(inputs) - contracted :], result[len(result) - new :])

    @property
    def shared(self) -> list[str]:
        """Return the letters that input, kernel and result have in common."""
        return sorted(set(self.inputs) & set(self.kernel) & set(self.result))

    @property
    def are_dense(self) -> bool:
        """Return whether the equation contracts the last axes of the input with a kernel, and the result ends in new axes."""
        before, after = self.inputs[: -len(self.contracted)], self.result[: -len(self.new)]
        return (
            bool(before and self.contracted and self.new)
            and before == after
            and sorted(self.contracted + self.new) == sorted(self.kernel)
            and all(len(set(letters)) == len(letters) for letters in (self.inputs, self.kernel, self.result))
        )


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
    """Return why an `EinsumDense` is no dense map of the last axes, as the end of a sentence about it, or None if it is one."""
    letters = _Letters.of(layer.equation)
    if letters.shared:
        return (
            f"has the equation '{layer.equation}', whose input, kernel and result share the axis '{letters.shared[0]}': the "
            "kernel differs along an axis that it does not sum over"
        )
    if not letters.are_dense:
        return (
            f"has the equation '{layer.equation}'; a dense map of the last axes is '...x,xy->...y', with one or more letters "
            "in the place of x and of y"
        )
    if layer.bias is None:
        return None
    shape, count = tuple(layer.bias.shape), len(letters.new)
    if prod(shape[:-count]) != 1:
        return f"has a bias of shape {shape}, which differs along axes before those that the kernel makes"
    units = prod(size for letter, size in zip(letters.kernel, layer.kernel.shape, strict=True) if letter in letters.new)
    if isinstance(layer.bias_constraint, _OF_AN_AXIS) and shape != (units,):
        return (
            f"has a bias_constraint along an axis of its bias of shape {shape}, which a bias of {units} numbers does not have. "
            "Set layer.bias_constraint = None to give it up"
        )
    return None


def _why_not_dense_convolution(layer: keras.layers.Conv2D) -> str | None:
    """Return why a convolution is not dense, or None if its kernel is 1x1, in one group, on the last axis."""
    if tuple(layer.kernel_size) != (1, 1) or layer.groups != 1:
        return f"is a convolution of {tuple(layer.kernel_size)} in {layer.groups} group(s); 1 x 1 in one is expected"
    if layer.data_format != "channels_last":
        return 'has data_format="channels_first"; a butterfly works on the last axis'
    return None
