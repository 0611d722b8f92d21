"""Sketches: layers that map an (n, d) matrix X to an (ell, d) matrix B X with fewer rows and nearly the same row space."""

import random
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..layers.override import floating
from ..utils.progress import Progress
from ..utils.validation import check_finite, check_seed, not_built, positive_integer, positive_number
from .objectives import eigenvalue_loss


class Sketch(keras.layers.Layer):
    """Base class of the sketches. A sketch is a layer that multiplies matrices by a matrix B of few rows: `sketch(X) == B @ X`.

    Args:
        ell: number of rows of B, at most n.
        seed: int or None, the seed of everything random. With None, values differ at every build, unless
            `keras.utils.set_random_seed` fixes them. Positions, such as the nodes that a butterfly keeps, are then a fixed
            function of the sizes, so that saved weights fit every sketch made by the same code.
        **kwargs: arguments of `keras.layers.Layer`.

    Input shape: (..., n, d), n known. Output shape: (..., ell, d).

    Subclasses implement `matrix` and `effective_parameters`. They override `_apply` if there is a faster way than to multiply
    by `matrix`.

    Example:
        >>> class Rows(Sketch):
        ...     matrix = property(lambda self: keras.ops.eye(self.ell, self.rows))
        ...     effective_parameters = 0
        >>> tuple(Rows(2)(np.ones((16, 5), "float32")).shape)
        (2, 5)
    """

    def __init__(self, ell, *, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.ell = positive_integer(ell, "ell")
        self.seed = check_seed(seed)
        self._row_count = 0

    def build(self, input_shape):
        if len(input_shape) < 2 or input_shape[-2] is None:
            raise ValueError(
                f"Sketch '{self.name}' expects matrices, (..., n, d), with a known n. Received: shape {tuple(input_shape)}"
            )
        self._row_count = int(input_shape[-2])
        if self.ell > self.rows:
            raise ValueError(
                f"Sketch '{self.name}' expects matrices of at least ell={self.ell} rows. Received: {self.rows} rows. Take a "
                "smaller ell."
            )

    def call(self, X):
        X = floating(X, self.compute_dtype)
        self.check_rows(X)
        return self._apply(X)

    def check_rows(self, X) -> None:
        """Check that the matrices `X`, (..., n, d), have the number of rows for which the sketch is built.

        Raises:
            ValueError: otherwise, and before the sketch is built.
        """
        if X.shape[-2] != self.rows:
            raise ValueError(f"Sketch '{self.name}' expects matrices of {self.rows} rows. Received: shape {tuple(X.shape)}")

    def _value_seed(self) -> int:
        """Return the seed of the random values. If `self.seed` is None, the result is another number at each call."""
        return random.randrange(2**31) if self.seed is None else self.seed

    def _apply(self, X):
        """Return B X, (..., n, d) -> (..., ell, d)."""
        return ops.matmul(ops.cast(self.matrix, X.dtype), X)

    def _add_weight_of(self, initial: np.ndarray, name: str, trainable: bool = True):
        """Add a weight to the layer whose initial value is the array `initial`, and return it."""
        return self.add_weight(
            name=name,
            shape=initial.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(initial, dtype),
            trainable=trainable,
        )

    def _check_built(self) -> None:
        """Raise ValueError unless the sketch is built."""
        if not self._row_count:
            raise not_built(self)

    @property
    def rows(self) -> int:
        """Return n, the number of rows of the matrices that the sketch takes.

        Raises:
            ValueError: before the sketch is built.
        """
        self._check_built()
        return self._row_count

    @property
    def matrix(self):
        """Return B as a dense matrix, (ell, n), in the dtype of the variables.

        Raises:
            ValueError: before the sketch is built.
        """
        raise NotImplementedError

    @property
    def effective_parameters(self) -> int:
        """Return the number of values that define B: the learned ones, or the random ones if nothing is learned.

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
        """Train B so that every matrix X is near B_k(X), the best approximation of rank k in the row space of B X.

        The loss is the mean of ||X - B_k(X)||_F^2 over the matrices. The optimizer is Adam with cosine decay.

        Args:
            matrices: array (matrices, n, d).
            k: rank of the approximations, at most ell and d.
            steps: number of steps of the optimizer, at least 1. It is rounded up to whole passes over the matrices.
            batch_size: number of matrices in a step. Default: all.
            learning_rate: learning rate before the decay. The `lr_multiplier` of a butterfly multiplies it.
            objective: `eigenvalue_loss`, or another function (sketched, X, k) -> losses.
            jit_compile: as in `keras.Model.compile`. Default: True on JAX, else False, because TensorFlow's XLA has a slow SVD
                on a CPU.
            progress: whether to show a progress bar on stderr. Default: only if stderr is a terminal.

        Returns:
            Keras's history. `history["loss"]` holds the mean over the steps of each epoch.

        Raises:
            ValueError: if the matrices do not fit, have an entry that is not finite, or are all zero, if k is above ell or d,
                or if the sketch has no weights to train.
        """
        matrices = check_matrices(matrices)
        if not self.built:
            self.build(matrices.shape)
        self.check_rows(matrices)
        check_rank(k, self.ell, matrices)
        if not self.trainable_variables:
            raise ValueError(
                f"Expected a sketch with weights to train. Received: {type(self).__name__} '{self.name}', which has none. Take "
                "another sketch, or one with trainable=True."
            )
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
    """A model that applies a sketch to a batch of matrices and adds the objective as its loss.

    It computes in float32 or float64, because Keras has no decompositions in shorter floats.
    """

    def __init__(self, sketch: Sketch, objective: Callable, k: int):
        super().__init__(name="sketch_trainer", dtype="float64" if sketch.variable_dtype == "float64" else "float32")
        self.sketch, self.objective, self.k = sketch, objective, k

    def call(self, X):
        sketched = ops.cast(self.sketch(X), self.compute_dtype)
        self.add_loss(ops.mean(self.objective(sketched, X, self.k)))
        return sketched


@keras.saving.register_keras_serializable("keras_butterfly")
class ButterflySketch(Sketch):
    """A sketch whose B is a truncated butterfly, with at most 2 N log2 ell + 6 N weights.

    Every row of X contributes to every row of B X.

    Args:
        ell, **kwargs: see `Sketch`.
        seed: int or None, the seed of the nodes that are kept and of the initial weights.
        truncation, kernel_initializer, stacks, lr_multiplier, implementation: see `Butterfly`. The defaults of the first two
            are the paper's, "random" and "fjlt".

    Raises:
        ValueError: if arguments or matrices do not fit.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 6.

    Example:
        >>> matrices = np.random.default_rng(0).normal(size=(4, 16, 5)).astype("float32")
        >>> sketch = ButterflySketch(4, seed=0)
        >>> history = sketch.fit(matrices, k=2, steps=3)
        >>> tuple(sketch(matrices).shape)
        (4, 4, 5)
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
            radix=2,
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
        # B has few rows, so multiplying by the folded matrix costs less than stages and transposes.
        return super()._apply(X)

    @property
    def matrix(self):
        return ops.transpose(self.butterfly.kernel)

    @property
    def effective_parameters(self):
        return self.butterfly.effective_parameters

    def get_config(self):
        butterfly = self.butterfly.get_config()
        names = ("truncation", "kernel_initializer", "stacks", "lr_multiplier", "implementation")
        return {**super().get_config(), **{name: butterfly[name] for name in names}}


@keras.saving.register_keras_serializable("keras_butterfly")
class SparseSketch(Sketch):
    """A sketch whose B has a few nonzeros in every column. Their rows are random and fixed, and their values are learned.

    With one nonzero, initially +-1, this is the sketch of Clarkson and Woodruff, and after training that of Indyk et al. With
    ell nonzeros B is dense.

    Args:
        ell, seed, **kwargs: see `Sketch`. `trainable=False` keeps the initial values.
        nonzeros: number of nonzeros of every column, 1 to ell. Default 1. Their initial values are +-1 / sqrt(nonzeros).

    Raises:
        ValueError: if arguments or matrices do not fit.

    Reference: Clarkson, Woodruff, STOC 2013; Indyk, Vakilian, Yuan, *Learning-Based Low-Rank Approximations*, NeurIPS 2019.

    Example:
        >>> sketch = SparseSketch(4, nonzeros=2, seed=0)
        >>> tuple(sketch(np.ones((16, 5), "float32")).shape)
        (4, 5)
    """

    def __init__(self, ell, nonzeros=1, *, seed=None, **kwargs):
        super().__init__(ell, seed=seed, **kwargs)
        self.nonzeros = positive_integer(nonzeros, "nonzeros")
        if self.nonzeros > self.ell:
            raise ValueError(f"`nonzeros` must be at most ell, {self.ell}. Received: nonzeros={nonzeros}")

    def build(self, input_shape):
        super().build(input_shape)
        # The stream of the legacy generator is frozen, so a seed gives the same rows in every version of NumPy.
        rng = np.random.RandomState(0 if self.seed is None else self.seed)
        self.nonzero_rows = np.argsort(rng.random_sample((self.rows, self.ell)), axis=1)[:, : self.nonzeros].astype("int32")
        if self.seed is None:
            rng = np.random.RandomState(self._value_seed())
        signs = rng.choice([-1.0, 1.0], self.nonzero_rows.shape) / self.nonzeros**0.5
        self.values = self._add_weight_of(signs, "values")

    @property
    def matrix(self):
        columns = np.repeat(np.arange(self.rows, dtype="int32"), self.nonzeros)
        indices = np.stack([self.nonzero_rows.ravel(), columns], axis=1)
        return ops.scatter(indices, ops.reshape(self.values, (-1,)), (self.ell, self.rows))

    @property
    def effective_parameters(self):
        return self.rows * self.nonzeros

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["nonzero_rows"] = self.nonzero_rows

    def load_own_variables(self, store):
        """Load the values of the nonzeros.

        Raises:
            ValueError: if the stored values belong to a sketch with nonzeros in other rows.
        """
        stored = {name: store[name] for name in store.keys()}  # noqa: SIM118 (Keras's store does not iterate)
        if not np.array_equal(stored.pop("nonzero_rows", self.nonzero_rows), self.nonzero_rows):
            raise ValueError(
                f"The stored values of sketch '{self.name}' belong to nonzeros in other rows than those of its seed, "
                f"{self.seed}. Build it from the saved config, or with the same seed."
            )
        super().load_own_variables(stored)

    def get_config(self):
        return {**super().get_config(), "nonzeros": self.nonzeros}


@keras.saving.register_keras_serializable("keras_butterfly")
class DenseSketch(Sketch):
    """A sketch whose B is a dense matrix. All entries are learned, and their initial values are Gaussian, N(0, 1 / ell).

    Args:
        ell, seed, **kwargs: see `Sketch`.

    Raises:
        ValueError: if arguments or matrices do not fit.

    Example:
        >>> sketch = DenseSketch(4, seed=0)
        >>> tuple(sketch(np.ones((16, 5), "float32")).shape)
        (4, 5)
    """

    _learned = True

    def build(self, input_shape):
        super().build(input_shape)
        initial = np.random.default_rng(self._value_seed()).standard_normal((self.ell, self.rows)) / self.ell**0.5
        self._entries = self._add_weight_of(initial, "entries", self._learned)

    @property
    def matrix(self):
        self._check_built()
        return ops.convert_to_tensor(self._entries)

    @property
    def effective_parameters(self):
        return self.ell * self.rows


@keras.saving.register_keras_serializable("keras_butterfly")
class GaussianSketch(DenseSketch):
    """A sketch whose B is a random Gaussian matrix with entries N(0, 1 / ell). Nothing is learned.

    Args:
        ell, seed, **kwargs: see `Sketch`.

    Raises:
        ValueError: if arguments or matrices do not fit.

    Example:
        >>> sketch = GaussianSketch(4, seed=0)
        >>> tuple(sketch(np.ones((16, 5), "float32")).shape)
        (4, 5)
    """

    _learned = False


def check_matrices(matrices) -> np.ndarray:
    """Return `matrices` as an array (matrices, n, d).

    Raises:
        ValueError: if the shape is another one, an entry is not finite, or all entries are zero.
    """
    array = np.asarray(matrices)
    if array.ndim != 3 or not array.size:
        raise ValueError(
            f"Expected an array (matrices, n, d) of numbers that is not empty. Received: {array.dtype}, shape {array.shape}"
        )
    check_finite(array, "the matrices")
    if not array.any():
        raise ValueError("Expected matrices to train on. Received: only zeros, from which nothing can be learned.")
    return array


def check_rank(k: int, ell: int, matrices) -> None:
    """Raise ValueError unless `k` is an integer from 1 to the smaller of `ell` and the number of columns of `matrices`."""
    if positive_integer(k, "k") > min(ell, matrices.shape[-1]):
        raise ValueError(f"`k` must be at most ell={ell} and d={matrices.shape[-1]}. Received: k={k}")
