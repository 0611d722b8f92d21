"""A wrapper that lets a layer of the last axis work on several last axes."""

from math import prod

import keras
from keras import ops

from ..utils.validation import positive_integer
from .sizes import check_size


@keras.saving.register_keras_serializable("keras_butterfly")
class FlattenedAxes(keras.layers.Wrapper):
    """A layer that applies another layer to several last axes, taken as one: `y = activation(layer(flatten(x)))`.

    `replace_dense` makes it, for an `EinsumDense` that sums over several axes or makes several, such as the projections of
    `keras.layers.MultiHeadAttention`. A user has no need to write it.

    Args:
        layer: a layer (..., n) -> (..., units), such as a `Butterfly`.
        axes: number of last axes of the input, which are flattened to one of size n.
        sizes: sizes of the last axes of the output, into which the axis of the units is reshaped.
        activation: function of the reshaped output, as in `keras.layers.Dense`. An activation along the last axis, such as
            softmax, is one along an axis of `sizes[-1]` here. Inside `layer` it would be one along all units.
        **kwargs: arguments of `keras.layers.Layer`: name, dtype, trainable, activity_regularizer.

    Input shape: (..., *n), at least one axis before the last `axes`, whose sizes are known. Output shape: (..., *sizes).

    Raises:
        ValueError: if an argument is no positive integer, the shape of the input does not fit, or the number of units is not
            the product of `sizes`.
    """

    def __init__(self, layer, axes, sizes, activation=None, **kwargs):
        super().__init__(layer, **kwargs)
        self.axes = positive_integer(axes, "axes")
        self.sizes = tuple(check_size(size, "sizes") for size in sizes)
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def build(self, input_shape):
        flattened = tuple(input_shape[-self.axes :])
        if len(input_shape) <= self.axes or None in flattened:
            raise ValueError(
                f"Layer '{self.name}' expects an input whose last {self.axes} axes are known, with at least one axis before "
                f"them. Received: input_shape={tuple(input_shape)}"
            )
        known = {axis - self.axes: size for axis, size in enumerate(flattened)}
        self.input_spec = keras.layers.InputSpec(min_ndim=self.axes + 1, axes=known)
        flat_shape = (*input_shape[: -self.axes], prod(flattened))
        super().build(flat_shape)
        units = self.layer.compute_output_shape(flat_shape)[-1]
        if units != prod(self.sizes):
            raise ValueError(
                f"Layer '{self.name}' expects a layer of {prod(self.sizes)} units, for sizes={self.sizes}. "
                f"Received: '{self.layer.name}', which has {units}"
            )

    def call(self, inputs):
        flat = _with_last_axes(inputs, self.axes, (prod(inputs.shape[-self.axes :]),))
        return self.activation(_with_last_axes(self.layer(flat), 1, self.sizes))

    def compute_output_shape(self, input_shape):
        return (*input_shape[: -self.axes], *self.sizes)

    def get_config(self):
        return {
            **super().get_config(),
            "axes": self.axes,
            "sizes": list(self.sizes),
            "activation": keras.activations.serialize(self.activation),
        }


def _with_last_axes(x, count: int, sizes: tuple[int, ...]):
    """Return `x` with its last `count` axes reshaped to `sizes`. Any number of the other axes may be of unknown size."""
    return x if count == len(sizes) == 1 else ops.reshape(x, (*ops.shape(x)[:-count], *sizes))
