"""The Dense replacement J2^T W' J1."""

import keras
import numpy as np
from keras import ops

from .butterfly import Butterfly, check_implementation, last_axis
from .execution import execute
from .projection import middle_kernel
from .wiring import check_seed, positive_integer


@keras.saving.register_keras_serializable("keras_butterfly")
class ButterflyDense(keras.layers.Layer):
    """Drop-in for `keras.layers.Dense`: `y = activation(J2^T W' J1 x + bias)`.

    J1 is a truncated butterfly n1 -> k1, W' a dense k1 x k2 kernel, J2^T a transposed truncated butterfly k2 -> n2 = units; all
    three are learned. The rank is at most min(k1, k2), by default log2 of the smaller size: meant for final layers and for very
    unequal sizes. In a hidden layer that is a bottleneck; prefer `Butterfly`, or larger k1 and k2.

    Weights: at most 2 n1 log2 k1 + 6 n1 + k1 k2 + 2 n2 log2 k2 + 6 n2 (n1, n2 rounded up to powers of two), against n1 n2;
    `effective_parameters` is exact. Multiply-adds per example: as many stage by stage, (n1 + n2) min(k1, k2) folded.

    Args:
        units: size n2 of the output's last axis.
        k1, k2: widths of the middle, at most n1 and n2. Default: log2 of n1 and n2, rounded up, at least 1.
        activation, use_bias, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer,
            kernel_constraint, bias_constraint: as in `keras.layers.Dense`. The kernel ones act on W'.
        kernel_initializer: of W'. A variance scaling one, such as the default "glorot_uniform", is rescaled so that the
            layer's outputs start with the variance a `Dense` layer's would.
        butterfly_initializer, butterfly_regularizer, butterfly_constraint, gain: of J1's and J2's weights, as the kernel ones
            and `gain` of `Butterfly`. Default "fjlt", none, none, 3.
        truncation: "random" (default) or "first": which nodes J1 and J2 keep.
        implementation: as in `Butterfly`.
        seed: int or None; of the subsets and of the butterflies' initial weights.
        truncation_seeds: pair of ints; of J1's and J2's subsets. Default: from `seed`, else drawn now. Saved with the config.
        **kwargs: of `keras.layers.Layer`: name, dtype, trainable.

    Input shape: (..., n1), at least 2-D, n1 known. Output shape: (..., units). Dtype: the layer's compute dtype.

    Raises:
        ValueError: for an argument or input shape that does not fit, such as k1 > n1; the message names what was expected.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2.

    Example:
        >>> layer = ButterflyDense(10, activation="softmax", seed=0)
        >>> tuple(layer(keras.ops.ones((2, 1024))).shape)
        (2, 10)
    """

    def __init__(
        self,
        units,
        k1=None,
        k2=None,
        *,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        butterfly_initializer="fjlt",
        butterfly_regularizer=None,
        butterfly_constraint=None,
        gain=None,
        truncation="random",
        implementation="auto",
        seed=None,
        truncation_seeds=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = positive_integer(units, "units")
        self.k1 = None if k1 is None else positive_integer(k1, "k1")
        self.k2 = None if k2 is None else _at_most(k2, self.units, "k2", "units")
        if truncation not in ("random", "first"):
            raise ValueError(f'`truncation` must be "random" or "first". Received: truncation={truncation!r}')
        self.truncation = truncation
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        if kernel_initializer is None:
            raise ValueError('`kernel_initializer` must be an initialiser, such as "glorot_uniform". Received: None')
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.implementation = check_implementation(implementation)
        self.seed = check_seed(seed)
        seed1, seed2 = (None, None) if self.seed is None else (self.seed, (self.seed + 1) % 2**32)
        first, second = check_truncation_seeds(truncation_seeds)
        butterfly = {
            "truncation": truncation,
            "kernel_initializer": butterfly_initializer,
            "kernel_regularizer": butterfly_regularizer,
            "kernel_constraint": butterfly_constraint,
            "gain": gain,
            "implementation": implementation,
            "dtype": self.dtype_policy,
            "trainable": self.trainable,
        }
        self.j1 = Butterfly(self.k1, seed=seed1, truncation_seed=first, name="j1", **butterfly)
        self.j2_t = Butterfly(self.units, transposed=True, seed=seed2, truncation_seed=second, name="j2_t", **butterfly)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self._kernel = None
        self.bias = None

    def build(self, input_shape):
        features = last_axis(self, input_shape)
        k1 = default_width(features) if self.k1 is None else _at_most(self.k1, features, "k1", "the input's last axis")
        k2 = self.k2 or default_width(self.units)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})
        self.j1.units = k1
        self.j1.build((None, features))
        self._kernel = self.add_weight(
            name="kernel",
            shape=(k1, k2),
            initializer=self._initial_kernel,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.j2_t.build((None, k2))
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def call(self, inputs):
        outputs = execute(self, self.linear, inputs)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)

    def linear(self, x):
        """The linear map alone, without bias and activation: (..., n1) -> (..., units)."""
        return self.j2_t(ops.matmul(self.j1(x), self._kernel))

    @property
    def kernel(self):
        """The equivalent dense matrix, (n1, units): `layer.linear(x) == x @ layer.kernel`.

        Raises:
            ValueError: before the layer is built.
        """
        middle = ops.cast(ops.convert_to_tensor(self.middle_kernel), self.compute_dtype)
        return ops.matmul(ops.matmul(self.j1.kernel, middle), self.j2_t.kernel)

    @property
    def middle_kernel(self):
        """The variable W', (k1, k2).

        Raises:
            ValueError: before the layer is built.
        """
        if self._kernel is None:
            raise ValueError(
                f"Layer '{self.name}' is not built: W' depends on the input's size, which is not known yet. "
                "Call the layer on an input, or build(input_shape), first."
            )
        return self._kernel

    @property
    def effective_parameters(self) -> int:
        """Exact number of weights of J1, W' and J2; bias not counted.

        Raises:
            ValueError: before the layer is built.
        """
        butterflies = self.j1.effective_parameters + self.j2_t.effective_parameters
        return butterflies + int(np.prod(self.middle_kernel.shape))

    @classmethod
    def from_dense(cls, dense, k1=None, k2=None, **kwargs) -> "ButterflyDense":
        """A built layer whose J1 and J2 are fresh draws and whose W' projects the kernel of `dense`; the bias is copied.

        The projection sees the kernel through random subspaces (see `projection.middle_kernel`): expect to train after.

        Args:
            dense: a built `keras.layers.Dense`; its units, activation, use_bias, dtype, name and trainable are kept.
            k1, k2, **kwargs: of `ButterflyDense`.

        Raises:
            ValueError: if `dense` is no Dense layer or not built.
        """
        if not isinstance(dense, keras.layers.Dense):
            raise ValueError(f"`dense` must be a keras.layers.Dense. Received: {type(dense).__name__}")
        if not dense.built:
            raise ValueError(f"Layer '{dense.name}' has no kernel yet. Build it, or call it on an input, first.")
        if getattr(dense, "quantization_mode", None):
            raise ValueError(f"Expected a float kernel. Received: '{dense.name}', quantized to {dense.quantization_mode}.")
        settings = {
            "activation": dense.activation,
            "use_bias": dense.use_bias,
            "dtype": dense.dtype_policy,
            "name": dense.name,
            "trainable": dense.trainable,
        }
        layer = cls(dense.units, k1, k2, **{**settings, **kwargs})
        kernel = ops.convert_to_numpy(dense.kernel)
        layer.build((None, kernel.shape[0]))
        butterflies = (ops.convert_to_numpy(butterfly.kernel) for butterfly in (layer.j1, layer.j2_t))
        layer.middle_kernel.assign(middle_kernel(kernel, *butterflies))
        if dense.use_bias and layer.bias is not None:
            layer.bias.assign(dense.bias)
        return layer

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "k1": self.k1,
            "k2": self.k2,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "butterfly_initializer": keras.initializers.serialize(self.j1.kernel_initializer),
            "butterfly_regularizer": keras.regularizers.serialize(self.j1.kernel_regularizer),
            "butterfly_constraint": keras.constraints.serialize(self.j1.kernel_constraint),
            "gain": self.j1.gain,
            "truncation": self.truncation,
            "implementation": self.implementation,
            "seed": self.seed,
            "truncation_seeds": [self.j1.truncation_seed, self.j2_t.truncation_seed],
        }

    def _initial_kernel(self, shape, dtype):
        initial = self.kernel_initializer(shape, dtype=dtype)
        if not isinstance(self.kernel_initializer, keras.initializers.VarianceScaling):
            return initial
        # J1 and J2^T keep the expected norm, so an output's variance is k2 / n2 times what W' gives its own outputs.
        k1, k2 = shape
        gain = self._fan(k1, k2) / self._fan(len(self.j1.wiring.inputs), self.units) * self.units / k2
        return initial * gain**0.5

    def _fan(self, inputs, outputs):
        return {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[self.kernel_initializer.mode]


def default_width(n: int) -> int:
    """The paper's k = log2 n, rounded up, at least 1."""
    return max(1, (n - 1).bit_length())


def check_truncation_seeds(seeds) -> tuple[int | None, int | None]:
    if seeds is None:
        return None, None
    if not isinstance(seeds, list | tuple) or len(seeds) != 2:
        raise ValueError(f"`truncation_seeds` must be a pair of integers. Received: truncation_seeds={seeds!r}")
    return check_seed(seeds[0], "truncation_seeds[0]"), check_seed(seeds[1], "truncation_seeds[1]")


def _at_most(value, limit: int, name: str, limit_name: str) -> int:
    number = positive_integer(value, name)
    if number > limit:
        raise ValueError(f"`{name}` must be at most {limit_name}, {limit}. Received: {name}={number}")
    return number
