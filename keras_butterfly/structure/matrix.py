"""A dense matrix as one part of a layer's product."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Matrix:
    """A dense matrix, (inputs, outputs), that a layer multiplies by between other parts.

    Attributes:
        name: what the layer calls the part.
        kernel: the tensor.
    """

    name: str
    kernel: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of inputs and outputs."""
        inputs, outputs = self.kernel.shape
        return inputs, outputs
