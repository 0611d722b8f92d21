"""How far an exported model is from Keras on the same inputs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

# How far the sum of an output may be from 1 to count as probabilities.
SUM_TOLERANCE = 1e-3


class ParityError(ValueError):
    """The exported model disagrees with the Keras model beyond the tolerance."""

    exit_code = 1  # of the command line: the input was good, the result is not


@dataclass(frozen=True)
class OutputParity:
    """How far one output of an export is from Keras's on the same inputs.

    Attributes:
        name: of the output.
        max_error: the largest absolute difference of any value.
        relative_error: that difference divided by the largest absolute value that Keras gives.
        agreement: if the output looks like classes, the part of the examples, 0 .. 1, in which both decide for the same class
            (the largest value). None for other outputs.
    """

    name: str
    max_error: float
    relative_error: float
    agreement: float | None


@dataclass(frozen=True)
class Parity:
    """How far an export is from Keras on the same inputs.

    Attributes:
        outputs: the figures of each output.
        examples: number of examples compared.
        inputs: what these examples are, in words: random inputs, the representative data, or a part of them.
    """

    outputs: tuple[OutputParity, ...]
    examples: int
    inputs: str = "the given inputs"

    @property
    def max_error(self) -> float:
        """The largest absolute difference of any value of any output."""
        return max((output.max_error for output in self.outputs), default=0.0)

    @property
    def relative_error(self) -> float:
        """The relative error of the worst output."""
        return max((output.relative_error for output in self.outputs), default=0.0)

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of the outputs that look like classes, or None if none does."""
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
    """Return the parity of pairs of outputs. A value that is not finite on one side only counts as an infinite error.

    Args:
        expected, actual: the outputs of Keras and of the export.
        names: of the outputs. Default: output_0, output_1, ...
        inputs: what the outputs were computed from, in words.
        logits: whether outputs are classes even if they are no probabilities.

    Raises:
        ParityError: for outputs of different shapes.
    """
    names = names or [f"output_{index}" for index in range(len(expected))]
    compared = [_compare_output(*each, logits) for each in zip(names, expected, actual, strict=True)]
    return Parity(tuple(compared), len(expected[0]) if np.ndim(expected[0]) else 1, inputs)


def _compare_output(name: str, expected, actual, logits: bool) -> OutputParity:
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if expected.shape != actual.shape:
        raise ParityError(f"Keras gives the output '{name}' the shape {expected.shape}, the exported model {actual.shape}.")
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(expected - actual))
    largest = float(np.max(np.nan_to_num(error, nan=np.inf), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    agreement = float(np.mean(expected.argmax(-1) == actual.argmax(-1))) if _are_classes(expected, logits) else None
    return OutputParity(name, largest, largest / scale if scale else largest, agreement)


def _are_classes(output: np.ndarray, logits: bool) -> bool:
    """Return whether an output holds probabilities over its last axis, or any values if they may be `logits`."""
    if output.ndim < 2 or output.shape[-1] < 2 or not output.size or not np.all(np.isfinite(output)):
        return False
    return logits or bool(output.min() >= 0 and np.abs(output.sum(-1) - 1).max() < SUM_TOLERANCE)
