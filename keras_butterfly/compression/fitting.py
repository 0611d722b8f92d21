"""Fitting all factors of a butterfly layer to a trained kernel, or to what that kernel gives on data."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..layers.butterfly_dense import ButterflyDense
from ..structure.factorization import factorize, middle_kernel
from ..utils.quiet import quiet_tensorflow

STEPS = 300
LEARNING_RATE = 3e-3
# Rows of one gradient step; of more, each step takes others.
BATCH = 1024


@dataclass(frozen=True)
class Problem:
    """Find B with `inputs @ B` nearest to `targets` in the 2-norm.

    Attributes:
        inputs: (rows, n), or None for the identity, which for a wide layer is larger than all else.
        targets: (rows, units).
        rest: squared norm of what no B can reach.
    """

    inputs: np.ndarray | None
    targets: np.ndarray
    rest: float = 0.0

    @classmethod
    def of_kernel(cls, kernel: np.ndarray) -> "Problem":
        """B near to the kernel itself, in Frobenius norm."""
        return cls(None, kernel)

    @classmethod
    def of_data(cls, inputs: np.ndarray, targets: np.ndarray) -> "Problem":
        """The same minimum as on all examples, on as many rows as the inputs have directions: with inputs = U S V^T it is
        enough to compare S V^T B with U^T targets."""
        u, s, vt = np.linalg.svd(inputs, full_matrices=False)
        kept = max(1, np.count_nonzero(s > s[0] * max(inputs.shape) * np.finfo(s.dtype).eps))  # others are round-off
        reduced = u[:, :kept].T @ targets
        rest = float(np.sum(np.square(targets, dtype=np.float64)) - np.sum(np.square(reduced, dtype=np.float64)))
        return cls((s[:kept, None] * vt[:kept]).astype(np.float32), reduced.astype(np.float32), max(rest, 0.0))

    @property
    def norm(self) -> float:
        """Squared norm of all targets."""
        return float(np.sum(np.square(self.targets, dtype=np.float64))) + self.rest

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of the inputs, with their targets."""
        if self.inputs is not None:
            return self.inputs[index], self.targets[index]
        inputs = np.zeros((len(index), len(self.targets)), np.float32)
        inputs[np.arange(len(index)), index] = 1
        return inputs, self.targets[index]

    def error(self, layer) -> float:
        """Relative error in the 2-norm of the layer's linear map."""
        off = self.rest
        for start in range(0, len(self.targets), BATCH):
            inputs, targets = self.rows(np.arange(start, min(start + BATCH, len(self.targets))))
            off += float(np.sum(np.square(ops.convert_to_numpy(layer.linear(inputs)) - targets, dtype=np.float64)))
        return float(np.sqrt(off / self.norm)) if self.norm else 0.0


def fit(
    layer: Butterfly | ButterflyDense,
    kernel: np.ndarray,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    steps: int = STEPS,
    advance: Callable[[float], None] = lambda done: None,
) -> float:
    """Fits the linear map of a built layer: all factors, to `kernel`, or where given to (inputs, targets) = `data`.

    Starts from the hierarchical factorisation of the kernel, of what earlier stacks have left of it, or for J2^T W' J1 of its
    leading singular vectors (those seen on the data); then takes `steps` of Adam on the mean squared error.

    Args:
        layer: a built `Butterfly` or `ButterflyDense` n -> units; its bias is left alone.
        kernel: (n, units) trained kernel, y = x @ kernel.
        data: examples (rows, n) that the layer is given, and (rows, units) what it is to give for each.
        steps: gradient steps; 0 keeps the start.
        advance: called with 1 after each.

    Returns:
        The relative error in the 2-norm, of the kernel or of the outputs on the data: 1 is that of the zero map.

    Raises:
        ValueError: if the kernel's or the data's shape is not the layer's, or they are not finite.
    """
    kernel = np.asarray(kernel, np.float32)
    problem = Problem.of_kernel(kernel) if data is None else Problem.of_data(*_checked(data, kernel.shape))
    twin = _twin(layer, len(kernel))
    _start(twin, kernel, problem)
    before = [ops.convert_to_numpy(value) for value in twin.trainable_variables]
    first = problem.error(twin)
    _descend(twin, problem, steps, advance)
    error = problem.error(twin)
    if not error < first:  # never worse than the start, NaN included
        error = first
        for variable, value in zip(twin.trainable_variables, before, strict=True):
            variable.assign(value)
    _copy(twin, layer)
    return error


