"""Sketches: maps of (n, d) matrices to (ell, d), X -> B X with few rows, that keep the row space as far as they can."""

import random
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..layers.override import floating
from ..utils.progress import Progress
from ..utils.validation import check_finite, check_seed, positive_integer, positive_number
from .objectives import eigenvalue_loss


class Sketch(keras.layers.Layer):
    """Base of the sketches: `sketch(X)` is B X along the last but one axis, for one matrix or many.

    Args:
        ell: rows of B, at most n.
        seed: int or None; of whatever is drawn. None: the values are drawn anew at every build, unless
            `keras.utils.set_random_seed` fixes them. Positions, such as the rows that a butterfly keeps, are then a fixed
            function of the sizes, so that weights fit every sketch made by the same code.
        **kwargs: of `keras.layers.Layer`.

    Input shape: (..., n, d), n known. Output shape: (..., ell, d).

    Subclasses give `matrix` and `effective_parameters`, and `_apply` where they do not multiply by the matrix.
    """

    def __init__(self, ell, *, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.ell = positive_integer(ell, "ell")
        self.seed = check_seed(seed)
        self._rows = 0

    def build(self, input_shape):
        if len(input_shape) < 2 or input_shape[-2] is None:
            raise ValueError(f"Sketch '{self.name}' takes matrices, (..., n, d), n known. Received: shape {tuple(input_shape)}")
        self._rows = int(input_shape[-2])
        if self.ell > self.rows:
            raise ValueError(f"Sketch '{self.name}' has ell={self.ell} rows, more than its matrices' n={self.rows}")

    def call(self, X):
        X = floating(X, self.compute_dtype)
        self.check_rows(X)
        return self._apply(X)

    def check_rows(self, X) -> None:
        """Raises ValueError unless X is (..., n, d) with the n that the sketch is built for."""
        if X.shape[-2] != self.rows:
            raise ValueError(f"Sketch '{self.name}' takes matrices of {self.rows} rows. Received: shape {tuple(X.shape)}")

    def _value_seed(self) -> int:
        """Return the seed of the drawn values: `seed`, or without one another number at each call."""
        return random.randrange(2**31) if self.seed is None else self.seed

    def _apply(self, X):
        return ops.matmul(ops.cast(self.matrix, X.dtype), X)

    def _add_drawn(self, name: str, drawn: np.ndarray, trainable: bool = True):
        """A weight that starts as `drawn`."""
        return self.add_weight(
            name=name,
            shape=drawn.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(drawn, dtype),
            trainable=trainable,
        )

    def _check_built(self) -> None:
        if not self._rows:
            raise ValueError(f"Sketch '{self.name}' is not built. Call it on a matrix, or build((n, d)), first.")

    @property
    def rows(self) -> int:
        """n, the rows of the matrices it takes.

        Raises:
            ValueError: before the sketch is built.
        """
        self._check_built()
        return self._rows

    @property
    def matrix(self):
        """B as a dense matrix, (ell, n), in the variables' dtype.

        Raises:
            ValueError: before the sketch is built.
        """
        raise NotImplementedError

    @property
    def effective_parameters(self) -> int:
        """Number of entries that B is made of: learned ones, or drawn ones where nothing is learned.

        Raises:
            ValueError: before the sketch is built.
        """
        raise NotImplementedError

    def fit(
        self,
        matrices,
        k: int,
        *,
        steps: int = 1000,
        batch_size: int | None = None,
        learning_rate: float = 1e-2,
        objective: Callable = eigenvalue_loss,
        jit_compile: bool | None = None,
        progress: bool | None = None,
    ) -> keras.callbacks.History:
        """Trains the sketch so that X is near B_k(X), the best approximation of rank k in the row space of B X.

        Loss: the mean over matrices of ||X - B_k(X)||_F^2; Adam with cosine decay.

        Args:
            matrices: (matrices, n, d).
            k: rank of the approximations, at most ell and d.
            steps: of the optimiser, at least 1; rounded up to whole passes over the matrices.
            batch_size: matrices a step. Default: all.
            learning_rate: before the decay. A butterfly's `lr_multiplier` multiplies it.
            objective: `eigenvalue_loss`, or another function (sketched, X, k) -> losses.
            jit_compile: as in `compile`. Default: on JAX only; TensorFlow's XLA on a CPU has an SVD of its own, which is slow.
            progress: show a bar on stderr. Default: where it is a terminal.

        Returns:
            Keras's history, `history["loss"]` the mean over the steps of each epoch.

        Raises:
            ValueError: for matrices that do not fit, hold NaN or infinities, or are all zero; for k above ell or d; for a
                sketch that has nothing to learn.
        """
        matrices = check_matrices(matrices)
        if not self.built:
            self.build(matrices.shape)
        self.check_rows(matrices)
        check_rank(k, self.ell, matrices)
        if not self.trainable_variables:
            raise ValueError(f"{type(self).__name__} '{self.name}' has nothing to learn.")
        steps, count = positive_integer(steps, "steps"), len(matrices)
        size = count if batch_size is None else min(positive_integer(batch_size, "batch_size"), count)
        per_epoch = -(-count // size)
        epochs = -(-steps // per_epoch)
        decay = keras.optimizers.schedules.CosineDecay(positive_number(learning_rate, "learning_rate"), epochs * per_epoch)
        trainer = _Trainer(self, objective, k)
        compiled = keras.backend.backend() == "jax" if jit_compile is None else jit_compile
        trainer.compile(keras.optimizers.Adam(decay), jit_compile=compiled)
        with Progress(progress) as bars, bars.task(f"fit {self.name}", epochs * per_epoch) as advance:
            shown = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: advance(1))
            return trainer.fit(matrices.astype(trainer.compute_dtype), None, size, epochs, verbose=0, callbacks=[shown])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-2], self.ell, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "ell": self.ell, "seed": self.seed}


