"""The data that an export is calibrated on, and on which it is compared with Keras."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_butterfly.utils.keras_internals import all_layers
from keras_butterfly.utils.model_inputs import flat_inputs
from keras_butterfly.utils.streams import read_examples
from keras_butterfly.utils.validation import check_range

from ..tflite.quantize import Precision

# The inputs of one invocation, by name.
Batch = dict[str, np.ndarray]

# Number of batches of random inputs. They are used without representative data, and in addition to data that are too few.
RANDOM_BATCHES = 4
# The largest number of batches of representative data that are used. More batches hardly change the ranges and the errors.
MAX_BATCHES = 200
# Fewer examples than these show too little of the ranges that int8 takes from them.
MIN_EXAMPLES = 32
# For int8 one batch in this many is held back from calibration.
HOLD_BACK_EVERY = 4


@dataclass(frozen=True)
class RepresentativeBatches:
    """Batches of inputs for calibrating an export and for comparing it with Keras. Each has the exported batch size.

    Attributes:
        calibration: the batches that the int8 ranges come from.
        verification: the batches on which the export is compared with Keras.
        inputs: the origin of `verification`, in words.
        notes: warnings about data that are too few or do not vary.
    """

    calibration: Sequence[Batch]
    verification: Sequence[Batch]
    inputs: str
    notes: tuple[str, ...] = ()


def representative_batches(
    model: keras.Model, data, specs: Sequence[tf.TensorSpec], precision: Precision
) -> RepresentativeBatches:
    """Return the batches on which an export is calibrated and compared with Keras: the user's data, or random inputs.

    For int8 a quarter of the batches, at least one, is held back from calibration, and the export is compared on these. If
    there are fewer than 32 examples, or an input is the same in all of them, the export is also compared on random inputs in
    the range of the data.

    Args:
        model: a model with symbolic inputs.
        data: the user's data in any form that `streams.read_examples` takes, or None for random inputs.
        specs: shapes, dtypes and names of the exported inputs, in the order of `model.inputs`.
        precision: the precision of the export.

    Raises:
        ValueError: if the data do not fit the inputs, are not finite or fill no batch, or there are none for int8.
    """
    if data is None:
        if precision.name == "int8":
            raise ValueError(
                'Expected `representative_data`, some hundred examples, from which quantize="int8" takes its ranges. '
                "Received: None. On the command line give --data."
            )
        batches = _random_batches(specs, _id_ranges(model, specs))
        return RepresentativeBatches(batches, batches, "random inputs")
    batch = specs[0].shape[0] or 1
    x, _ = read_examples(model, data, MAX_BATCHES * batch)
    listed = flat_inputs(model, _by_model_names(x, model, specs), "`representative_data`")
    arrays = {spec.name: _cast(array, spec) for spec, array in zip(specs, listed, strict=True)}
    count = len(listed[0])
    if count < batch:
        raise ValueError(f"Expected at least one batch of {batch} examples in `representative_data`. Received: {count}")
    starts = _starts(count, batch)
    batches = [{name: array[start : start + batch] for name, array in arrays.items()} for start in starts]
    if precision.name != "int8":
        return RepresentativeBatches(batches, batches, "the representative data")
    return _hold_back(batches, arrays, specs)


def _by_model_names(x, model: keras.Model, specs: Sequence[tf.TensorSpec]):
    """Return `x`. If its keys are the names of the signature, change them to the names of the model's inputs."""
    if isinstance(x, Mapping) and set(x) == {spec.name for spec in specs}:
        return {tensor.name: x[spec.name] for tensor, spec in zip(model.inputs, specs, strict=True)}
    return x


def _cast(array: np.ndarray, spec: tf.TensorSpec) -> np.ndarray:
    """Return the values of one input in its dtype.

    Raises:
        ValueError: if the dtype cannot hold them.
    """
    dtype = spec.dtype.as_numpy_dtype
    if spec.dtype.is_floating or spec.dtype.is_integer:
        check_range(array, dtype, spec.name)
    return array.astype(dtype)


def _hold_back(batches: list[Batch], arrays: Batch, specs: Sequence[tf.TensorSpec]) -> RepresentativeBatches:
    """Divide the batches into those that calibrate an int8 export and those on which it is compared with Keras.

    Args:
        batches: all batches.
        arrays: all examples of each input, by name.
        specs: shapes, dtypes and names of the inputs.
    """
    count = len(next(iter(arrays.values())))
    held_back = batches[HOLD_BACK_EVERY - 1 :: HOLD_BACK_EVERY] or batches[1:][-1:]
    calibration = [batch for batch in batches if not any(batch is held for held in held_back)]
    inputs = "a part of the representative data, held back from calibration" if held_back else "the representative data"
    notes = [f"The input '{name}' is the same in all examples." for name, array in arrays.items() if np.all(array == array[:1])]
    if count < MIN_EXAMPLES:
        notes.insert(0, f"The ranges of int8 come from {count} example(s).")
    if not notes:
        return RepresentativeBatches(calibration, held_back, inputs)
    notes.append("Give some hundred typical examples: on other inputs the error may be much larger than the reported one.")
    ranges = {name: (array.min(), array.max()) for name, array in arrays.items()}
    random = _random_batches(specs, ranges)
    verification = [*(held_back or batches), *random]
    return RepresentativeBatches(calibration, verification, f"{inputs}, and random inputs in its range", (" ".join(notes),))


def _starts(count: int, batch: int) -> list[int]:
    """Return the index of the first example of each batch: at most MAX_BATCHES, spread evenly over `count` examples."""
    full_batches = count // batch
    chosen = np.unique(np.linspace(0, full_batches - 1, min(full_batches, MAX_BATCHES)).astype(int))
    return [int(index) * batch for index in chosen]


def _id_ranges(model: keras.Model, specs: Sequence[tf.TensorSpec]) -> dict[str, tuple]:
    """Return the lowest and the highest random value of each input of integers, which every `Embedding` can look up."""
    sizes = [layer.input_dim for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    return {spec.name: (0, min([2, *sizes]) - 1) for spec in specs if spec.dtype.is_integer}


def _random_batches(specs: Sequence[tf.TensorSpec], ranges: Mapping[str, tuple] | None = None) -> list[Batch]:
    """Return RANDOM_BATCHES batches of random inputs. `ranges` has the lowest and the highest value of each input by name."""
    rng = np.random.default_rng(0)
    return [{spec.name: _random(spec, rng, (ranges or {}).get(spec.name)) for spec in specs} for _ in range(RANDOM_BATCHES)]


def _random(spec: tf.TensorSpec, rng: np.random.Generator, limits: tuple | None) -> np.ndarray:
    """Return random values for one input.

    Args:
        spec: the shape and dtype of the input.
        rng: the generator.
        limits: the lowest and the highest value. None: standard normal values, or 0 and 1 for integers and booleans.
    """
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
