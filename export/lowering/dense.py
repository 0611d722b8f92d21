"""Lowerings that multiply the weights out: the whole kernel as one product, or thin matrices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from keras import ops

from .lowering import LANES, Affine, Layer, Lowering, Part, Work, product, product_work, shape_of


@dataclass(frozen=True)
class Dense(Lowering):
    """One FULLY_CONNECTED with the whole kernel, as `keras.layers.Dense` is written."""

    kind = "dense"

    @classmethod
    def candidates(cls, parts: Sequence[Part]) -> Iterator[Lowering]:
        yield cls()

    def affine(self, layer: Layer, bias: np.ndarray | None) -> Affine:
        return product(ops.convert_to_numpy(layer.kernel), bias)

    def work(self, parts: Sequence[Part], rows: int) -> Work:
        return product_work(shape_of(parts[0])[0], shape_of(parts[-1])[1], rows)


@dataclass(frozen=True)
class Folded(Lowering):
    """Each part multiplied out to a matrix, and these to two, with the thinnest middle: n1 -> k -> n2. One part: one product.

    Attributes:
        width: the columns that the first product computes. The surplus over k are zeros that are sliced off. 0: no surplus. On
            AVX2 10 columns have been seen to take 1.7 times as long as 16.
    """

    kind = "folded"
    worth_float32 = True

    width: int = 0

    @classmethod
    def candidates(cls, parts: Sequence[Part]) -> Iterator[Lowering]:
        if len(parts) > 1:
            yield cls()
            middle = _middle(parts)
            if middle % LANES:
                yield cls(width=-(-middle // LANES) * LANES)

    def affine(self, layer: Layer, bias: np.ndarray | None) -> Affine:
        parts = layer.parts()
        kernels = [ops.convert_to_numpy(part.kernel) for part in parts]
        if len(parts) == 1:
            return product(kernels[0], bias)
        cut = [shape_of(part)[0] for part in parts].index(_middle(parts), 1)
        first, second = (reduce(np.matmul, group) for group in (kernels[:cut], kernels[cut:]))
        middle = first.shape[1]
        surplus = max(0, self.width - middle)
        widen, narrow = product(np.pad(first, ((0, 0), (0, surplus)))), product(second, bias)
        return lambda x: narrow(widen(x)[..., :middle] if surplus else widen(x))

    def work(self, parts: Sequence[Part], rows: int) -> Work:
        inputs, outputs = shape_of(parts[0])[0], shape_of(parts[-1])[1]
        if len(parts) == 1:
            return product_work(inputs, outputs, rows)
        middle = _middle(parts)
        return product_work(inputs, max(middle, self.width), rows) + product_work(middle, outputs, rows)

    @property
    def detail(self) -> str:
        return f"through {self.width}" if self.width else ""

    @classmethod
    def from_dict(cls, saved: dict) -> Lowering:
        if not isinstance(saved["width"], int) or saved["width"] < 0:
            raise ValueError(f"Expected a width that is an integer from 0. Received: {saved['width']!r}")
        return super().from_dict(saved)


def _middle(parts: Sequence[Part]) -> int:
    """Return the width of the thinnest place between two parts."""
    return min(shape_of(part)[0] for part in parts[1:])
