"""The errors of an exported model against Keras on the same inputs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

# The values of an output count as probabilities if their sum differs from 1 by less than this.
MAX_SUM_ERROR = 1e-3


class ParityError(ValueError):
    """The error that is raised if the outputs of an export differ from those of Keras by more than the tolerance."""

    # The exit code of the command line: the arguments were good, but the result is not.
    exit_code = 1


@dataclass(frozen=True)
class OutputParity:
    """The errors of one output of an export against Keras.

    Attributes:
        name: the name of the output.
        max_error: the largest absolute difference between a value of the export and Keras's value.
        relative_error: `max_error` divided by the largest absolute value of Keras's output.
        agreement: the part of the examples, from 0 to 1, in which the largest value is that of the same class. None if the
            output does not look like scores of classes.
    """

    name: str
    max_error: float
    relative_error: float
    agreement: float | None


@dataclass(frozen=True)
class Parity:
    """The errors of an export against Keras.

    Attributes:
        outputs: the errors of each output.
        examples: number of examples on which the outputs were compared.
        inputs: the origin of these examples, in words: random inputs, the representative data, or a part of these.
    """

    outputs: tuple[OutputParity, ...]
    examples: int
    inputs: str = "the given inputs"

    @property
    def max_error(self) -> float:
        """The largest `max_error` of all outputs."""
        return max((output.max_error for output in self.outputs), default=0.0)

    @property
    def relative_error(self) -> float:
        """The largest `relative_error` of all outputs."""
        return max((output.relative_error for output in self.outputs), default=0.0)

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of all outputs that look like scores of classes, or None if none does."""
        return min((output.agreement for output in self.outputs if output.agreement is not None), default=None)

    def to_dict(self) -> dict:
        """Return all figures, ready for JSON."""
        overall = {name: getattr(self, name) for name in ("max_error", "relative_error", "agreement")}
        return {**overall, **asdict(self)}


def compare_outputs(
    expected: Sequence[np.ndarray],
    actual: Sequence[np.ndarray],
    names: Sequence[str] | None = None,
    inputs: str = "the given inputs",
    logits: bool = False,
) -> Parity:
    """Compare the outputs of an export with those of Keras, and return the errors.

    A value that is finite on one side only counts as an infinite error.

    Args:
        expected: the outputs of Keras.
        actual: the outputs of the export, in the same order.
        names: the names of the outputs. Default: "output_0", "output_1" and so on.
        inputs: the origin of the inputs, in words.
        logits: whether outputs are scores of classes even if they are not probabilities.

    Raises:
        ParityError: if the shapes of an output differ.
    """
    names = names or [f"output_{index}" for index in range(len(expected))]
    compared = [_compare_output(*pair, logits) for pair in zip(names, expected, actual, strict=True)]
    return Parity(tuple(compared), len(expected[0]) if np.ndim(expected[0]) else 1, inputs)


def _compare_output(name: str, expected, actual, logits: bool) -> OutputParity:
    """Compare one output of an export with that of Keras, and return the errors.

    Raises:
        ParityError: if the shapes differ.
    """
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if expected.shape != actual.shape:
        raise ParityError(
            f"Expected the output '{name}' to have the shape that Keras returns, {expected.shape}. "
            f"Received: {actual.shape} from the exported model."
        )
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(expected - actual))
    largest = float(np.max(np.nan_to_num(error, nan=np.inf), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    agreement = float(np.mean(expected.argmax(-1) == actual.argmax(-1))) if _are_scores(expected, logits) else None
    return OutputParity(name, largest, largest / scale if scale else largest, agreement)


def _are_scores(output: np.ndarray, logits: bool) -> bool:
    """Return whether an output looks like scores of classes: probabilities over its last axis, or any values if `logits`."""
    if output.ndim < 2 or output.shape[-1] < 2 or not output.size or not np.all(np.isfinite(output)):
        return False
    return logits or bool(output.min() >= 0 and np.abs(output.sum(-1) - 1).max() < MAX_SUM_ERROR)
