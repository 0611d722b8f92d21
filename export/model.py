"""An exported model with its evidence, and how it is run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import files
from .planning.plan import LayerPlan
from .tflite import runtime
from .tflite.parity import Parity
from .tflite.quantize import Precision, by_name


@dataclass(frozen=True)
class Gain:
    """What the butterfly layers of an export save over dense kernels.

    Attributes:
        seconds, dense_seconds: per invocation, of all butterfly layers together, each measured alone, as exported and as dense
            kernels.
        size_bytes, dense_size_bytes: of the file as it is, and about what it would be with dense kernels.
        estimated: whether a dense kernel was too slow to be worth a measurement, so that the dense figures are estimates.
    """

    seconds: float
    dense_seconds: float
    size_bytes: int
    dense_size_bytes: int
    estimated: bool


@dataclass(frozen=True)
class TFLiteModel:
    """An exported model with its evidence.

    Attributes:
        content: the bytes of the .tflite file.
        operators: names of its operators, in the order of execution; all built in.
        partitions: pieces into which the stock runtime cuts it for XNNPACK; 1 is best.
        input_names, output_names: of its one signature, in the order in which the Keras model takes and gives them.
        precision: of its weights and activations.
        parity: maximum and relative error against Keras, as measured on export, on the representative data where given.
        plan: per butterfly layer, what it was lowered to, its own error, and what else was considered.
        notes: warnings, in sentences.
        original_parity: for a model that does not compute in float32 the errors against the model itself, while `parity` is
            against its copy in float32. None for other models.
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

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def gain(self) -> "Gain | None":
        """What the butterfly layers save over dense kernels, or None where their lowerings were not measured."""
        pairs = [(plan.chosen, plan.dense) for plan in self.plan]
        known = [(chosen, dense) for chosen, dense in pairs if chosen and dense and chosen.measured]
        if not known or len(known) != len(self.plan):
            return None
        sizes = [dense.size_bytes - chosen.size_bytes for chosen, dense in known]
        return Gain(
            sum(chosen.seconds for chosen, _ in known),
            sum(dense.seconds for _, dense in known),
            self.size_bytes,
            self.size_bytes + sum(sizes),
            any(dense.measured is None for _, dense in known),
        )

    def __str__(self) -> str:
        """A few lines: precision, size, error, and what the butterfly layers save."""
        from .measurement.comparison import summary_lines

        return "\n".join(summary_lines(self))

    def to_dict(self) -> dict:
        """The evidence, ready for JSON; without the bytes."""
        return {
            "size_bytes": self.size_bytes,
            "operators": list(self.operators),
            "partitions": self.partitions,
            "inputs": list(self.input_names),
            "outputs": list(self.output_names),
            "precision": self.precision.name or "float32",
            "notes": list(self.notes),
            "parity": self.parity.to_dict(),
            "plan": [
                {"layer": plan.layer, "lowering": str(plan.lowering), "source": plan.source, "error": plan.error}
                for plan in self.plan
            ],
        }

    def explain(self) -> None:
        """Prints the evidence: size, operators, partitions, parity, and for each butterfly layer the lowerings considered."""
        from .measurement.comparison import print_explanation

        print_explanation(self)

    def predict(self, x):
        """Runs the model in the stock runtime.

        Args:
            x: array, or for several inputs a list of arrays or a dict by input name, of any number of examples; they are run
                in batches of the exported batch size, the last one padded, or at once where that is not fixed.

        Returns:
            The output array, or a list of them in the order of `output_names`; in float also where the model's are int8.

        Raises:
            ValueError: for inputs whose number, names or shapes do not fit.
        """
        return predict(self.content, x, self.input_names, self.output_names)

    def save(self, path, overwrite: bool = False) -> Path:
        """Writes the .tflite file, whole or not at all.

        Raises:
            ValueError: if the file exists and `overwrite` is False, or its folder does not.
        """
        return files.write(path, self.content, overwrite)


def predict(content: bytes, x, input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None):
    """Runs the bytes of a .tflite file in the stock runtime, as `TFLiteModel.predict`.

    Args:
        content: of a file with one signature.
        x: as in `TFLiteModel.predict`.
        input_names, output_names: of the signature, in the order wanted. Default: that of the file.
    """
    interpreter = runtime.load(content)
    given, returned = runtime.signature(interpreter)
    inputs, output_names = by_name(x, input_names or given), output_names or returned
    examples = {len(value) if value.ndim else 0 for value in inputs.values()}
    if len(examples) != 1 or 0 in examples:
        shapes = {name: value.shape for name, value in inputs.items()}
        raise ValueError(f"Expected at least one example, as many in every input. Received shapes: {shapes}")
    count = examples.pop()
    batch = int(interpreter.get_input_details()[0]["shape_signature"][0])
    batch = count if batch < 0 else batch
    results = []
    for start in range(0, count, batch):
        part = {name: value[start : start + batch] for name, value in inputs.items()}
        given_now = len(next(iter(part.values())))
        padded = {name: np.concatenate([v, np.repeat(v[:1], batch - given_now, axis=0)]) for name, v in part.items()}
        outputs = runtime.run(interpreter, padded)
        results.append([outputs[name][:given_now] for name in output_names])
    joined = [np.concatenate(column) for column in zip(*results, strict=True)]
    return joined[0] if len(joined) == 1 else joined
