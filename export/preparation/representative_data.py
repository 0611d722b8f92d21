"""The inputs that an export is calibrated on and compared with Keras on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_butterfly.utils.model_inputs import flat_inputs, read_examples

from ..tflite.quantize import Precision

Batch = dict[str, np.ndarray]

# Batches of random inputs that stand in where no data are given, or too few.
RANDOM_BATCHES = 4
# Batches of representative data that are run to calibrate and to compare; more change little.
MOST_BATCHES = 200
# Fewer examples than these hardly show the ranges that int8 takes from them.
FEWEST_EXAMPLES = 32
# In int8 one batch in so many is held back from calibration.
HELD_BACK = 4


@dataclass(frozen=True)
class Representative:
    """Batches of inputs by name, each of the exported batch size.

    Attributes:
        calibration: what int8 ranges are taken from, and layers are observed on.
        verification: what the export is compared with Keras on.
        inputs: what `verification` is, in words.
        notes: warnings about data that are too few or do not vary.
    """

    calibration: Sequence[Batch]
    verification: Sequence[Batch]
    inputs: str
    notes: tuple[str, ...] = ()


def representative(model: keras.Model, data, specs: Sequence[tf.TensorSpec], precision: Precision) -> Representative:
    """Return batches of `data`, or random ones if it is None.

    For int8 a quarter of the batches, at least one, is held back from calibration, and the export is compared on these. If the
    data are fewer than 32 examples or do not vary, it is compared on random inputs in their range as well.

    Args:
        model: with inputs.
        data: in any form that `model_inputs.read_examples` takes.
        specs: shapes, dtypes and names of the exported inputs, in the order of `model.inputs`.
        precision: of the export.

    Raises:
        ValueError: for data that do not fit the inputs, are not finite or fill no batch, or for int8 without data.
    """
    if data is None:
        if precision.name == "int8":
            raise ValueError(
                'quantize="int8" takes its ranges from real inputs. Expected `representative_data`, some hundred examples. '
                "Received: None"
            )
        batches = _random_batches(specs)
        return Representative(batches, batches, "random inputs")
    batch = specs[0].shape[0] or 1
    x, _ = read_examples(data, MOST_BATCHES * batch)
    listed = flat_inputs(model, x, "`representative_data`")
    arrays = {spec.name: array.astype(spec.dtype.as_numpy_dtype) for spec, array in zip(specs, listed, strict=True)}
    count = len(listed[0])
    if count < batch:
        raise ValueError(f"Expected at least one batch of {batch} examples in `representative_data`. Received: {count}")
    starts = _starts(count, batch)
    batches = [{name: array[start : start + batch] for name, array in arrays.items()} for start in starts]
    if precision.name != "int8":
        return Representative(batches, batches, "the representative data")
    return _held_back(batches, arrays, specs)


def _held_back(batches: list[Batch], arrays: Batch, specs: Sequence[tf.TensorSpec]) -> Representative:
    """Return the batches with a part held back from calibration, and random ones added where they are too few."""
    count = len(next(iter(arrays.values())))
    held = batches[HELD_BACK - 1 :: HELD_BACK] or batches[1:][-1:]
    kept = [batch for batch in batches if not any(batch is other for other in held)]
    inputs = "a part of the representative data, held back from calibration" if held else "the representative data"
    notes = [f"The input '{name}' is the same in all examples." for name, array in arrays.items() if np.all(array == array[:1])]
    if count < FEWEST_EXAMPLES:
        notes.insert(0, f"The ranges of int8 come from {count} example(s).")
    if not notes:
        return Representative(kept, held, inputs)
    notes.append("Give some hundred typical examples: on other inputs the error may be much larger than the one reported.")
    ranges = {name: (array.min(), array.max()) for name, array in arrays.items()}
    random = _random_batches(specs, ranges)
    return Representative(kept, [*(held or batches), *random], f"{inputs}, and random inputs in its range", (" ".join(notes),))


def _starts(count: int, batch: int) -> list[int]:
    """Return where batches begin: at most MOST_BATCHES, spread over all examples."""
    whole = count // batch
    return [int(index) * batch for index in np.unique(np.linspace(0, whole - 1, min(whole, MOST_BATCHES)).astype(int))]


def _random_batches(specs: Sequence[tf.TensorSpec], ranges: Mapping[str, tuple] | None = None) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [{spec.name: _random(spec, rng, (ranges or {}).get(spec.name)) for spec in specs} for _ in range(RANDOM_BATCHES)]


def _random(spec: tf.TensorSpec, rng: np.random.Generator, limits: tuple | None) -> np.ndarray:
    """Return values between the limits. Without limits: standard normal ones, or 0 and 1 for integers and booleans, which every
    embedding can look up."""
    dtype = spec.dtype.as_numpy_dtype
    shape = (spec.shape[0] or 1, *spec.shape[1:])
    if not spec.dtype.is_floating:
        first, last = limits or (0, 1)
        return rng.integers(int(first), int(last) + 1, shape).astype(dtype)
    if limits is None:
        return rng.standard_normal(shape).astype(dtype)
    low, high = (float(limit) for limit in limits)
    if low == high:
        low, high = low - 1, high + 1
    return rng.uniform(low, high, shape).astype(dtype)
