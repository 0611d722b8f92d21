"""The layer `ButterflyDense`, whose matrix is the product J2^T W' J1."""

from typing import Any

import keras
import numpy as np
from keras import ops

from ..structure.factorization import leading_directions, middle_kernel
from ..structure.matrix import Matrix
from ..structure.wiring import check_radix
from ..utils.keras_internals import unlocked
from ..utils.validation import check_seed, not_built, positive_integer, positive_number
from .butterfly import Butterfly, check_implementation, check_lr_multiplier
from .dense_like import DenseLike
from .sizes import check_size


@keras.saving.register_keras_serializable("keras_butterfly")
class ButterflyDense(DenseLike):
    """A layer like `keras.layers.Dense` whose matrix is a product of three: `y = activation(J2^T W' J1 x + bias)`.

    J1 is a truncated butterfly n1 -> k1, W' a dense k1 x k2 matrix, J2^T a transposed truncated butterfly k2 -> n2 = units. All
    three are learned. The rank is at most min(k1, k2), by default log2 of the smaller size. The layer is meant for final layers
    and for very unequal sizes. In a hidden layer so low a rank is a bottleneck: prefer `Butterfly`, or larger k1 and k2.

    Weights: `effective_parameters`, at most 2 n1 log2 k1 + 6 n1 + k1 k2 + 2 n2 log2 k2 + 6 n2 (n1, n2 rounded up to powers of
    two), and `units` for the bias. Dense has n1 n2.
    Multiply-adds per example: the number of weights stage by stage, (n1 + n2) min(k1, k2) if J1 and J2^T are folded.

    Args:
        units: size n2 of the output's last axis.
        activation, use_bias: as in `keras.layers.Dense`. Defaults: None, True.
        k1, k2: numbers of rows and of columns of W', at most n1 and n2. Default: log2 of n1 and n2, rounded up, at least 1.
            With ten units the rank is then 4. If that is too low, set both to at least `units`.
        kernel_initializer: initializer of W'. If it scales the variance, as the default "glorot_uniform" does, it is rescaled
            so that the layer's outputs start with the variance of a `Dense` layer's.
        bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: as in
            `keras.layers.Dense`. The kernel regularizer and constraint act on W'.
        butterfly_initializer, butterfly_regularizer, butterfly_constraint: initializer, regularizer and constraint of the
            weights of J1 and J2, as `kernel_...` of `Butterfly`. Defaults: "fjlt", None, None.
        radix: how many nodes each stage of J1 and J2 mixes, as in `Butterfly`. Default 2.
        lr_multiplier: factor on the learning rate of the weights of J1 and J2, as in `Butterfly`. W' and the bias learn at the
            optimizer's rate.
        lora_rank, lora_alpha: as in `keras.layers.Dense`, see `enable_lora`.
        truncation: "random" (default) or "first", which nodes J1 and J2 keep. A random subset is the same for every layer of
            the same sizes, unless `seed` or `truncation_seeds` is given.
        implementation: as in `Butterfly`.
        seed: int or None, the seed of the subsets and of the initial weights of J1 and J2.
        truncation_seeds: pair of ints, the seeds of the subsets of J1 and of J2. Default: derived from `seed`, or constants if
            there is none.
        **kwargs: arguments of `keras.layers.Layer`: name, dtype, trainable.

    Names of the weights: "gadgets" of J1 and of J2, "kernel" of W', (k1, k2), and "bias", (units,).

    Input shape: (..., n1), at least 2-D, n1 known. Output shape: (..., units). Dtype: the compute dtype.

    Raises:
        ValueError: if an argument or the input shape does not fit, for example k1 > n1.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2.

    Example:
        >>> layer = ButterflyDense(10, activation="softmax", seed=0)
        >>> tuple(layer(keras.ops.ones((2, 1024))).shape)
        (2, 10)
    """

    _number_advice = "`k1` and `k2` are given by name, as in k1=16, k2=16."

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        *,
        k1=None,
        k2=None,
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
        lr_multiplier=None,
        lora_rank=None,
        lora_alpha=None,
        radix=2,
        truncation="random",
        implementation="auto",
        seed=None,
        truncation_seeds=None,
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
        self.k1 = None if k1 is None else positive_integer(k1, "k1")
        self.k2 = None if k2 is None else _at_most(k2, self.units, "k2", "units")
        if truncation not in ("random", "first"):
            raise ValueError(f'`truncation` must be "random" or "first". Received: truncation={truncation!r}')
        self.radix = check_radix(radix)
        self.truncation = truncation
        if kernel_initializer is None:
            raise ValueError('`kernel_initializer` must be an initializer, such as "glorot_uniform". Received: None')
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.lora_rank = None if lora_rank is None else check_size(lora_rank, "lora_rank")
        self.lora_alpha = _alpha(lora_alpha, self.lora_rank or 1)
        self.lora_enabled = False
        self.implementation = check_implementation(implementation)
        self.seed = check_seed(seed)
        self.lr_multiplier = check_lr_multiplier(lr_multiplier)
        self.truncation_seeds = check_truncation_seeds(truncation_seeds)
        seed1, seed2 = (None, None) if self.seed is None else (self.seed, (self.seed + 1) % 2**32)
        # Without a seed the subsets of J1 and J2 still differ from each other, and every layer of the same sizes gets the same.
        first, second = self.truncation_seeds or ((0, 1) if self.seed is None else (seed1, seed2))
        butterfly = {
            "radix": self.radix,
            "truncation": truncation,
            "kernel_initializer": butterfly_initializer,
            "kernel_regularizer": butterfly_regularizer,
            "kernel_constraint": butterfly_constraint,
            "lr_multiplier": self.lr_multiplier,
            "implementation": implementation,
            "use_bias": False,
            "dtype": self.dtype_policy,
            "trainable": self.trainable,
        }
        self.j1 = Butterfly(self.k1, seed=seed1, truncation_seed=first, name="j1", **butterfly)
        self.j2_t = Butterfly(self.units, transposed=True, seed=seed2, truncation_seed=second, name="j2_t", **butterfly)
        self._kernel: Any = None

    def build(self, input_shape):
        features = self._start_build(input_shape)
        k1 = default_width(features) if self.k1 is None else _at_most(self.k1, features, "k1", "the input's last axis")
        k2 = self.k2 or default_width(self.units)
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
        self._add_bias(self.units)
        self.built = True
        if self.lora_rank:
            self.enable_lora(self.lora_rank, self.lora_alpha)

    def linear(self, x):
        """Return `J2^T W' J1 x`, the layer's output without bias and activation: (..., n1) -> (..., units)."""
        middle = self.j1(x)
        return self.j2_t(ops.matmul(middle, ops.cast(self.middle_kernel, middle.dtype)))

    def parts(self) -> tuple:
        """Return the maps whose product is the layer's linear map, in the order of application: J1, W' and J2^T.

        Raises:
            ValueError: before the layer is built.
        """
        return self.j1, Matrix("middle", self.middle_kernel), self.j2_t

    @property
    def kernel(self):
        """Return the equivalent dense matrix, (n1, units), with `layer.linear(x) == x @ layer.kernel`.

        Its dtype is that of the variables.

        Raises:
            ValueError: before the layer is built.
        """
        middle = ops.cast(self.middle_kernel, self.variable_dtype)
        return ops.matmul(ops.matmul(self.j1.kernel, middle), self.j2_t.kernel)

    @property
    def middle_kernel(self):
        """Return W', (k1, k2), plus the update of LoRA if LoRA is enabled.

        Raises:
            ValueError: before the layer is built.
        """
        if self._kernel is None:
            raise not_built(self)
        kernel = ops.convert_to_tensor(self._kernel)
        if self.lora_rank is None or not self.lora_enabled:
            return kernel
        update = ops.matmul(ops.convert_to_tensor(self.lora_kernel_a), ops.convert_to_tensor(self.lora_kernel_b))
        return kernel + ops.cast(self.lora_alpha / self.lora_rank * update, kernel.dtype)

    def enable_lora(self, rank, lora_alpha=None, a_initializer="he_uniform", b_initializer="zeros"):
        """Replace W' by W' + (lora_alpha / rank) A B and train only A (k1, rank), B (rank, k2) and the bias.

        The arguments are those of `keras.layers.Dense.enable_lora`. W', J1 and J2 are frozen. Saving the layer adds the update
        to W'.

        Raises:
            ValueError: if W' has a constraint, the layer is not built, or LoRA is already enabled.
        """
        rank = check_size(rank, "rank")
        if self.kernel_constraint:
            raise ValueError(
                "LoRA's update to W' would violate a constraint on W'. Expected a layer without `kernel_constraint`. "
                f"Received: kernel_constraint={self.kernel_constraint}. Remove the constraint, or train without LoRA."
            )
        if not self.built:
            raise not_built(self)
        if self.lora_enabled:
            raise ValueError(f"LoRA can be enabled once. Received: layer '{self.name}', in which it is already enabled.")
        k1, k2 = self._kernel.shape
        with unlocked(self):
            for name, shape, initializer in (("a", (k1, rank), a_initializer), ("b", (rank, k2), b_initializer)):
                weight = self.add_weight(
                    name=f"lora_kernel_{name}",
                    shape=shape,
                    initializer=keras.initializers.get(initializer),
                    regularizer=self.kernel_regularizer,
                    autocast=False,
                )
                setattr(self, f"lora_kernel_{name}", weight)
        self.lora_enabled, self.lora_rank = True, rank
        self._freeze_under_lora()
        self.lora_alpha = _alpha(lora_alpha, rank)

    @property
    def trainable(self):
        """Return whether the layer is trained. With LoRA only A, B and the bias are: W', J1 and J2 stay frozen."""
        return super().trainable

    @trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.__set__(self, value)
        if getattr(self, "lora_enabled", False):
            self._freeze_under_lora()

    def _freeze_under_lora(self):
        """Freeze the weights that LoRA does not train."""
        self._kernel.trainable = self.j1.trainable = self.j2_t.trainable = False

    def save_own_variables(self, store):
        """Write W', plus LoRA's update, and the bias to `store`. Keras saves J1 and J2 as layers of their own."""
        if self.built:
            store["0"] = ops.convert_to_numpy(self.middle_kernel)
            if self.bias is not None:
                store["1"] = self.bias

    def load_own_variables(self, store):
        """Load W' and the bias. If LoRA is enabled, its update is reset to zero.

        Raises:
            ValueError: if the shapes of the stored weights are other ones.
        """
        expected = [variable for variable in (self._kernel, self.bias) if variable is not None]
        shapes = [tuple(store[key].shape) for key in store.keys()]  # noqa: SIM118 (Keras's store does not iterate)
        if shapes != [tuple(variable.shape) for variable in expected]:
            raise ValueError(
                f"Layer '{self.name}' expects weights of the shapes {[tuple(variable.shape) for variable in expected]}. "
                f"Received: {shapes}. Build the layer with the arguments it was saved with."
            )
        for index, variable in enumerate(expected):
            variable.assign(store[str(index)])
        if self.lora_enabled:
            self.lora_kernel_b.assign(ops.zeros(self.lora_kernel_b.shape))

    @property
    def effective_parameters(self) -> int:
        """Return the exact number of weights of J1, W' and J2, without the bias. If LoRA is enabled, A and B count too.

        Raises:
            ValueError: before the layer is built.
        """
        butterflies = self.j1.effective_parameters + self.j2_t.effective_parameters
        lora = [self.lora_kernel_a, self.lora_kernel_b] if self.lora_enabled else []
        return butterflies + sum(int(np.prod(weight.shape)) for weight in (self.middle_kernel, *lora))

    def approximate(self, kernel, outputs) -> None:
        """Set J1 and J2 to factorizations of the leading singular vectors of `outputs`, and W' to the best matrix for them.

        Args:
            kernel: (n1, units), the matrix to come near to.
            outputs: (rows, units), the outputs of the kernel on data.
        """
        k1, k2 = self.middle_kernel.shape
        right = leading_directions(outputs, min(k1, k2))
        rows, columns = (kernel @ right.T).T, right
        self.j1.approximate(np.resize(rows, (k1, rows.shape[1])).T)  # rows are repeated up to the number of nodes
        self.j2_t.approximate(np.resize(columns, (k2, columns.shape[1])))
        kernels = (ops.convert_to_numpy(butterfly.kernel) for butterfly in (self.j1, self.j2_t))
        self._kernel.assign(middle_kernel(kernel, *kernels))

    def map_weights(self) -> list:
        """Return the weights of J1, W' and J2^T as arrays."""
        return [*self.j1.map_weights(), ops.convert_to_numpy(self.middle_kernel), *self.j2_t.map_weights()]

    def set_map_weights(self, weights) -> None:
        """Set the weights of J1, W' and J2^T to those that `map_weights` of an equal layer returned."""
        first, middle, last = weights
        self.j1.set_map_weights([first])
        self._kernel.assign(middle)
        self.j2_t.set_map_weights([last])

    @classmethod
    def from_dense(cls, dense, **kwargs) -> "ButterflyDense":
        """Return a built layer with random J1 and J2, and with the W' for which J2^T W' J1 is nearest to the kernel of `dense`.

        The bias is copied. The result is a start for training, not yet a replacement, because the kernel is projected to random
        subspaces (see `structure.factorization.middle_kernel`).

        Args:
            dense: a built `keras.layers.Dense`. Its units, activation, use_bias, dtype, name and trainable are kept.
            **kwargs: other arguments of `ButterflyDense`, for example k1 and k2.

        Raises:
            ValueError: if `dense` is not a Dense layer, not built, or quantized.
        """
        if not isinstance(dense, keras.layers.Dense):
            raise ValueError(f"`dense` must be a keras.layers.Dense. Received: {type(dense).__name__}")
        if not dense.built:
            raise not_built(dense)
        if getattr(dense, "quantization_mode", None):
            raise ValueError(
                f"`dense` must have a float kernel. Received: layer '{dense.name}', quantized to {dense.quantization_mode}. "
                "Take the layer as it was before quantization."
            )
        settings = {
            "activation": dense.activation,
            "use_bias": dense.use_bias,
            "dtype": dense.dtype_policy,
            "name": dense.name,
            "trainable": dense.trainable,
        }
        layer = cls(dense.units, **{**settings, **kwargs})
        kernel = ops.convert_to_numpy(dense.kernel)
        layer.build((None, kernel.shape[0]))
        butterflies = (ops.convert_to_numpy(butterfly.kernel) for butterfly in (layer.j1, layer.j2_t))
        layer._kernel.assign(middle_kernel(kernel, *butterflies))
        if dense.use_bias and layer.bias is not None:
            layer.bias.assign(dense.bias)
        return layer

    def get_config(self):
        return {
            **super().get_config(),
            "k1": self.k1,
            "k2": self.k2,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "butterfly_initializer": keras.initializers.serialize(self.j1.kernel_initializer),
            "butterfly_regularizer": keras.regularizers.serialize(self.j1.kernel_regularizer),
            "butterfly_constraint": keras.constraints.serialize(self.j1.kernel_constraint),
            "lr_multiplier": self.lr_multiplier,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "radix": list(self.radix) if isinstance(self.radix, tuple) else self.radix,
            "truncation": self.truncation,
            "implementation": self.implementation,
            "seed": self.seed,
            "truncation_seeds": None if self.truncation_seeds is None else list(self.truncation_seeds),
        }

    def _initial_kernel(self, shape, dtype):
        """Draw the initial W'. Rescale it if the initializer scales the variance, as the class says."""
        initial = self.kernel_initializer(shape, dtype=dtype)
        if not isinstance(self.kernel_initializer, keras.initializers.VarianceScaling):
            return initial
        # J1 and J2^T keep the expected norm, so the variance of the layer's outputs is k2 / n2 times that of the outputs of W'.
        k1, k2 = shape
        gain = self._fan(k1, k2) / self._fan(len(self.j1.wiring.inputs), self.units) * self.units / k2
        return initial * gain**0.5

    def _fan(self, inputs, outputs):
        """Return the number by which the initializer divides the variance of an (inputs, outputs) kernel."""
        return {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[self.kernel_initializer.mode]


def default_width(n: int) -> int:
    """Return the paper's width k = log2 n, rounded up, at least 1."""
    return max(1, (n - 1).bit_length())


def check_truncation_seeds(seeds) -> tuple[int, int] | None:
    """Return `seeds` as a pair of ints, or None. Raise ValueError unless it is None or a pair of seeds."""
    if seeds is None:
        return None
    checked = [check_seed(seed, "truncation_seeds") for seed in seeds] if isinstance(seeds, list | tuple) else []
    integers = [seed for seed in checked if seed is not None]
    if len(checked) != 2 or len(integers) != 2:
        raise ValueError(f"`truncation_seeds` must be a pair of integers. Received: truncation_seeds={seeds!r}")
    return integers[0], integers[1]


def _alpha(lora_alpha, rank: int) -> float:
    """Return `lora_alpha` as a float. Its default is `rank`. Raise ValueError unless it is positive."""
    return float(rank) if lora_alpha is None else positive_number(lora_alpha, "lora_alpha")


def _at_most(value, limit: int, name: str, limit_name: str) -> int:
    """Return `value` as an int. Raise ValueError unless it is an integer from 1 to `limit`."""
    number = positive_integer(value, name)
    if number > limit:
        raise ValueError(f"`{name}` must be at most {limit_name}, {limit}. Received: {name}={number}")
    return number
