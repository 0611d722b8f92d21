"""The model `ButterflyAutoencoder`, the encoder-decoder butterfly network of the paper."""

import math
from typing import Any

import keras
import numpy as np

from ..layers import initializers
from ..layers.butterfly import Butterfly, check_implementation, check_lr_multiplier, check_truncation
from ..layers.dense_like import last_axis
from ..utils.validation import check_finite, check_seed, not_built, positive_integer
from . import landscape


@keras.saving.register_keras_serializable("keras_butterfly")
class ButterflyAutoencoder(keras.Model):
    """A linear autoencoder whose encoder is sparse: `x_hat = D E B x`, without biases and activations.

    B is an ell x n truncated butterfly, E a dense k x ell matrix, D a dense m x k matrix. The encoder has at most
    k ell + min(2 N log2 N, 2 N log2 ell + 6 N) weights, N the next power of two of n. A dense encoder has k n.

    The targets of `fit` default to the inputs. Trained so with the loss "mse", the model approximates principal component
    analysis without subtracting means. Targets of another size make it a regression of rank k. `two_phase_fit` trains as the
    paper does. `solve` sets D and E to their optimum for the present B.

    Args:
        k: width of the code.
        ell: number of outputs of the butterfly, k <= ell <= n. Default: `default_ell(k, n)`.
        outputs: size m of the outputs, at least k. Default: n.
        kernel_initializer: initializer of D and E, as in `keras.layers.Dense`.
        butterfly_initializer: initializer of B. Default "fjlt", as in the paper.
        truncation, lr_multiplier, implementation, seed, truncation_seed: arguments of B, see `Butterfly`. The default
            truncation is the paper's, "random". To fix the initial D and E call `keras.utils.set_random_seed`.
        **kwargs: arguments of `keras.Model`: name, dtype, trainable.

    Attributes, once built:
        encoder: the model (batch, n) -> (batch, k), made of the layers `butterfly`, B, and `code`, E. It can be exported alone
            if only the code is needed.
        decoder: the dense layer D, (batch, k) -> (batch, m).

    Input shape: (batch, n). Output shape: (batch, m). Dtype: the compute dtype.

    Raises:
        ValueError: if k > ell, ell > n or k > m. In `fit`, if an array has an entry that is not finite, or all examples are
            equal.

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
            radix=2,
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
        """Train the model as `keras.Model.fit` does, after checking `x` and `y` if they are arrays.

        Raises:
            ValueError: if an array has an entry that is not finite, or all its examples are equal.
        """
        for name, array in (("x", x), ("y", y)):
            if isinstance(array, np.ndarray):
                check_examples(array, name)
        return super().fit(x, y, *args, **kwargs)

    def compute_loss(self, x=None, y=None, *args, **kwargs):
        return super().compute_loss(x, x if y is None else y, *args, **kwargs)

    def compute_metrics(self, x, y, *args, **kwargs):
        return super().compute_metrics(x, x if y is None else y, *args, **kwargs)

    def solve(self, x, y=None) -> float:
        """Set D and E to their optimum for the present B, and return the loss there.

        Phase 1 of `two_phase_fit` converges to this optimum.

        Args:
            x: inputs, (examples, n).
            y: targets, (examples, m). Default: x.

        Returns:
            ||Y - D E B X||_F^2, the sum of squares over examples and outputs.

        Raises:
            ValueError: if an array does not fit the model, or has an entry that is not finite.
        """
        x = np.asarray(x, dtype=float)
        check_examples(x, "x")
        if not self.built:
            self.build(x.shape)
        targets = x if y is None else np.asarray(y, dtype=float)
        check_examples(targets, "y")
        if targets.shape[1:] != (self.decoder.units,):
            raise ValueError(f"Expected targets of shape (examples, {self.decoder.units}). Received: {targets.shape}")
        data = landscape.LandscapeData(self.butterfly, x.T, targets.T)
        indices = data.largest_indices(self.k)
        D, E = data.point(self.k, indices)
        self.code.kernel.assign(E.T)
        self.decoder.kernel.assign(D.T)
        return data.loss(indices)

    @property
    def butterfly(self) -> Butterfly:
        """Return the layer B.

        Raises:
            ValueError: before the model is built.
        """
        return self._encoder_layer(0)

    @property
    def code(self) -> keras.layers.Dense:
        """Return the layer E.

        Raises:
            ValueError: before the model is built.
        """
        return self._encoder_layer(1)

    @property
    def encoder_parameters(self) -> int:
        """Return the number of weights of the encoder: those of B, and k ell of E.

        Raises:
            ValueError: before the model is built.
        """
        return self.butterfly.effective_parameters + self.code.kernel.shape[0] * self.k

    def _encoder_layer(self, index: int):
        """Return the layer of the encoder at `index`."""
        if self.encoder is None:
            raise not_built(self)
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
    """Return the default number of outputs of the butterfly, k (floor(ln k) + 2), at most n.

    So many outputs allow a good approximation of rank k. This is the paper's ell = k log k + k / eps with about eps = 1/2,
    rounded as in its experiments.

    Raises:
        ValueError: unless k and n are positive integers.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 4; Sarlos, FOCS 2006.
    """
    return min(positive_integer(n, "n"), positive_integer(k, "k") * (int(math.log(k)) + 2))


def check_examples(array: np.ndarray, name: str) -> None:
    """Check that `array` has the shape (examples, size), finite entries, and examples that are not all equal.

    Raises:
        ValueError: otherwise. A single example is accepted.
    """
    if array.ndim != 2 or not array.size:
        raise ValueError(f"Expected `{name}` as an array (examples, size), not empty. Received: shape {array.shape}")
    check_finite(array, f"`{name}`")
    if len(array) > 1 and (array == array[0]).all():
        raise ValueError(f"Expected examples that differ in `{name}`. Received: {len(array)} equal examples.")
