"""The encoder-decoder butterfly network."""

import math
from typing import Any

import keras
import numpy as np

from ..layers import initializers
from ..layers.butterfly import Butterfly, check_implementation, check_lr_multiplier, check_truncation, last_axis
from ..utils.validation import check_finite, check_seed, positive_integer
from . import landscape


@keras.saving.register_keras_serializable("keras_butterfly")
class ButterflyAutoencoder(keras.Model):
    """A linear autoencoder whose encoder is sparse: `x_hat = D E B x`, no biases, no activations.

    B is an ell x n truncated butterfly, E a dense k x ell, D a dense m x k matrix. Encoder weights: at most
    k ell + min(2 N log2 N, 2 N log2 ell + 6 N), N the next power of two of n, where a dense encoder has k n. Compiled with
    "mse" and trained to give its input, it approximates principal component analysis, without subtracting means; `fit` takes
    targets of another size too, for regression of rank k. Without targets they are the inputs.

    `two_phase_fit` trains as the paper does; `solve` sets D and E to their optimum for the present B.

    Args:
        k: width of the code.
        ell: outputs of the butterfly, k <= ell <= n. Default: `default_ell(k, n)`.
        outputs: m, size of the outputs, at least k. Default: n.
        kernel_initializer: of D and E, as in `keras.layers.Dense`.
        butterfly_initializer: of B. Default "fjlt", as in the paper.
        truncation, lr_multiplier, implementation, seed, truncation_seed: of B; see `Butterfly`. The default truncation is the
            paper's, "random". For E and D call `keras.utils.set_random_seed`.
        **kwargs: of `keras.Model`: name, dtype, trainable.

    Attributes, once built:
        encoder: model, (batch, n) -> (batch, k), made of the layers `butterfly`, B, and `code`, E; to be exported by
            itself where only features are wanted.
        decoder: the dense layer, (batch, k) -> (batch, m).

    Input shape: (batch, n). Output shape: (batch, m). Dtype: the compute dtype.

    Raises:
        ValueError: for k > ell, ell > n, k > m; in `fit` for arrays that hold NaN or infinities or the same example throughout.

    Reference: Ailon, Leibovich, Nair, UAI 2021, sections 4 and 5.2.

    Example:
        >>> autoencoder = ButterflyAutoencoder(4, seed=0)
        >>> tuple(autoencoder(keras.ops.ones((2, 1024))).shape), tuple(autoencoder.encoder(keras.ops.ones((2, 1024))).shape)
        ((2, 1024), (2, 4))
    """

    def __init__(
        self,
        k,
        ell=None,
        outputs=None,
        *,
        kernel_initializer="glorot_uniform",
        butterfly_initializer="fjlt",
        truncation="random",
        lr_multiplier=None,
        implementation="auto",
        seed=None,
        truncation_seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.k = positive_integer(k, "k")
        self.ell = None if ell is None else positive_integer(ell, "ell")
        self.outputs_size = None if outputs is None else positive_integer(outputs, "outputs")
        if self.ell is not None and self.ell < self.k:
            raise ValueError(f"`ell` must be at least k, {self.k}. Received: ell={self.ell}")
        if self.outputs_size is not None and self.outputs_size < self.k:
            raise ValueError(f"`outputs` must be at least k, {self.k}. Received: outputs={self.outputs_size}")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.butterfly_initializer = initializers.get(butterfly_initializer)
        self.truncation = check_truncation(truncation)
        self.lr_multiplier = check_lr_multiplier(lr_multiplier)
        self.implementation = check_implementation(implementation)
        self.seed = check_seed(seed)
        self.truncation_seed = check_seed(truncation_seed, "truncation_seed")
        self.encoder: Any = None
        self.decoder: Any = None

    def build(self, input_shape):
        features = last_axis(self, input_shape)
        ell = default_ell(self.k, features) if self.ell is None else self.ell
        outputs = self.outputs_size or features
        if not self.k <= ell <= features or self.k > outputs:
            raise ValueError(
                f"Model '{self.name}' expects k <= ell <= n and k <= outputs. "
                f"Received: k={self.k}, ell={ell}, n={features}, outputs={outputs}"
            )
        butterfly = Butterfly(
            ell,
            use_bias=False,
            truncation=self.truncation,
            kernel_initializer=self.butterfly_initializer,
            lr_multiplier=self.lr_multiplier,
            implementation=self.implementation,
            seed=self.seed,
            truncation_seed=self.truncation_seed,
            dtype=self.dtype_policy,
            name="butterfly",
        )
        dense = {"use_bias": False, "kernel_initializer": self.kernel_initializer, "dtype": self.dtype_policy}
        code = keras.layers.Dense(self.k, name="code", **dense)
        inputs = keras.Input((features,), dtype="float64" if self.compute_dtype == "float64" else "float32")
        self.encoder = keras.Sequential([inputs, butterfly, code], name="encoder")
        self.decoder = keras.layers.Dense(outputs, name="decoder", **dense)
        self.decoder.build((None, self.k))

    def call(self, inputs):
        return self.decoder(self.encoder(inputs))

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit`; arrays are checked, as the class says."""
        for name, array in (("x", x), ("y", y)):
            if isinstance(array, np.ndarray):
                check_examples(array, name)
        return super().fit(x, y, *args, **kwargs)

    def compute_loss(self, x=None, y=None, *args, **kwargs):
        return super().compute_loss(x, x if y is None else y, *args, **kwargs)

    def compute_metrics(self, x, y, *args, **kwargs):
        return super().compute_metrics(x, x if y is None else y, *args, **kwargs)

    def solve(self, x, y=None) -> float:
        """Sets D and E to their optimum for the present B, where phase 1 of two-phase learning ends, and gives the loss there.

        Args:
            x: (examples, n). y: (examples, m). Default: x.

        Returns:
            ||Y - D E B X||_F^2, the sum over examples and outputs.

        Raises:
            ValueError: for arrays that do not fit the model or hold NaN or infinities.
        """
        x = np.asarray(x, dtype=float)
        check_examples(x, "x")
        if not self.built:
            self.build(x.shape)
        targets = x if y is None else np.asarray(y, dtype=float)
        check_examples(targets, "y")
        if targets.shape[1:] != (self.decoder.units,):
            raise ValueError(f"Expected targets of shape (examples, {self.decoder.units}). Received: {targets.shape}")
        problem = landscape.Problem(self.butterfly, x.T, targets.T)
        largest = problem.largest(self.k)
        decode, code = problem.point(self.k, largest)
        self.code.kernel.assign(code.T)
        self.decoder.kernel.assign(decode.T)
        return problem.loss(largest)

    @property
    def butterfly(self) -> Butterfly:
        """The layer B.

        Raises:
            ValueError: before the model is built.
        """
        return self._part(0)

    @property
    def code(self) -> keras.layers.Dense:
        """The layer E.

        Raises:
            ValueError: before the model is built.
        """
        return self._part(1)

    @property
    def encoder_parameters(self) -> int:
        """Number of the encoder's weights: the effective ones of B, and k ell.

        Raises:
            ValueError: before the model is built.
        """
        return self.butterfly.effective_parameters + self.code.kernel.shape[0] * self.k

    def _part(self, index: int):
        if self.encoder is None:
            raise ValueError(f"Model '{self.name}' has no layers before it is built. Call it on data or `build` it.")
        return self.encoder.layers[index]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.outputs_size or input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "ell": self.ell,
            "outputs": self.outputs_size,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "butterfly_initializer": keras.initializers.serialize(self.butterfly_initializer),
            "truncation": self.truncation,
            "lr_multiplier": self.lr_multiplier,
            "implementation": self.implementation,
            "seed": self.seed,
            "truncation_seed": self.truncation_seed,
        }


def default_ell(k: int, n: int) -> int:
    """Outputs of the butterfly that leave a good approximation of rank k: k (floor(ln k) + 2), at most n.

    The paper's ell = k log k + k / eps with about eps = 1/2, rounded as in its experiments.

    Reference: section 4; Sarlos, FOCS 2006.

    Raises:
        ValueError: unless k and n are positive integers.
    """
    return min(positive_integer(n, "n"), positive_integer(k, "k") * (int(math.log(k)) + 2))


def check_examples(array: np.ndarray, name: str) -> None:
    """Raises ValueError unless `array` is (examples, size), finite, and its examples, if several, are not all the same."""
    if array.ndim != 2 or not array.size:
        raise ValueError(f"Expected `{name}` as (examples, size), not empty. Received: shape {array.shape}")
    check_finite(array, f"`{name}`")
    if len(array) > 1 and (array == array[0]).all():
        raise ValueError(f"Expected examples that differ in `{name}`. Received {len(array)} equal ones.")
