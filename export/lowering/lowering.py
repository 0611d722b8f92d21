"""Lowerings: ways to write a layer's affine map in TFLite's built-in operators, with all weights folded to constants.

Each kind of lowering is a subclass of `Lowering`. `lower(layer, lowering)` returns the function on TensorFlow tensors that
takes the layer's place while the model is traced. The names of its operators begin with the layer's name:
"dense_1/butterfly/factor_0/...".

A lowering reads a layer by its `parts`, the maps whose product the layer is: butterflies and matrices. A layer of a new
structure needs no code here as long as its parts are such.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, TypeGuard

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.layers.butterfly import Butterfly
from keras_butterfly.structure.matrix import Matrix

Affine = Callable[[Any], Any]
Part = Butterfly | Matrix
Work = Counter[str]  # whole numbers, by the units that `planning/costs.json` prices

# The scope of a layer's operators by `Lowering.keep_float32`, from which quantization knows what to leave in float32.
SCOPES = {"": "butterfly", "arithmetic": "butterfly_float32", "weights": "butterfly_float32_weights"}
# XNNPACK's float kernels compute this many columns at a time, a multiple of what each instruction set takes.
LANES = 16


class Layer(Protocol):
    """A Keras layer that can be lowered: `x @ kernel + bias`, and the parts whose product the kernel is."""

    name: str
    bias: Any
    compute_dtype: str

    @property
    def kernel(self) -> Any: ...

    def parts(self) -> tuple[Part, ...]: ...

    def affine(self, x) -> Any: ...

    def compute_output_shape(self, input_shape) -> tuple: ...


@dataclass(frozen=True)
class Lowering:
    """One way to write a layer's affine map. Each subclass is a kind and has the fields that only this kind needs.

    Attributes:
        keep_float32: what stays in float32 inside a quantized model. "arithmetic": the layer computes in float32 from weights
            stored in int8. "weights": those are in float32 too, in an int8 model. "": nothing.
    """

    kind: ClassVar[str]
    # Whether quantization slows the kind down so much that computing in float32 is worth a measurement.
    worth_float32: ClassVar[bool] = False

    keep_float32: str = field(default="", kw_only=True)

    @classmethod
    def candidates(cls, parts: Sequence[Part]) -> Iterator["Lowering"]:
        """Return all lowerings of this kind that are sensible for a layer of `parts`."""
        yield from ()

    def affine(self, layer: Layer, bias: np.ndarray | None) -> Affine:
        """Return the affine map of `layer` as a function (..., n) -> (..., units) on float tensors."""
        raise NotImplementedError

    def work(self, parts: Sequence[Part], rows: int) -> Work:
        """Return how much of each unit of work the lowering does on `rows` rows, weights in bytes of float32."""
        raise NotImplementedError

    def grouped_channels(self, parts: Sequence[Part]) -> Iterator[int]:
        """Return the channels that enter and that leave one group, for each CONV_2D of several groups that writes `parts`."""
        yield from ()

    @property
    def detail(self) -> str:
        """Return in words which one of its kind this lowering is."""
        return ""

    @property
    def family(self) -> tuple:
        """Return what lowerings have in common about which an estimate errs alike."""
        return (self.kind,)

    def __str__(self) -> str:
        kept = {"": "", "arithmetic": "in float32 from int8", "weights": "in float32"}[self.keep_float32]
        return " ".join(part for part in (self.kind, self.detail, kept) if part)

    def to_dict(self) -> dict:
        """Return the kind and the fields, ready for JSON."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, saved: dict) -> "Lowering":
        """Return the lowering whose fields, without the kind, are `saved`.

        Raises:
            ValueError, TypeError: if it does not exist.
        """
        lowering = cls(**saved)
        if lowering.keep_float32 not in SCOPES:
            raise ValueError(f"Expected `keep_float32` among {tuple(SCOPES)}. Received: {lowering.keep_float32!r}")
        return lowering


