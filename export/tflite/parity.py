"""The errors of an exported model against Keras on the same inputs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

# The values of an output count as probabilities if their sum differs from 1 by less than this.
MAX_SUM_ERROR = 1e-3
# How an output decides about a class: by its largest value, or by whether its single value is above 1/2 or above 0.
Decision = Literal["largest", "half", "positive"]


class ParityError(ValueError):
    """The error that is raised if the outputs of an export differ from those of Keras by more than the tolerance.

    Attributes:
        content: the bytes of the refused .tflite file, where they are known.
    """

    # The exit code of the command line: the arguments were good, but the result is not.
    exit_code = 1
    content: bytes | None = None


@dataclass(frozen=True)
class OutputParity:
    """The errors of one output of an export against Keras.

    Attributes:
        name: the name of the output.
        max_error: the largest absolute difference between a value of the export and Keras's value.
        relative_error: `max_error` divided by the largest absolute value of Keras's output.
        agreement: the part of the decisions about a class, from 0 to 1, that are equal. None if the output does not look like
            scores of classes.
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
    decisions: Sequence[Decision | None] | None = None,
) -> Parity:
    """Compare the outputs of an export with those of Keras, and return the errors.

    A value that is finite on one side only counts as an infinite error.

    Args:
        expected: the outputs of Keras.
        actual: the outputs of the export, in the same order.
        names: the names of the outputs. Default: "output_0", "output_1" and so on.
        inputs: the origin of the inputs, in words.
        decisions: for each output how it decides about a class. None: by the largest value if the values are probabilities.

    Raises:
        ParityError: if the shapes of an output differ.
    """
    names = names or [f"output_{index}" for index in range(len(expected))]
    decisions = decisions or [None] * len(names)
    compared = [_compare_output(*each) for each in zip(names, expected, actual, decisions, strict=True)]
    return Parity(tuple(compared), len(expected[0]) if np.ndim(expected[0]) else 1, inputs)


def _compare_output(name: str, expected, actual, decision: Decision | None) -> OutputParity:
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
    decision = _possible(decision, expected)
    agreement = None if decision is None else float(np.mean(_decide(decision, expected) == _decide(decision, actual)))
    return OutputParity(name, largest, largest / scale if scale else largest, agreement)


def _possible(decision: Decision | None, output: np.ndarray) -> Decision | None:
    """Return how an output decides about a class, or None if it does not look like scores of classes."""
    if output.ndim < 2 or not output.size or not np.all(np.isfinite(output)):
        return None
    if output.shape[-1] == 1:
        return None if decision == "largest" else decision
    are_probabilities = output.min() >= 0 and np.abs(output.sum(-1) - 1).max() < MAX_SUM_ERROR
    return "largest" if decision == "largest" or are_probabilities else None


def _decide(decision: Decision, output: np.ndarray) -> np.ndarray:
    """Return what each vector along the last axis of an output decides for: the number of a class, or True or False."""
    if decision == "largest":
        return output.argmax(-1)
    return output[..., 0] > (0.5 if decision == "half" else 0.0)
