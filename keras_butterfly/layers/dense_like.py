"""What the layers that take the place of `keras.layers.Dense` have in common."""

import numbers
from typing import Any

import keras
from keras import ops

from ..utils.validation import not_built, positive_integer
from .override import compute_affine
from .sizes import check_size


class DenseLike(keras.layers.Layer):
    """Base class of layers that compute `activation(linear(x) + bias)`, with the arguments of `keras.layers.Dense`.

    A subclass implements `build`, which calls `_start_build` and, at its end, `_add_bias`; `linear`; and `kernel`.

    Args:
        units: size of the output's last axis. None means that of the input's last axis.
        activation, use_bias: as in `keras.layers.Dense`.
        bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: as in `keras.layers.Dense`.
        **kwargs: arguments of `keras.layers.Layer`: name, dtype, trainable, activity_regularizer.

    Raises:
        ValueError: if `units` is no positive integer, or a number is given as the activation.
    """

    # What a user who gives a number as the second argument probably meant, for the error message.
    _number_advice = "All arguments after `use_bias` are given by name."

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        *,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units: Any = None if units is None else check_size(units, "units")
        if isinstance(activation, numbers.Number):
            raise ValueError(
                "`activation` must be a name, a function or None, as in keras.layers.Dense. "
                f"Received: activation={activation!r}. {self._number_advice}"
            )
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.bias: Any = None

    def call(self, inputs):
        return self.activation(compute_affine(self, self.affine, inputs))

    def affine(self, x):
        """Return `linear(x) + bias`, the layer's output before the activation: (..., n) -> (..., units)."""
        outputs = self.linear(x)
        return outputs if self.bias is None else ops.add(outputs, ops.cast(self.bias, outputs.dtype))

    def linear(self, x):
        """Return the layer's linear map of `x`, without bias and activation: (..., n) -> (..., units)."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units or input_shape[-1])

    def quantize(self, mode=None, **kwargs):
        """Refuse quantization in Keras. `Model.quantize` then warns and goes on to the next layer.

        Raises:
            NotImplementedError: always. The message names the alternative.
        """
        raise NotImplementedError(
            f"Layer '{self.name}' cannot be quantized to {mode} in Keras: it has few weights, and nothing would get faster. "
            "Export the model by keras_butterfly.export.to_tflite, and quantize the .tflite file, for example with "
            "ai-edge-quantizer."
        )

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def _start_build(self, input_shape) -> int:
        """Return the size of the input's last axis, to which the layer is bound from now on.

        Raises:
            ValueError: if it is unknown, or the input has no batch axis.
        """
        features = last_axis(self, input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})
        return features

    def _add_bias(self, units: int) -> None:
        """Add the bias of `units` values if the layer has one."""
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _add_thin_kernels(self, inputs: int, units: int, rank: int, initializers: tuple) -> tuple:
        """Add U (inputs, rank) and V (rank, units) with these two initializers, and return them.

        Raises:
            ValueError: if the rank is above the smaller size.
        """
        largest = min(inputs, units)
        if rank > largest:
            raise ValueError(
                f"Layer '{self.name}' expects a rank of at most {largest}, the smaller of its {inputs} inputs and {units} "
                f"units. Received: rank={rank}"
            )
        named = zip(("kernel_in", "kernel_out"), ((inputs, rank), (rank, units)), initializers, strict=True)
        first, last = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            for name, shape, initializer in named
        )
        return first, last

    def _check_built(self) -> None:
        """Raise ValueError unless the layer is built."""
        if not self.built:
            raise not_built(self)


def last_axis(layer, input_shape) -> int:
    """Return the size of the input's last axis. Raise ValueError if it is unknown or the input has no batch axis."""
    if not isinstance(input_shape, list | tuple) or len(input_shape) < 2:
        raise ValueError(
            f"Layer '{layer.name}' expects an input of at least 2 dimensions, (batch, ..., features). "
            f"Received: input_shape={input_shape}"
        )
    if input_shape[-1] is None:
        raise ValueError(
            f"Layer '{layer.name}' expects the size of the last axis to be known. "
            f"Received: input_shape={tuple(input_shape)}. Give the size, for example by keras.Input(shape=(..., features))."
        )
    return positive_integer(input_shape[-1], "input_shape[-1]")
