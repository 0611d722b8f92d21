"""The result of an export, and running a .tflite file on arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_butterfly.utils.model_inputs import as_array, match_inputs
from keras_butterfly.utils.text_table import TextGroup

from . import files
from .card import model_card
from .explanation import explanation, summary_lines
from .planning.plan import LayerPlan
from .tflite import runtime
from .tflite.parity import Parity
from .tflite.quantize import Precision


@dataclass(frozen=True)
class Gain:
    """What the butterfly layers of an export save over dense kernels.

    Attributes:
        cost: the cost of an invocation, added up over all butterfly layers as exported. Each layer was measured alone.
        dense_cost: the same if the layers were dense kernels.
        size_bytes: bytes of the file.
        dense_size_bytes: estimated bytes of the file if the layers were dense kernels.
        estimated: whether `dense_cost` is partly estimated. A dense kernel that is estimated to be much slower is not
            measured.
        unit: the unit of both costs: "seconds", or "counts", which are weighted sums.
    """

    cost: float
    dense_cost: float
    size_bytes: int
    dense_size_bytes: int
    estimated: bool
    unit: str = "seconds"


@dataclass(frozen=True)
class KerasInputs:
    """The names and the structure in which a Keras model takes its inputs.

    Attributes:
        names: the names of the inputs in Keras, which differ from those of the signature where the user gave none.
        structure: the names of the signature, in the nested dicts and lists in which the model takes its inputs.
    """

    names: tuple[str, ...]
    structure: Any = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class TFLiteModel:
    """A .tflite file with the evidence that its outputs agree with those of the Keras model.

    Attributes:
        content: the bytes of the .tflite file.
        operators: the names of the file's operators in the order of execution. All of them are built in.
        partitions: number of pieces into which the stock runtime cuts the graph for XNNPACK. 1 is best.
        input_names: the names of the signature's inputs, in the order of the Keras model's inputs.
        output_names: the names of the signature's outputs, in the order of the Keras model's outputs.
        precision: the precision of the weights and the activations.
        parity: the errors against Keras, measured during the export. They are measured on the representative data if these were
            given, else on random inputs.
        plan: for each butterfly layer its lowering, the error of this lowering, and the lowerings that were considered.
        notes: warnings about this export, each of one sentence or a few.
        original_parity: the errors against the Keras model in its own precision, if that is not float32. `parity` is then
            against the model's copy in float32. None for a model in float32.
        keras_inputs: how the Keras model takes its inputs, or None if that is not known.

    Example:
        >>> model = keras.Sequential([keras.Input((16,)), Butterfly(seed=0)])
        >>> exported = export.to_tflite(model, effort="estimate")
        >>> exported.input_names, exported.size_bytes == len(exported.content)
        (('input_0',), True)
    """

    content: bytes = field(repr=False)
    operators: tuple[str, ...]
    partitions: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    precision: Precision
    parity: Parity
    plan: tuple[LayerPlan, ...]
    notes: tuple[str, ...] = ()
    original_parity: Parity | None = None
    keras_inputs: KerasInputs | None = field(default=None, repr=False)

    @property
    def size_bytes(self) -> int:
        """The size of the file, in bytes."""
        return len(self.content)

    @property
    def gain(self) -> "Gain | None":
        """What the butterfly layers save over dense kernels. None if the lowering of any of them was not measured."""
        pairs = [(plan.chosen, plan.dense) for plan in self.plan]
        known = [(chosen, dense) for chosen, dense in pairs if chosen and dense and chosen.measured]
        units = {each.unit for pair in known for each in pair}
        if len(units) != 1 or len(known) != len(self.plan):
            return None
        sizes = [dense.size_bytes - chosen.size_bytes for chosen, dense in known]
        return Gain(
            sum(chosen.cost for chosen, _ in known),
            sum(dense.cost for _, dense in known),
            self.size_bytes,
            self.size_bytes + sum(sizes),
            any(dense.measured is None for _, dense in known),
            units.pop(),
        )

    def __str__(self) -> str:
        """Return a few lines of text: precision, size, errors, and what the butterfly layers save."""
        return "\n".join(summary_lines(self))

    def to_dict(self) -> dict:
        """Return all fields but `content` and `original_parity`, ready for JSON."""
        return {
            "size_bytes": self.size_bytes,
            "operators": list(self.operators),
            "partitions": self.partitions,
            "inputs": list(self.input_names),
            "outputs": list(self.output_names),
            "precision": self.precision.label,
            "notes": list(self.notes),
            "parity": self.parity.to_dict(),
            "plan": [
                {
                    "layer": plan.layer,
                    "lowering": str(plan.lowering),
                    "source": plan.source,
                    "device": plan.device,
                    "error": plan.error,
                }
                for plan in self.plan
            ],
        }

    def explain(self) -> TextGroup:
        """Return the summary, the operators, and a table of the lowerings considered for each butterfly layer.

        `print(exported.explain())` shows them, and so does `rich.print`.
        """
        return explanation(self)

    def card(self, name: str = "model.tflite", figure=None) -> str:
        """Return the model card, a page in Markdown for those who get the file.

        It has the inputs and outputs with their shapes, types and quantization, the size, the precision, the errors against
        Keras, the latency, and the code that loads the file.

        Args:
            name: the name of the file that the card describes.
            figure: what `export.measure` returned for this model. None: the card says that nothing was measured.
        """
        return model_card(self, name, figure)

    def predict(self, x):
        """Run the model on examples in the stock runtime.

        Args:
            x: an array of examples. For several inputs, a list of arrays in the order of `input_names`, a dict by name, or
                arrays in the structure in which the Keras model takes them. The number of examples may be any: they are run in
                batches of the exported batch size, and the last batch is padded. If the batch size is not fixed, all examples
                are one batch.

        Returns:
            The output array, or for several outputs a list of arrays in the order of `output_names`. Int8 outputs are
            converted to float.

        Raises:
            ValueError: if the number, the names or the shapes of the inputs do not fit the model.
        """
        return predict(self.content, x, self.input_names, self.output_names, self.keras_inputs)

    def save(self, path, overwrite: bool = False) -> Path:
        """Write the .tflite file, and return its path. A reader sees the whole file or none.

        Raises:
            ValueError: if the file exists and `overwrite` is False, or its folder does not exist.
        """
        return files.write(path, self.content, overwrite)


def predict(
    content: bytes,
    x,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    keras_inputs: KerasInputs | None = None,
):
    """Run the bytes of a .tflite file on examples in the stock runtime, and return the outputs as `TFLiteModel.predict` does.

    Args:
        content: the bytes of a file with one signature.
        x: the inputs, as for `TFLiteModel.predict`.
        input_names: the order in which `x` lists the inputs. Default: the order of the file's signature.
        output_names: the order in which the outputs are returned. Default: the order of the file's signature.
        keras_inputs: how the Keras model takes its inputs. Default: not known.

    Raises:
        ValueError: as `TFLiteModel.predict`.
    """
    interpreter = runtime.load(content)
    signature_inputs, signature_outputs = runtime.signature(interpreter)
    inputs = _arrays_by_name(x, input_names or signature_inputs, keras_inputs)
    count = _example_count(inputs)
    fixed_batch = int(interpreter.get_input_details()[0]["shape_signature"][0])
    batch = count if fixed_batch < 0 else fixed_batch
    starts = range(0, count, batch)
    results = [
        runtime.run(interpreter, {name: _padded_batch(value, start, batch) for name, value in inputs.items()})
        for start in starts
    ]
    outputs = runtime.joined(results)
    arrays = [outputs[name][:count] for name in output_names or signature_outputs]
    return arrays[0] if len(arrays) == 1 else arrays


def _arrays_by_name(x, names: Sequence[str], keras_inputs: KerasInputs | None) -> dict[str, np.ndarray]:
    """Return the inputs `x`, in any form that the Keras model takes, or as a list in the order of `names`, as arrays by name.

    Raises:
        ValueError: if the number or the names of the inputs are not those of `names`.
    """
    structure = None if keras_inputs is None or isinstance(keras_inputs.structure, str) else keras_inputs.structure
    if isinstance(x, Mapping):
        if keras_inputs is not None and set(x) == set(keras_inputs.names):
            x = {name: x[of_keras] for name, of_keras in zip(names, keras_inputs.names, strict=True)}
        elif structure is not None and set(x) != set(names):
            x = dict(match_inputs(structure, x, "the inputs", list(names)))
    else:
        listed = list(x) if isinstance(x, list | tuple) else [x]
        if len(listed) == len(names):
            x = dict(zip(names, listed, strict=True))
        elif structure is not None:
            x = dict(match_inputs(structure, x, "the inputs", list(names)))
        else:
            raise ValueError(f"Expected {len(names)} inputs, {tuple(names)}. Received: {len(listed)}")
    if set(x) != set(names):
        raise ValueError(f"Expected the inputs {tuple(names)}. Received: {tuple(x)}")
    return {name: as_array(x[name], f"the input '{name}'") for name in names}


def _example_count(inputs: Mapping[str, np.ndarray]) -> int:
    """Return the number of examples in every input.

    Raises:
        ValueError: if there are no examples, or the inputs differ in their number.
    """
    counts = {len(value) if value.ndim else 0 for value in inputs.values()}
    if len(counts) != 1 or 0 in counts:
        shapes = {name: value.shape for name, value in inputs.items()}
        raise ValueError(f"Expected at least one example, and the same number in every input. Received the shapes: {shapes}")
    return counts.pop()


def _padded_batch(array: np.ndarray, start: int, batch: int) -> np.ndarray:
    """Return the `batch` examples from `start` on. If fewer are left, copies of the first of them fill the batch."""
    part = array[start : start + batch]
    return np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
