"""A table of the weights, multiply-adds and bytes of each layer of a model."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import keras

from .compression.dense_map import little_saved
from .layers.butterfly import Butterfly
from .layers.butterfly_dense import ButterflyDense
from .layers.flattened_axes import FlattenedAxes
from .layers.kaleidoscope import Kaleidoscope
from .layers.low_rank import LowRank
from .utils.keras_internals import all_layers, attention_projections, held_layers
from .utils.model_checks import check_model
from .utils.recording import Call, recorded
from .utils.text_table import TextTable, wide_console

Shape = tuple[int | None, ...]

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_BUTTERFLIES = (Butterfly, ButterflyDense, Kaleidoscope, LowRank)
# Layers that are one row each, although they hold layers. The cell of an RNN runs inside a compiled loop, where its calls
# cannot be counted.
_LEAVES = (*_BUTTERFLIES, keras.layers.RNN)
# Sizes that are tried for axes that a model leaves open. They suit images, and still differ if they are halved five times.
_LENGTHS = (96, 128)


@dataclass(frozen=True)
class Row:
    """The weights and multiply-adds of one layer.

    Attributes:
        layer: path of the layer: the names on the way to it, as in "block/dense". If a path occurs again, it is followed by
            "(2)".
        kind: class of the layer.
        output_shape: shape of the output of the layer's first call, None for axes that are not fixed. A tuple of shapes if the
            layer has several outputs. None if the layer is not called.
        weights: number of weights that the layer holds, without those of layers inside it and those counted in earlier rows.
        biases: number of them that are biases.
        dense_weights: number of weights that the layer would have with a dense kernel. The same as `weights` for layers that
            are no butterflies.
        multiply_adds: multiply-adds per example, over all calls. None if they depend on axes that are not fixed.
    """

    layer: str
    kind: str
    output_shape: Shape | tuple[Shape, ...] | None
    weights: int
    biases: int
    dense_weights: int
    multiply_adds: int | None

    @property
    def size_bytes(self) -> dict[str, int]:
        """Return the bytes of the weights in each precision. In int8 a bias still has 4 bytes, because it is int32."""
        return {"float32": 4 * self.weights, "float16": 2 * self.weights, "int8": self.weights + 3 * self.biases}


@dataclass(frozen=True)
class Summary:
    """The weights and multiply-adds of the layers of a model. The totals are sums of the rows.

    Attributes:
        model: name of the model.
        rows: one row for each layer. A layer comes after the layers inside it.
    """

    model: str
    rows: tuple[Row, ...]

    @property
    def weights(self) -> int:
        """Return the number of weights of the model, as `model.count_params()` does."""
        return sum(row.weights for row in self.rows)

    @property
    def dense_weights(self) -> int:
        """Return the number of weights that the model would have with dense kernels in place of butterflies."""
        return sum(row.dense_weights for row in self.rows)

    @property
    def multiply_adds(self) -> int | None:
        """Return the multiply-adds per example, or None if those of a row are None."""
        counts = [row.multiply_adds for row in self.rows]
        return None if None in counts else sum(filter(None, counts))

    @property
    def size_bytes(self) -> dict[str, int]:
        """Return the bytes of the weights in each precision, see `Row.size_bytes`."""
        sizes: Counter[str] = Counter({"float32": 0, "float16": 0, "int8": 0})
        for row in self.rows:
            sizes.update(row.size_bytes)
        return dict(sizes)

    @property
    def compression(self) -> float:
        """Return `dense_weights` over `weights`, or 1 for a model without weights."""
        return self.dense_weights / self.weights if self.weights else 1.0

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each butterfly layer that has more than half as many weights as a dense one."""
        kinds = {kind.__name__ for kind in _BUTTERFLIES}
        found = (little_saved(row.layer, row.weights, row.dense_weights) for row in self.rows if row.kind in kinds)
        return tuple(note for note in found if note)

    def table(self) -> TextTable:
        """Return a table, which `print` and `rich.print` show."""
        title = f"{self.model}, compression {self.compression:,.1f}x"
        table = TextTable(title=title, title_justify="left", caption="\n".join(self.notes) or None, caption_justify="left")
        for column in ("layer", "kind", "output shape"):
            table.add_column(column, overflow="fold")
        for column in ("weights", "dense\nweights", "multiply-\nadds", "float32\nKiB", "float16\nKiB", "int8\nKiB"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            shape = "" if row.output_shape is None else str(row.output_shape)
            table.add_row(row.layer, row.kind, shape, *_numbers(row))
        table.add_section()
        table.add_row("total", "", "", *_numbers(self))
        return table

    def to_dict(self) -> dict:
        """Return the summary as a dict of plain values, which JSON can hold. Sizes are in bytes."""
        totals = ("weights", "dense_weights", "multiply_adds", "size_bytes", "compression")
        return {
            "model": self.model,
            "rows": [{**asdict(row), "size_bytes": row.size_bytes} for row in self.rows],
            "total": {name: getattr(self, name) for name in totals},
            "notes": list(self.notes),
        }


def summary(model: keras.Model, *, show: bool = True) -> Summary:
    """Return the weights, multiply-adds and bytes of each layer of a built model, and print them as a table.

    There is a row for each layer that holds no other layers, at any depth of the model. `Butterfly`, `ButterflyDense`,
    `Kaleidoscope`, `LowRank` and recurrent layers are one row each. So is a `FlattenedAxes`, whose row is that of the layer in
    it. If a layer that holds other layers has weights or multiply-adds besides theirs, these are in a row after their rows. A
    layer that is called twice has one row: its weights count once, and its multiply-adds for each call. Layers without weights
    that are not called have no row.

    Multiply-adds are per example, without bias and activation. P is the product of the axes between batch and features:

    - `Butterfly`, `ButterflyDense`, `Kaleidoscope`, `LowRank`: P times `effective_parameters`, one for each weight.
    - `Dense`: P n units. `EinsumDense`: the product of all axes of the equation except the batch.
    - Convolutions: output positions times kernel size. Transposed convolutions: input positions times kernel size.
    - Recurrent layers: steps times the size of all kernels. `ConvLSTM`: the same times output positions.
    - `MultiHeadAttention`, `GroupQueryAttention`: the two attention products, queries x keys x heads of the queries x (depth
      of keys + depth of values).
    - Other layers, and operations outside layers: 0. A compiled loop (`ops.scan`) counts as one pass.

    Shapes come from symbolic calls, which compute no values. A subclassed model is called with float32 inputs, of the shapes of
    its first call.

    Args:
        model: a built `keras.Model`.
        show: whether to print the table to stdout.

    Returns:
        A `Summary`.

    Raises:
        ValueError: if `model` is no keras.Model, is not built, has quantized layers, or cannot be called symbolically.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), Butterfly(seed=0), keras.layers.Dense(10)])
        >>> totals = summary(model, show=False)
        >>> totals.weights, totals.dense_weights
        (1482, 4810)
    """
    _check_model(model)
    parts = _parts(model)
    projections = [
        each for _, layer in parts if isinstance(layer, _ATTENTION) and layer.built for each in attention_projections(layer)
    ]
    runs = _SymbolicRuns(model, [*projections, *(layer for _, layer in parts if _is_leaf(layer))])
    result = Summary(model.name, tuple(_table_rows(parts, runs)))
    if show:
        wide_console().print(result.table())
    return result


def _check_model(model) -> None:
    """Check that `model` is a built Keras model without quantized layers.

    Raises:
        ValueError: if it is not.
    """
    check_model(model)
    quantized = [layer.name for layer in all_layers(model) if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(f"Expected float layers. Received quantized ones: {quantized}. Call summary before `quantize`.")


def _is_leaf(layer) -> bool:
    """Return whether the layers inside `layer` have no rows of their own, or there are none."""
    return isinstance(layer, _LEAVES) or not held_layers(layer)


def _parts(model) -> list[tuple[str, Any]]:
    """Return (path, layer) for each layer once. A layer comes after the layers inside it."""
    parts: list[tuple[str, Any]] = []
    visited: set[int] = set()
    taken: Counter[str] = Counter()

    def walk(layer, path):
        if id(layer) in visited:
            return
        visited.add(id(layer))
        if isinstance(layer, FlattenedAxes):
            return walk(layer.layer, path)
        if not _is_leaf(layer):
            for inner in held_layers(layer):
                walk(inner, f"{path}/{inner.name}" if layer is not model else inner.name)
        taken[path] += 1
        parts.append((f"{path} ({taken[path]})" if taken[path] > 1 else path, layer))

    walk(model, model.name)
    return parts


def _table_rows(parts, runs: "_SymbolicRuns") -> Iterator[Row]:
    """Yield a row for each layer that is called or has weights."""
    counted: set[int] = set()
    for path, layer in parts:
        new_weights = [weight for weight in layer.weights if id(weight) not in counted]
        counted.update(map(id, new_weights))
        weights = sum(map(_size, new_weights))
        row = Row(
            layer=path,
            kind=_class_of(layer).__name__,
            output_shape=runs.output_shape(layer),
            weights=weights,
            biases=sum(_size(weight) for weight in new_weights if weight.name == "bias"),
            dense_weights=_dense_weights(layer) if isinstance(layer, _BUTTERFLIES) and layer.built else weights,
            multiply_adds=runs.multiply_adds(layer),
        )
        if row.output_shape is not None or row.weights or row.multiply_adds != 0:
            yield row


def _class_of(layer) -> type:
    """Return the class of `layer`. If `replace_dense` has replaced layers inside it, this is the class that it had before."""
    return getattr(type(layer), "_user_class", type(layer))


def _size(weight) -> int:
    return math.prod(weight.shape)


def _dense_weights(layer) -> int:
    inputs = layer.input_spec.axes[-1]
    units = layer.units or inputs
    return inputs * units + units * bool(layer.use_bias)


def _numbers(part: Row | Summary) -> list[str]:
    multiply_adds = "?" if part.multiply_adds is None else f"{part.multiply_adds:,}"
    sizes = [f"{size / 1024:,.1f}" for size in part.size_bytes.values()]
    return [f"{part.weights:,}", f"{part.dense_weights:,}", multiply_adds, *sizes]


# NaN is the size of an axis that is unknown even if all inputs have known shapes. A count that depends on it is NaN, and so
# does not equal itself.
_Sizes = tuple[float, ...]


class _CallShapes(NamedTuple):
    """The shapes in one call of a layer: of its first input and of all outputs."""

    inputs: _Sizes
    outputs: tuple[_Sizes, ...]

    @classmethod
    def of(cls, call: Call) -> "_CallShapes":
        inputs, outputs = (
            tuple(
                tuple(math.nan if axis is None else int(axis) for axis in tensor.shape)
                for tensor in keras.tree.flatten(part)
                if hasattr(tensor, "shape")
            )
            for part in (call.inputs, call.outputs)
        )
        return cls(inputs[0] if inputs else (), outputs or ((),))


class _Run(keras.Operation):
    """A call of a model that records the shapes in the calls of its layers.

    It is an operation because Keras can call operations on symbolic inputs on every backend.
    """

    def __init__(self, model, layers):
        super().__init__()
        self.model, self.layers = model, layers
        self.seen: dict[int, list[_CallShapes]] = {}

    def call(self, *args, **kwargs):
        with recorded(self.layers) as calls:
            outputs = self.model(*args, **kwargs)
        # Set only at the end, because on torch a first attempt may fail halfway.
        self.seen = {key: [_CallShapes.of(call) for call in noted] for key, noted in calls.items()}
        return outputs


class _SymbolicRuns:
    """Symbolic calls of a model with different sizes for the axes that are not fixed.

    Figures that differ between the calls depend on these axes, and are unknown.
    """

    def __init__(self, model, layers):
        self._model, self._layers, self._signature = model, layers, _signature(model)
        inputs = keras.tree.flatten(self._signature)
        short, long = _LENGTHS
        self._one, self._two = self._shapes(1, short), self._shapes(2, long)
        # With the same batch size, because not every layer need depend on it.
        self._longer = self._shapes(1, long) if any(None in tensor.shape[1:] for tensor in inputs) else self._one
        self._batch = math.prod(filter(None, inputs[0].shape[:1]))  # 1 if it is not fixed

    def _shapes(self, batch: int, length: int) -> dict[int, list[_CallShapes]]:
        """Call the model with these sizes for axes that are not fixed, and return the shapes in each layer's calls."""

        def filled(tensor):
            defaults = [batch] + [length] * len(tensor.shape)
            shape = [default if axis is None else axis for axis, default in zip(tensor.shape, defaults, strict=False)]
            return keras.KerasTensor(shape, tensor.dtype)

        run = _Run(self._model, self._layers)
        args, kwargs = keras.tree.map_structure(filled, self._signature)
        try:
            run.compute_output_spec(*args, **kwargs)
        except Exception as error:
            received = [(tuple(tensor.shape), tensor.dtype) for tensor in keras.tree.flatten(self._signature)]
            raise ValueError(
                f"Expected a model that can be called on symbolic inputs. Received: '{self._model.name}', which fails on "
                f"{received}. Wrap it: keras.Model(inputs, model(inputs)), with inputs = keras.Input(shape=...)."
            ) from error
        return run.seen

    def output_shape(self, layer):
        """Return the shape of the outputs of the layer's first call, or None if the layer is not called."""
        if id(layer) not in self._one:
            return None
        pair = (run[id(layer)][0].outputs for run in (self._one, self._two))
        shapes = tuple(
            tuple(axis if axis == other else None for axis, other in zip(*sizes, strict=True))
            for sizes in zip(*pair, strict=True)
        )
        return shapes[0] if len(shapes) == 1 else shapes

    def multiply_adds(self, layer) -> int | None:
        """Return the multiply-adds per example over all calls, or None if they are unknown."""
        count, longer = (_multiply_adds(layer, run) for run in (self._one, self._longer))
        return int(count) // self._batch if count == longer else None


def _signature(model) -> tuple[tuple, dict]:
    """Return the positional and the named arguments with which to call a model, as KerasTensors."""
    if getattr(model, "inputs", None):
        return (model.inputs[0] if isinstance(model, keras.Sequential) else model.input,), {}
    config = model.get_build_config()
    if not config:
        raise ValueError(f"Expected a model that knows its input shapes. Received: '{model.name}'. Call it on an input first.")

    def tensors(shapes):
        # As plain lists and dicts, because JAX does not know those of Keras.
        if isinstance(shapes, dict):
            return {name: tensors(inner) for name, inner in shapes.items()}
        if all(axis is None or isinstance(axis, int) for axis in shapes):
            return keras.KerasTensor((None, *shapes[1:]) if shapes else ())  # the batch size of the first call is left open
        return [tensors(inner) for inner in shapes]

    if "input_shape" in config:
        return (tensors(config["input_shape"]),), {}
    return (), {name.removesuffix("_shape"): tensors(shapes) for name, shapes in config["shapes_dict"].items()}


def _multiply_adds(layer, seen: dict[int, list[_CallShapes]]) -> float:
    """Return the multiply-adds of all calls of `layer`, for all examples."""
    if isinstance(layer, _ATTENTION):
        return _attention(layer, seen)
    return sum(_of_call(layer, call.inputs, call.outputs[0]) for call in seen.get(id(layer), ()))


def _attention(layer, seen: dict[int, list[_CallShapes]]) -> float:
    """Return the multiply-adds of the products of queries with keys, and of attention weights with values.

    Queries, keys and values have the shape (batch, ..., heads, depth). Each head of the queries meets one of the keys.
    """
    axes = layer.attention_axes if isinstance(layer, keras.layers.MultiHeadAttention) else (1,)
    projections = attention_projections(layer) if layer.built else ()
    total = 0.0
    for query, key, value in zip(*(seen.get(id(each), ()) for each in projections), strict=True):
        (query_shape,), (key_shape,), (value_shape,) = query.outputs, key.outputs, value.outputs
        keys = math.prod(key_shape[axis] for axis in axes)
        total += math.prod(query_shape[:-1]) * keys * (query_shape[-1] + value_shape[-1])
    return total


@singledispatch
def _of_call(layer, inputs: _Sizes, outputs: _Sizes) -> float:
    """Return the multiply-adds of one call of `layer`, for all examples, from the shapes of its input and its output."""
    return 0


@_of_call.register
def _butterfly(layer: Butterfly | ButterflyDense | Kaleidoscope | LowRank, inputs, outputs):
    return math.prod(inputs[:-1]) * layer.effective_parameters


@_of_call.register
def _dense(layer: keras.layers.Dense, inputs, outputs):
    return math.prod(inputs) * outputs[-1]


@_of_call.register
def _einsum(layer: keras.layers.EinsumDense, inputs, outputs):
    operands, _, result = layer.equation.partition("->")
    kernel = operands.split(",")[1].strip()
    # Letters missing in the result are summed over; an ellipsis is in the result.
    return math.prod(outputs) * math.prod(
        size for axis, size in zip(kernel, layer.kernel.shape, strict=True) if axis not in result
    )


@_of_call.register
def _convolution(layer: keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D, inputs, outputs):
    return math.prod(outputs) * math.prod(layer.kernel.shape[:-1])  # (*window, channels of a group, filters)


@_of_call.register
def _transposed(
    layer: keras.layers.Conv1DTranspose | keras.layers.Conv2DTranspose | keras.layers.Conv3DTranspose, inputs, outputs
):
    return math.prod(inputs) * math.prod(layer.kernel.shape[:-1])  # (*window, filters, channels)


@_of_call.register
def _depthwise(layer: keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D, inputs, outputs):
    return math.prod(outputs) * math.prod(layer.kernel.shape[:-2])  # (*window, channels, multiplier)


@_of_call.register
def _separable(layer: keras.layers.SeparableConv1D | keras.layers.SeparableConv2D, inputs, outputs):
    return math.prod(outputs) // layer.filters * (_size(layer.depthwise_kernel) + _size(layer.pointwise_kernel))


@_of_call.register
def _recurrent(layer: keras.layers.RNN, inputs, outputs):
    return inputs[0] * inputs[1] * _kernels(layer)


@_of_call.register
def _recurrent_convolution(layer: keras.layers.ConvLSTM1D | keras.layers.ConvLSTM2D | keras.layers.ConvLSTM3D, inputs, outputs):
    steps = 1 if layer.return_sequences else inputs[1]  # sequences have them in their shape
    return steps * math.prod(outputs) // layer.filters * _kernels(layer)


def _kernels(layer) -> int:
    """Return the size of all matrices by which a recurrent layer multiplies at each step.

    Weights are selected by name too, because the bias of a GRU is a matrix.
    """
    return sum(_size(weight) for weight in layer.weights if len(weight.shape) > 1 and weight.name != "bias")
