"""The layer `LowRank`, whose matrix is a product of two thin matrices."""

from typing import Any

import keras
from keras import ops

from ..structure.factorization import leading_directions
from ..structure.matrix import Matrix
from .dense_like import DenseLike
from .sizes import check_size


@keras.saving.register_keras_serializable("keras_butterfly")
class LowRank(DenseLike):
    """A layer like `keras.layers.Dense` whose matrix has a low rank: `y = activation(x U V + bias)`.

    U is an n x rank matrix, V a rank x units matrix. Try it before a butterfly: it is simple, and fast after export.

    Weights: rank (n + units), and `units` for the bias. Multiply-adds per example: rank (n + units).

    Args:
        units: size of the output's last axis.
        activation, use_bias: as in `keras.layers.Dense`. Defaults: None, True.
        rank: the number of columns of U, at most min(n, units). Required.
        kernel_initializer: initializer of U and of V. If it scales the variance, as the default "glorot_uniform" does, both are
            rescaled so that the layer's outputs start with the variance of a `Dense` layer's.
        bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: as in
            `keras.layers.Dense`. The kernel regularizer and constraint act on U and on V.
        **kwargs: arguments of `keras.layers.Layer`: name, dtype, trainable.

    Names of the weights: "kernel_in" of U, (n, rank), "kernel_out" of V, (rank, units), and "bias", (units,).

    Input shape: (..., n), at least 2-D, n known. Output shape: (..., units). Dtype: the compute dtype.

    Raises:
        ValueError: if an argument or the input shape does not fit.

    Example:
        >>> layer = LowRank(10, rank=4)
        >>> tuple(layer(keras.ops.ones((2, 1024))).shape)
        (2, 10)
    """

    _number_advice = "The rank is given by name, as in rank=16."

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        *,
        rank,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(
            check_size(units, "units"),
            activation,
            use_bias,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.rank = check_size(rank, "rank")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_in: Any = None
        self.kernel_out: Any = None

    def build(self, input_shape):
        features = self._start_build(input_shape)

        def initial(shape, dtype):
            return self._gain(features) * self.kernel_initializer(shape, dtype=dtype)

        self.kernel_in, self.kernel_out = self._add_thin_kernels(features, self.units, self.rank, (initial, initial))
        self._add_bias(self.units)

    def linear(self, x):
        """Return `x U V`, the layer's output without bias and activation: (..., n) -> (..., units)."""
        return ops.matmul(ops.matmul(x, self.kernel_in), self.kernel_out)

    def parts(self) -> tuple:
        """Return the maps whose product is the layer's linear map, in the order of application: U and V.

        Raises:
            ValueError: before the layer is built.
        """
        self._check_built()
        return Matrix("in", ops.convert_to_tensor(self.kernel_in)), Matrix("out", ops.convert_to_tensor(self.kernel_out))

    @property
    def kernel(self):
        """Return the equivalent dense matrix, (n, units), with `layer.linear(x) == x @ layer.kernel`.

        Raises:
            ValueError: before the layer is built.
        """
        self._check_built()
        return ops.matmul(ops.convert_to_tensor(self.kernel_in), ops.convert_to_tensor(self.kernel_out))

    def approximate(self, kernel, outputs) -> None:
        """Set U and V so that the outputs are the nearest of this rank: to the leading right singular vectors of `outputs`.

        Args:
            kernel: (n, units), the matrix to come near to.
            outputs: (rows, units), the outputs of the kernel on data.
        """
        right = leading_directions(outputs, self.rank)
        self.set_map_weights([kernel @ right.T, right])

    def map_weights(self) -> list:
        """Return U and V as arrays."""
        return [ops.convert_to_numpy(self.kernel_in), ops.convert_to_numpy(self.kernel_out)]

    def set_map_weights(self, weights) -> None:
        """Set U and V to the arrays that `map_weights` of an equal layer returned."""
        for variable, value in zip((self.kernel_in, self.kernel_out), weights, strict=True):
            variable.assign(value)

    @property
    def effective_parameters(self) -> int:
        """Return the number of weights of U and V, without the bias.

        Raises:
            ValueError: before the layer is built.
        """
        self._check_built()
        return self.rank * (self.kernel_in.shape[0] + self.units)

    def _gain(self, features: int) -> float:
        """Return the factor on U and on V that gives the outputs the variance of a `Dense` layer's.

        With fan the number by which the initializer divides the variance `scale` of its values, the entries of U V have the
        variance rank scale^2 / (fan(n, rank) fan(rank, units)). Those of a `Dense` kernel have scale / fan(n, units).
        """
        initializer = self.kernel_initializer
        if not isinstance(initializer, keras.initializers.VarianceScaling):
            return 1.0
        fan = {"fan_in": lambda n, m: n, "fan_out": lambda n, m: m, "fan_avg": lambda n, m: (n + m) / 2}[initializer.mode]
        thin = fan(features, self.rank) * fan(self.rank, self.units)
        return float((thin / (self.rank * initializer.scale * fan(features, self.units))) ** 0.25)

    def get_config(self):
        return {
            **super().get_config(),
            "rank": self.rank,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