def _checked(data, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = (np.asarray(part, np.float32) for part in data)
    if (inputs.shape[1:], targets.shape[1:]) != ((shape[0],), (shape[1],)) or len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"Expected examples (rows, {shape[0]}) and targets (rows, {shape[1]}). Received: {inputs.shape}, {targets.shape}"
        )
    if not (np.all(np.isfinite(inputs)) and np.all(np.isfinite(targets))):
        raise ValueError("Expected finite examples and targets. Received NaN or infinite values.")
    return inputs, targets


def _twin(layer, inputs: int):
    """The layer's linear map alone, in float32, free of regularisers and constraints."""
    config = layer.get_config()
    dropped = {key: None for key in config if key.endswith(("_regularizer", "_constraint"))}
    plain = {"use_bias": False, "activation": None, "dtype": "float32", "trainable": True}
    plain |= {"lora_rank": None} if "lora_rank" in config else {}
    twin = type(layer).from_config({**config, **dropped, **plain})
    twin.build((None, inputs))
    return twin


def _start(twin, kernel: np.ndarray, problem: Problem) -> None:
    if isinstance(twin, Butterfly):
        return _start_stacks(twin, kernel)
    _start_sandwich(twin, kernel, problem)


def _start_stacks(twin: Butterfly, kernel: np.ndarray) -> None:
    """Each stack is near to what those before it have left of the kernel."""
    weights = np.zeros(tuple(twin.gadget_weights.shape))
    for stack in range(twin.stacks):
        left = kernel - ops.convert_to_numpy(twin.kernel) if stack else kernel
        weights[stack] = _alive(factorize(left, twin.wiring))
        twin.set_gadget_weights(weights)


def _start_sandwich(twin: ButterflyDense, kernel: np.ndarray, problem: Problem) -> None:
    """J1 and J2 near to the singular vectors of the outputs, W' the best between them."""
    k1, k2 = twin.middle_kernel.shape
    rank = min(k1, k2)
    right = np.linalg.eigh(problem.targets.T @ problem.targets)[1].T[: -rank - 1 : -1]  # the outputs' leading directions
    left = kernel @ right.T
    for butterfly, matrix in ((twin.j1, _widened(left.T, k1).T), (twin.j2_t, _widened(right, k2))):
        butterfly.set_gadget_weights(_alive(factorize(matrix, butterfly.wiring))[None])
    twin._kernel.assign(middle_kernel(kernel, *(ops.convert_to_numpy(butterfly.kernel) for butterfly in (twin.j1, twin.j2_t))))


def _widened(rows: np.ndarray, count: int) -> np.ndarray:
    """`rows` repeated to `count` of them."""
    return np.resize(rows, (count, rows.shape[1]))


def _alive(weights: np.ndarray) -> np.ndarray:
    """Without zeros, which where two meet have no gradient: small random values instead."""
    scale = 1e-3 * (np.sqrt(np.mean(np.square(weights))) if len(weights) else 0.0)
    return np.where(weights == 0, scale * np.random.default_rng(0).standard_normal(len(weights)), weights)


def _descend(twin, problem: Problem, steps: int, advance: Callable[[float], None]) -> None:
    if not steps or not problem.norm or not twin.trainable_variables:
        return
    inputs = keras.Input((twin.input_spec.axes[-1],))
    model = keras.Model(inputs, twin(inputs))
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    scale = len(problem.targets) / problem.norm  # a loss of 1 at zero, whatever the data's scale
    model.compile(keras.optimizers.Adam(schedule), lambda wanted, given: ops.sum(ops.square(wanted - given), -1) * scale)
    rng, count = np.random.default_rng(0), len(problem.targets)
    with quiet_tensorflow():
        for _ in range(steps):
            model.train_on_batch(*problem.rows(rng.permutation(count)[:BATCH]))
            advance(1)


def _copy(twin, layer) -> None:
    for source, target in _butterflies(twin, layer):
        target.set_gadget_weights(ops.convert_to_numpy(source.gadget_weights))
    if isinstance(layer, ButterflyDense):
        layer._kernel.assign(twin._kernel)


def _butterflies(twin, layer):
    return [(twin, layer)] if isinstance(layer, Butterfly) else [(twin.j1, layer.j1), (twin.j2_t, layer.j2_t)]
