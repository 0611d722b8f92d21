"""Checks of arguments, each with a message that says what was expected, what was received and what to do."""

import operator
import re
from collections.abc import Sequence

import numpy as np


def positive_integer(value, name: str) -> int:
    """Return `value` as an int if it is a positive integer.

    Raises:
        ValueError: if it is not a positive integer. The message calls it `name`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return number


def integer_up_to(value, name: str, most: int) -> int:
    """Return `value` as an int if it is an integer from 1 to `most`.

    Raises:
        ValueError: if it is not. The message calls it `name`.
    """
    number = positive_integer(value, name)
    if number > most:
        raise ValueError(f"`{name}` must be at most {most:,}. Received: {name}={value!r}")
    return number


def integer_within(value, name: str, least: int, most: int) -> int:
    """Return `value` as an int.

    Raises:
        ValueError: if it is not an integer from `least` to `most`. The message calls it `name`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most or isinstance(value, bool):
        raise ValueError(f"`{name}` must be an integer from {least:,} to {most:,}. Received: {name}={value!r}")
    return number


def check_seed(seed, name: str = "seed") -> int | None:
    """Return `seed` as an int that NumPy's random generators take, or None if it is None.

    Raises:
        ValueError: if it is neither None nor an integer in range. The message calls it `name`.
    """
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or (number is not None and not 0 <= number < 2**32):
        raise ValueError(f"`{name}` must be None or an integer within 0 .. 2**32 - 1. Received: {name}={seed!r}")
    return number


def positive_number(value, name: str, allowed: str = "") -> float:
    """Return `value` as a float.

    Raises:
        ValueError: if it is not a positive finite number. The message calls it `name`, and names as `allowed` the other values
            that the caller accepts.
    """
    number = float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"`{name}` must be {allowed}a positive number. Received: {name}={value!r}")
    return number


def check_finite(values: np.ndarray, name: str) -> None:
    """Check that `values` are finite real numbers or booleans.

    Raises:
        ValueError: if they are not. The message calls them `name`.
    """
    is_number = np.issubdtype(values.dtype, np.number) and values.dtype.kind != "m"  # NumPy counts durations as integers
    if not is_number and values.dtype != bool:
        raise ValueError(f"Expected numbers in {name}. Received: {values.dtype}")
    if np.iscomplexobj(values):
        raise ValueError(f"Expected real numbers in {name}. Received: {values.dtype}")
    wrong = values.size - np.count_nonzero(np.isfinite(values))
    if wrong:
        raise ValueError(f"Expected finite numbers in {name}. Received: {wrong} that are NaN or infinite")


def check_range(values: np.ndarray, dtype, input_name: str) -> None:
    """Check that `values`, which are for one input of a model, lie in the range of the numbers of `dtype`.

    Raises:
        ValueError: if they do not. The message names the input.
    """
    dtype = np.dtype(dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise ValueError(
            f"Expected values of the input '{input_name}' that {dtype.name} can hold. Received: {values.min():.3g} to "
            f"{values.max():.3g}. Replace markers of missing values, and scale the data as for training."
        )


def check_nodes(nodes: Sequence[int], size: int | None, name: str) -> tuple[int, ...]:
    """Return `nodes` as a tuple of distinct ints.

    Raises:
        ValueError: if they are not distinct integers within 0 .. size - 1, or if `size` is None not negative. The message calls
            them `name`.
    """
    try:
        indices = tuple(operator.index(node) for node in nodes)
    except TypeError:
        raise ValueError(f"`{name}` must be a sequence of integer node indices. Received: {name}={nodes!r}") from None
    if not indices:
        raise ValueError(f"`{name}` must name at least one node. Received: {name}={nodes!r}")
    if len(set(indices)) != len(indices):
        raise ValueError(f"`{name}` must name each node once. Received repeated indices: {_repeated(indices)}")
    beyond = [node for node in indices if node < 0 or (size is not None and node >= size)]
    if beyond:
        limit = "not negative" if size is None else f"within 0 .. {size - 1}"
        raise ValueError(f"`{name}` must be {limit}. Received indices out of range: {beyond}")
    return indices


def not_built(layer) -> ValueError:
    """Return the error to raise if `layer`, a Keras layer or model, must be built but is not."""
    return ValueError(
        f"{type(layer).__name__} '{layer.name}' is not built: the shapes of its weights depend on the size of the input, which "
        "is not known yet. Call it on an input, or build(input_shape), first."
    )


def reason_of(error: Exception) -> str:
    """Return what an error of another library says, as one line without its dumps of arguments and configs."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    # Keras puts what it raised first below a heading, or at the end.
    text = text.rpartition("Exception encountered: ")[2].partition("Full object config:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Exception encountered when")]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _repeated(indices: tuple[int, ...]) -> list[int]:
    return sorted({node for node in indices if indices.count(node) > 1})
