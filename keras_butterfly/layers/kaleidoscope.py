"""The layer `Kaleidoscope`, whose matrix is a product of butterflies."""

from functools import reduce
from math import prod

import keras
from keras import ops

from ..structure.wiring import radices_of
from ..utils.validation import check_seed
from .butterfly import Butterfly
from .dense_like import DenseLike
from .sizes import MAX_BUTTERFLIES, check_size


@keras.saving.register_keras_serializable("keras_butterfly")
class Kaleidoscope(DenseLike):
    """A layer like `keras.layers.Dense` whose matrix is a product of butterflies: `y = activation(B1 B1' ... Bw Bw' x + bias)`.

    Each pair consists of a butterfly B' with decreasing strides N/2, ..., 1, applied first, and a butterfly B with increasing
    strides. All weights are free. In one butterfly a single path joins an input to an output. In a pair there are many paths.
    So products of w pairs on e n nodes represent every structured map (convolutions, permutations, Fourier and cosine
    transforms, sparse matrices) for some small w and e.

    Weights: `effective_parameters`, about 4 w N log2 N, and `units` for the bias. N is the next power of two of
    `expansion` * max(n, units). Multiply-adds per example, stage by stage: the number of weights.

    Args:
        units: size of the output's last axis. None (default) means n.
        activation, use_bias: as in `keras.layers.Dense`. Defaults: None, True.
        width: number w of pairs. Default 1.
        expansion: factor e on the number of inner nodes. Default 1.
        bias_initializer, bias_regularizer, bias_constraint: as in `keras.layers.Dense`. The bias learns at the optimizer's
            rate.
        seed: int or None, the seed of the initial weights.
        radix, kernel_initializer, kernel_regularizer, kernel_constraint, lr_multiplier, implementation: arguments of each
            butterfly, see `Butterfly`.
        **kwargs: arguments of `keras.layers.Layer`: name, dtype, trainable, activity_regularizer.

    Input shape: (..., n), at least 2-D, n known. Output shape: (..., units). The inputs enter at the first n nodes and the
    outputs are read from the first `units` nodes.

    Raises:
        ValueError: if an argument or the input shape does not fit.

    Reference: Dao et al., *Kaleidoscope: An Efficient, Learnable Representation For All Structured Linear Maps*, ICLR 2020,
        definition 2.3 and theorem 1.

    Example:
        >>> tuple(Kaleidoscope(10, seed=0)(keras.ops.ones((2, 64))).shape)
        (2, 10)
    """

    _number_advice = "The number of pairs is given by name, as in width=2."

    def __init__(
        self,
        units=None,
        activation=None,
        use_bias=True,
        *,
        width=1,
        expansion=1,
        bias_initializer="zeros",
        bias_regularizer=None,
        bias_constraint=None,
        seed=None,
        radix=2,
        kernel_initializer="glorot",
        kernel_regularizer=None,
        kernel_constraint=None,
        lr_multiplier=None,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(
            units,
            activation,
            use_bias,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.width = check_size(width, "width", MAX_BUTTERFLIES)
        self.expansion = check_size(expansion, "expansion", MAX_BUTTERFLIES)
        self.seed = check_seed(seed)
        self.butterflies = [
            Butterfly(
                use_bias=False,
                order="increasing" if index % 2 else "decreasing",
                seed=None if self.seed is None else (self.seed + index) % 2**32,
                name=f"{self.name}_{index}",
                radix=radix,
                kernel_initializer=kernel_initializer,
                kernel_regularizer=kernel_regularizer,
                kernel_constraint=kernel_constraint,
                lr_multiplier=lr_multiplier,
                implementation=implementation,
                dtype=self.dtype_policy,
                trainable=self.trainable,
            )
            for index in range(2 * self.width)
        ]

    def build(self, input_shape):
        features = self._start_build(input_shape)
        units = self.units or features
        inner = prod(radices_of(self.butterflies[0].radix, self.expansion * max(features, units)))
        for butterfly in self.butterflies:
            butterfly.units = units if butterfly is self.butterflies[-1] else inner
            butterfly.build((None, features))
            features = butterfly.units
        self._add_bias(units)

    def linear(self, x):
        """Return the product of the butterflies times `x`, without bias and activation: (..., n) -> (..., units)."""
        for butterfly in self.butterflies:
            x = butterfly(x)
        return x

    @property
    def kernel(self):
        """Return the equivalent dense matrix, (n, units), with `layer.linear(x) == x @ layer.kernel`.

        Its dtype is that of the variables.

        Raises:
            ValueError: before the layer is built.
        """
        self._check_built()
        return reduce(ops.matmul, [butterfly.kernel for butterfly in self.butterflies])

    @property
    def effective_parameters(self) -> int:
        """Return the exact number of the butterflies' weights, without the bias.

        Raises:
            ValueError: before the layer is built.
        """
        self._check_built()
        return sum(butterfly.effective_parameters for butterfly in self.butterflies)

    def get_config(self):
        butterfly = self.butterflies[0].get_config()
        shared = ("radix", "kernel_initializer", "kernel_regularizer", "kernel_constraint", "lr_multiplier", "implementation")
        return {
            **super().get_config(),
            "width": self.width,
            "expansion": self.expansion,
            "seed": self.seed,
            **{name: butterfly[name] for name in shared},
        }