class PartByPart(Lowering):
    """A lowering that applies a layer's parts one after the other; a subclass says how it writes a butterfly."""

    def affine(self, layer: Layer, bias: np.ndarray | None) -> Affine:
        parts, written = layer.parts(), {}
        for number, part in enumerate(parts):
            added = bias if number == len(parts) - 1 else None
            if has_stages(part):
                written[part.name] = self._butterfly(part, sum(map(has_stages, parts[:number])), added)
            else:
                written[part.name] = product(ops.convert_to_numpy(part.kernel), added)
        return next(iter(written.values())) if len(written) == 1 else _in_turn(written)

    def work(self, parts: Sequence[Part], rows: int) -> Work:
        total: Work = Counter()
        for number, part in enumerate(parts):
            if has_stages(part):
                one = self.butterfly_work(part, sum(map(has_stages, parts[:number])), rows)
                total += Counter({unit: amount * part.stacks for unit, amount in one.items()})
                for inputs, outputs in (kernel.shape for kernel in part.thin_kernels()):
                    total += product_work(inputs, outputs, rows)
            else:
                total += product_work(*shape_of(part), rows)
        return total

    def stack(self, wiring, weights: np.ndarray, number: int, bias: np.ndarray | None) -> Affine:
        """Return one stack of butterfly `number` of the layer as a function."""
        raise NotImplementedError

    def butterfly_work(self, butterfly: Butterfly, number: int, rows: int) -> Work:
        """Return the work of one stack of butterfly `number` of the layer."""
        raise NotImplementedError

    def _butterfly(self, butterfly: Butterfly, number: int, bias: np.ndarray | None) -> Affine:
        first, *others = ops.convert_to_numpy(butterfly.gadget_weights)
        stacks = [self.stack(butterfly.wiring, first, number, bias)]
        stacks += [self.stack(butterfly.wiring, weights, number, None) for weights in others]
        terms = {f"stack_{index}": stack for index, stack in enumerate(stacks)}
        thin = [product(ops.convert_to_numpy(kernel)) for kernel in butterfly.thin_kernels()]
        if thin:
            terms["low_rank"] = _in_turn(dict(zip(("in", "out"), thin, strict=True)))
        return stacks[0] if len(terms) == 1 else _added(terms)


def lower(layer: Layer, lowering: Lowering) -> Affine:
    """Return the linear map and bias of `layer`, without activation, as a function on float tensors.

    The function maps (..., n) to (..., units).
    """
    bias = None if layer.bias is None else ops.convert_to_numpy(layer.bias)
    affine = lowering.affine(layer, bias)
    scope = f"{_scope(layer.name)}/{SCOPES[lowering.keep_float32]}/"

    def scoped(x):
        with tf.name_scope(scope):  # the slash at the end makes it the whole name, wherever in the model the layer sits
            return affine(x)

    return scoped


def has_stages(part: Part) -> TypeGuard[Butterfly]:
    """Return whether a part is a butterfly with stages. A butterfly of one node has none and is a matrix of one entry."""
    return isinstance(part, Butterfly) and bool(part.wiring.strides)


def shape_of(part: Part) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a part."""
    if isinstance(part, Matrix):
        return part.shape
    return len(part.wiring.inputs), len(part.wiring.outputs)


def product(matrix: np.ndarray, bias: np.ndarray | None = None) -> Affine:
    """Return `x @ matrix + bias` as a function."""

    def affine(x):
        result = tf.linalg.matmul(x, tf.constant(matrix)) if x.shape.rank == 2 else tf.tensordot(x, tf.constant(matrix), 1)
        return plus(result, bias)

    return affine


def plus(x, bias: np.ndarray | None):
    """Return `x + bias`, or `x` if there is no bias."""
    return x if bias is None else x + bias


def unflatten(x, shape):
    """Reshape `x` (B, units) to (..., units), with the leading axes of `shape`, of which one may be unknown."""
    if len(shape) == 2:
        return x
    return tf.reshape(x, (*(-1 if axis is None else axis for axis in shape[:-1]), x.shape[-1]))


def product_work(inputs: int, outputs: int, rows: int) -> Work:
    """Return the work of a matrix product (rows, inputs) @ (inputs, outputs)."""
    return Counter(
        {
            "products": 1,
            "product rows": rows,
            "product multiplies": rows * inputs * padded(outputs),
            "weights": 4 * inputs * outputs,
        }
    )


def padded(columns: int) -> int:
    """Return how many columns XNNPACK computes where `columns` are wanted."""
    return columns if columns <= LANES // 2 else -(-columns // LANES) * LANES


def _scope(name: str) -> str:
    """Return a layer's name as TensorFlow takes it for the first part of an operator's name.

    TensorFlow takes letters, digits and a few signs, and no underscore first.
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_-") or "layer"


def _in_turn(parts: dict[str, Affine]) -> Affine:
    def affine(x):
        for name, part in parts.items():
            with tf.name_scope(name):
                x = part(x)
        return x

    return affine


def _added(terms: dict[str, Affine]) -> Affine:
    def affine(x):
        values = []
        for name, term in terms.items():
            with tf.name_scope(name):
                values.append(term(x))
        return tf.add_n(values)

    return affine