class _Trainer(keras.Model):
    """Adds the objective of a batch of matrices as the loss, in float32 or more, as decompositions need."""

    def __init__(self, sketch: Sketch, objective: Callable, k: int):
        super().__init__(name="sketch_trainer", dtype="float64" if sketch.variable_dtype == "float64" else "float32")
        self.sketch, self.objective, self.k = sketch, objective, k

    def call(self, X):
        sketched = ops.cast(self.sketch(X), self.compute_dtype)
        self.add_loss(ops.mean(self.objective(sketched, X, self.k)))
        return sketched


@keras.saving.register_keras_serializable("keras_butterfly")
class ButterflySketch(Sketch):
    """B a truncated butterfly: every row of X reaches every row of B X, at most 2 N log2 ell + 6 N weights.

    Args:
        ell, seed, **kwargs: see `Sketch`; the seed is of the outputs kept and of the initial weights.
        truncation, kernel_initializer, stacks, lr_multiplier, implementation: see `Butterfly`. The defaults of the first two
            are the paper's, "random" and "fjlt".

    Raises:
        ValueError: for arguments or matrices that do not fit.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 6.
    """

    def __init__(
        self,
        ell,
        *,
        seed=None,
        truncation="random",
        kernel_initializer="fjlt",
        stacks=1,
        lr_multiplier=None,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(ell, seed=seed, **kwargs)
        self.butterfly = Butterfly(
            self.ell,
            use_bias=False,
            truncation=truncation,
            kernel_initializer=kernel_initializer,
            stacks=stacks,
            lr_multiplier=lr_multiplier,
            implementation=implementation,
            seed=self.seed,
            dtype=self.dtype_policy,
            name="butterfly",
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.butterfly.build((None, self.rows))

    def _apply(self, X):
        if self.butterfly.implementation == "gather":
            return ops.swapaxes(self.butterfly.linear(ops.swapaxes(X, -1, -2)), -1, -2)
        # One multiplication by the folded matrix costs less than stages and transposes: B is short.
        return super()._apply(X)

    @property
    def matrix(self):
        return ops.transpose(self.butterfly.kernel)

    @property
    def effective_parameters(self):
        return self.butterfly.effective_parameters

    def get_config(self):
        own = self.butterfly.get_config()
        names = ("truncation", "kernel_initializer", "stacks", "lr_multiplier", "implementation")
        return {**super().get_config(), **{name: own[name] for name in names}}


@keras.saving.register_keras_serializable("keras_butterfly")
class SparseSketch(Sketch):
    """B with a few non-zeros in every column, at random places fixed for ever, their values learned.

    With one, +-1, it is Clarkson and Woodruff's sketch, and learned that of Indyk et al.; with ell it is dense.

    Args:
        nonzeros: of every column, 1 to ell. Default 1. Initially +-1 / sqrt(nonzeros).
        ell, seed, **kwargs: see `Sketch`; `trainable=False` keeps the values as drawn.

    Raises:
        ValueError: for arguments or matrices that do not fit.

    Reference: Clarkson, Woodruff, STOC 2013; Indyk, Vakilian, Yuan, *Learning-Based Low-Rank Approximations*, NeurIPS 2019.
    """

    def __init__(self, ell, nonzeros=1, *, seed=None, **kwargs):
        super().__init__(ell, seed=seed, **kwargs)
        self.nonzeros = positive_integer(nonzeros, "nonzeros")
        if self.nonzeros > self.ell:
            raise ValueError(f"`nonzeros` must be at most ell, {self.ell}. Received: nonzeros={nonzeros}")

    def build(self, input_shape):
        super().build(input_shape)
        # The legacy generator's stream is frozen: a seed gives the same places for ever.
        rng = np.random.RandomState(0 if self.seed is None else self.seed)
        self.places = np.argsort(rng.random_sample((self.rows, self.ell)), axis=1)[:, : self.nonzeros].astype("int32")
        if self.seed is None:
            rng = np.random.RandomState(self._value_seed())
        signs = rng.choice([-1.0, 1.0], self.places.shape) / self.nonzeros**0.5
        self.values = self._add_drawn("values", signs)

    @property
    def matrix(self):
        columns = np.repeat(np.arange(self.rows, dtype="int32"), self.nonzeros)
        indices = np.stack([self.places.ravel(), columns], axis=1)
        return ops.scatter(indices, ops.reshape(self.values, (-1,)), (self.ell, self.rows))

    @property
    def effective_parameters(self):
        return self.rows * self.nonzeros

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["places"] = self.places

    def load_own_variables(self, store):
        """Loads the values, which fit only the places they were trained at.

        Raises:
            ValueError: if they belong to a sketch of other places.
        """
        stored = {name: store[name] for name in store.keys()}  # noqa: SIM118 (Keras's store does not iterate)
        if not np.array_equal(stored.pop("places", self.places), self.places):
            raise ValueError(
                f"The stored values of sketch '{self.name}' belong to other places than those of its seed, {self.seed}. "
                "Build it from the saved config, or with the same seed."
            )
        super().load_own_variables(stored)

    def get_config(self):
        return {**super().get_config(), "nonzeros": self.nonzeros}


@keras.saving.register_keras_serializable("keras_butterfly")
class DenseSketch(Sketch):
    """B with all entries learned, initially Gaussian, N(0, 1 / ell).

    Args:
        ell, seed, **kwargs: see `Sketch`.

    Raises:
        ValueError: for arguments or matrices that do not fit.
    """

    _learned = True

    def build(self, input_shape):
        super().build(input_shape)
        drawn = np.random.default_rng(self._value_seed()).standard_normal((self.ell, self.rows)) / self.ell**0.5
        self._entries = self._add_drawn("entries", drawn, self._learned)

    @property
    def matrix(self):
        self._check_built()
        return ops.convert_to_tensor(self._entries)

    @property
    def effective_parameters(self):
        return self.ell * self.rows


@keras.saving.register_keras_serializable("keras_butterfly")
class GaussianSketch(DenseSketch):
    """B a drawn Gaussian matrix, N(0, 1 / ell): nothing is learned.

    Args:
        ell, seed, **kwargs: see `Sketch`.

    Raises:
        ValueError: for arguments or matrices that do not fit.
    """

    _learned = False


def check_matrices(matrices) -> np.ndarray:
    """`matrices` as an array (matrices, n, d).

    Raises:
        ValueError: for another shape, NaN or infinities, or nothing but zeros.
    """
    array = np.asarray(matrices)
    if array.ndim != 3 or not array.size:
        raise ValueError(
            f"Expected matrices of numbers, (matrices, n, d), not empty. Received: {array.dtype}, shape {array.shape}"
        )
    check_finite(array, "the matrices")
    if not array.any():
        raise ValueError("Expected matrices that are not all zero, of which there is nothing to learn.")
    return array


def check_rank(k: int, ell: int, matrices) -> None:
    """Raises ValueError for k below 1, above ell or above d."""
    if positive_integer(k, "k") > min(ell, matrices.shape[-1]):
        raise ValueError(f"`k` must be at most ell={ell} and d={matrices.shape[-1]}. Received: k={k}")
