"""Fitting all factors of a butterfly or low-rank layer to a trained kernel, or to the outputs of that kernel on data."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from ..utils.quiet import quiet_tensorflow

STEPS = 300
LEARNING_RATE = 3e-3
# Factor on the learning rate of butterfly weights. The usual rule makes some layers slow, so that training does not diverge
# later. A short fit must be quick.
LR_MULTIPLIER = 10.0
# Number of rows of one gradient step. If there are more, each step draws other rows.
BATCH = 1024


@dataclass(frozen=True)
class FitProblem:
    """The problem to find a matrix B for which `inputs @ B` is nearest to `targets` in the 2-norm.

    Attributes:
        inputs: (rows, n). None: the identity, which would take much memory for a wide layer.
        targets: (rows, units).
        rest: squared norm of the part of the targets that no B can reach.
    """

    inputs: np.ndarray | None
    targets: np.ndarray
    rest: float = 0.0

    @classmethod
    def of_kernel(cls, kernel: np.ndarray) -> "FitProblem":
        """Return the problem to find a B near to `kernel` in Frobenius norm."""
        return cls(None, kernel)

    @classmethod
    def of_data(cls, inputs: np.ndarray, targets: np.ndarray) -> "FitProblem":
        """Return the problem to find a B for which `inputs @ B` is near to `targets`, with as few rows as possible.

        With the singular value decomposition inputs = U S V^T, comparing S V^T B with U^T targets has the same minimum. It has
        only as many rows as the rank of the inputs.
        """
        u, s, vt = np.linalg.svd(inputs, full_matrices=False)
        # Smaller singular values are rounding errors.
        kept = max(1, np.count_nonzero(s > s[0] * max(inputs.shape) * np.finfo(s.dtype).eps))
        reduced = u[:, :kept].T @ targets
        rest = float(np.sum(np.square(targets, dtype=np.float64)) - np.sum(np.square(reduced, dtype=np.float64)))
        return cls((s[:kept, None] * vt[:kept]).astype(np.float32), reduced.astype(np.float32), max(rest, 0.0))

    @property
    def norm(self) -> float:
        """Return the squared norm of all targets."""
        return float(np.sum(np.square(self.targets, dtype=np.float64))) + self.rest

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows `index` of the inputs and of the targets."""
        if self.inputs is not None:
            return self.inputs[index], self.targets[index]
        inputs = np.zeros((len(index), len(self.targets)), np.float32)
        inputs[np.arange(len(index)), index] = 1
        return inputs, self.targets[index]

    def error(self, layer) -> float:
        """Return the relative error in the 2-norm if B is the linear map of `layer`."""
        squared = self.rest
        for start in range(0, len(self.targets), BATCH):
            inputs, targets = self.rows(np.arange(start, min(start + BATCH, len(self.targets))))
            squared += float(np.sum(np.square(ops.convert_to_numpy(layer.linear(inputs)) - targets, dtype=np.float64)))
        return float(np.sqrt(squared / self.norm)) if self.norm else 0.0


def fit(
    layer,
    kernel: np.ndarray,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    steps: int = STEPS,
    advance: Callable[[float], None] = lambda done: None,
) -> float:
    """Fit all factors of a built layer to a kernel, or to outputs on data, and return the relative error.

    The fit starts from a hierarchical factorization. The first stack of a `Butterfly` is a factorization of the kernel, and
    each further stack one of the remaining difference. J1 and J2 of a `ButterflyDense` are factorizations of the leading
    singular vectors of the outputs. Then `steps` steps of Adam reduce the mean squared error.

    Args:
        layer: a built `Butterfly`, `ButterflyDense` or `LowRank` n -> units. Its bias is not changed.
        kernel: trained kernel (n, units), y = x @ kernel.
        data: inputs of the layer (rows, n), and the outputs that it should have on them (rows, units). None (default): the
            layer is fitted to the kernel.
        steps: number of gradient steps. 0: the factors are those of the start.
        advance: called with 1 after each step.

    Returns:
        The relative error in the 2-norm, of the kernel or of the outputs on the data. 1 is the error of a layer that returns
        zeros.

    Raises:
        ValueError: if the shapes of kernel and data do not fit the layer, or they are not finite.
    """
    kernel = np.asarray(kernel, np.float32)
    problem = FitProblem.of_kernel(kernel) if data is None else FitProblem.of_data(*_inputs_and_targets(data, kernel.shape))
    linear_copy = _linear_copy(layer, len(kernel))
    linear_copy.approximate(kernel, problem.targets)
    before = [ops.convert_to_numpy(value) for value in linear_copy.trainable_variables]
    first = problem.error(linear_copy)
    _descend(linear_copy, problem, steps, advance)
    error = problem.error(linear_copy)
    if not error < first:  # also if the error is NaN
        error = first
        for variable, value in zip(linear_copy.trainable_variables, before, strict=True):
            variable.assign(value)
    layer.set_map_weights(linear_copy.map_weights())
    return error


def _inputs_and_targets(data, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts of `data` as float32 arrays.

    Raises:
        ValueError: if their shapes do not fit a kernel of this shape, or they are not finite.
    """
    inputs, targets = (np.asarray(part, np.float32) for part in data)
    if (inputs.shape[1:], targets.shape[1:]) != ((shape[0],), (shape[1],)) or len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"Expected inputs (rows, {shape[0]}) and targets (rows, {shape[1]}). Received: {inputs.shape}, {targets.shape}"
        )
    if not (np.all(np.isfinite(inputs)) and np.all(np.isfinite(targets))):
        raise ValueError("Expected finite inputs and targets. Received NaN or infinite values.")
    return inputs, targets


def _linear_copy(layer, inputs: int):
    """Return a built float32 layer that computes only the linear map of `layer`, without regularizers and constraints."""
    config = layer.get_config()
    dropped = {key: None for key in config if key.endswith(("_regularizer", "_constraint"))}
    plain = {"use_bias": False, "activation": None, "dtype": "float32", "trainable": True}
    plain |= {"lora_rank": None} if "lora_rank" in config else {}
    plain |= {"lr_multiplier": LR_MULTIPLIER / config.get("stacks", 1) ** 0.5} if "lr_multiplier" in config else {}
    linear_copy = type(layer).from_config({**config, **dropped, **plain})
    linear_copy.build((None, inputs))
    return linear_copy


def _descend(linear_copy, problem: FitProblem, steps: int, advance: Callable[[float], None]) -> None:
    """Take `steps` steps of Adam on the mean squared error."""
    if not steps or not problem.norm or not linear_copy.trainable_variables:
        return
    inputs = keras.Input((linear_copy.input_spec.axes[-1],))
    model = keras.Model(inputs, linear_copy(inputs))
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    scale = len(problem.targets) / problem.norm  # the loss of zero outputs is then 1, whatever the scale of the data
    model.compile(keras.optimizers.Adam(schedule), lambda target, output: ops.sum(ops.square(target - output), -1) * scale)
    rng, count = np.random.default_rng(0), len(problem.targets)
    with quiet_tensorflow():
        for _ in range(steps):
            model.train_on_batch(*problem.rows(rng.permutation(count)[:BATCH]))
            advance(1)
