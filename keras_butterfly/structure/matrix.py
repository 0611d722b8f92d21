"""The class `Matrix`: a dense matrix among the parts whose product is the linear map of a layer."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Matrix:
    """A dense matrix, (inputs, outputs), as one of the parts whose product is the linear map of a layer.

    Attributes:
        name: name of the part, different from those of the layer's other parts.
        kernel: tensor (inputs, outputs).
    """

    name: str
    kernel: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of inputs and outputs."""
        inputs, outputs = self.kernel.shape
        return inputs, outputs
