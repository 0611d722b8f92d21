"""What each layer of a model holds and computes, as a table."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import keras
from rich.console import Console

from .compression.dense_map import little_saved
from .layers.butterfly import Butterfly
from .layers.butterfly_dense import ButterflyDense
from .layers.kaleidoscope import Kaleidoscope
from .utils.keras_internals import all_layers, held_layers
from .utils.recording import Call, recorded
from .utils.text_table import TextTable

Shape = tuple[int | None, ...]

_BUTTERFLIES = (Butterfly, ButterflyDense, Kaleidoscope)
# What they hold is part of how they compute; a cell runs inside a compiled loop, where calls cannot be counted.
_LEAVES = (*_BUTTERFLIES, keras.layers.RNN)
# Stand for axes that a model leaves open. Large enough for images, and halved five times they still differ.
_LENGTHS = (96, 128)
_FILE_WIDTH = 120


@dataclass(frozen=True)
class Row:
    """What one layer holds and computes.

    Attributes:
        layer: its name, after those of the layers it is part of: "block/dense". The same path again is "block/dense (2)".
        kind: its class.
        output_shape: of its first call, None for axes that are not fixed; a tuple of shapes for several outputs. None if it is
            not called, and for what a composite layer does outside its parts.
        weights: how many numbers it holds, without those of its parts and those that an earlier row has counted.
        biases: how many of them are biases.
        dense_weights: of the same map with a dense kernel: n units and the bias for butterflies, `weights` for all else.
        multiply_adds: per example, over all calls. None if they depend on axes that are not fixed.
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
        """Bytes of the weights by precision: 4, 2 and 1 each, but 4 for a bias in int8, where it is kept in int32."""
        return {"float32": 4 * self.weights, "float16": 2 * self.weights, "int8": self.weights + 3 * self.biases}


@dataclass(frozen=True)
class Summary:
    """What a model holds and computes; the totals are the sums of the rows.

    Attributes:
        model: its name.
        rows: in the order in which layers hold each other, parts before the whole.
    """

    model: str
    rows: tuple[Row, ...]

    @property
    def weights(self) -> int:
        """How many numbers the model holds, as `model.count_params()`."""
        return sum(row.weights for row in self.rows)

    @property
    def dense_weights(self) -> int:
        """How many it would hold with dense kernels in place of butterflies."""
        return sum(row.dense_weights for row in self.rows)

    @property
    def multiply_adds(self) -> int | None:
        """Per example. None if those of a row are."""
        counts = [row.multiply_adds for row in self.rows]
        return None if None in counts else sum(filter(None, counts))

    @property
    def size_bytes(self) -> dict[str, int]:
        """Bytes of the weights by precision, see `Row.size_bytes`."""
        sizes: Counter[str] = Counter({"float32": 0, "float16": 0, "int8": 0})
        for row in self.rows:
            sizes.update(row.size_bytes)
        return dict(sizes)

    @property
    def compression(self) -> float:
        """`dense_weights` over `weights`; 1 for a model without weights."""
        return self.dense_weights / self.weights if self.weights else 1.0

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each butterfly layer that saves little."""
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
        """Ready for JSON; sizes in bytes."""
        totals = ("weights", "dense_weights", "multiply_adds", "size_bytes", "compression")
        return {
            "model": self.model,
            "rows": [{**asdict(row), "size_bytes": row.size_bytes} for row in self.rows],
            "total": {name: getattr(self, name) for name in totals},
            "notes": list(self.notes),
        }


def summary(model: keras.Model, *, show: bool = True) -> Summary:
    """Weights, multiply-adds and bytes of each layer of a built model, and what they would be with dense kernels.

    A row for each layer without inner layers, however deep it sits in models, wrappers and composite layers; `Butterfly`,
    `ButterflyDense`, `Kaleidoscope` and recurrent layers are one row each. What a composite layer holds or multiplies outside
    its parts is a row of its own, after theirs. A layer that is used twice has one row: its weights count once, its
    multiply-adds for each call. Layers that hold nothing and are not called have none.

    Multiply-adds per example, bias and activation not counted, P the product of the axes between batch and features:

    - `Butterfly`, `ButterflyDense`, `Kaleidoscope`: P `effective_parameters`, one a weight, as stage by stage.
    - `Dense`: P n units. `EinsumDense`: the product of all axes of its equation but the batch.
    - Convolutions: output positions times kernel size; transposed ones: input positions times kernel size.
    - Recurrent layers: steps times the size of all kernels; `ConvLSTM`: that times output positions.
    - `MultiHeadAttention`: its row holds the two attention products, queries x keys x heads x (depth of keys + of values).
    - All others 0, and so are operations outside layers. What runs inside a compiled loop (`ops.scan`) counts as one pass.

    Shapes come from symbolic calls, which compute no values. A subclassed model is called as it was first, with float32 inputs.

    Args:
        model: a built `keras.Model`.
        show: print the table to stdout.

    Raises:
        ValueError: if `model` is no keras.Model, not built, has quantized layers, or cannot be called symbolically.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), Butterfly(seed=0), keras.layers.Dense(10)])
        >>> totals = summary(model, show=False)
        >>> totals.weights, totals.dense_weights
        (1418, 4746)
    """
    parts = _parts(_checked(model))
    runs = _Runs(model, [layer for _, layer in parts if _is_leaf(layer)])
    result = Summary(model.name, tuple(_rows(parts, runs)))
    if show:
        console = Console()
        if not console.is_terminal:  # a file or a pipe has no width of its own
            console.width = max(console.width, _FILE_WIDTH)
        console.print(result.table())
    return result


def _checked(model) -> keras.Model:
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: {type(model).__name__}. Wrap a layer: keras.Sequential([...])."
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received: '{model.name}', whose layers do not know their shapes yet. "
            "Give it a keras.Input, or call it on an input, first."
        )
    quantized = [layer.name for layer in all_layers(model) if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(f"Expected float layers. Received quantized ones: {quantized}. Summarise the model before `quantize`.")
    return model


def _is_leaf(layer) -> bool:
    return isinstance(layer, _LEAVES) or not held_layers(layer)


def _parts(model) -> list[tuple[str, Any]]:
    """All layers, each once, with their paths: leaves, and after them what holds them."""
    parts: list[tuple[str, Any]] = []
    visited: set[int] = set()
    taken: Counter[str] = Counter()

    def walk(layer, path):
        if id(layer) in visited:
            return
        visited.add(id(layer))
        if not _is_leaf(layer):
            for inner in held_layers(layer):
                walk(inner, f"{path}/{inner.name}" if layer is not model else inner.name)
        taken[path] += 1
        parts.append((f"{path} ({taken[path]})" if taken[path] > 1 else path, layer))

    walk(model, model.name)
    return parts


def _rows(parts, runs: "_Runs") -> Iterator[Row]:
    counted: set[int] = set()
    for path, layer in parts:
        own = [weight for weight in layer.weights if id(weight) not in counted]
        counted.update(map(id, own))
        weights = sum(map(_size, own))
        row = Row(
            layer=path,
            kind=type(layer).__name__,
            output_shape=runs.output_shape(layer),
            weights=weights,
            biases=sum(_size(weight) for weight in own if weight.name == "bias"),
            dense_weights=_dense_weights(layer) if isinstance(layer, _BUTTERFLIES) and layer.built else weights,
            multiply_adds=runs.multiply_adds(layer),
        )
        if row.output_shape is not None or row.weights or row.multiply_adds != 0:
            yield row


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


# Not a number is an axis that is unknown even with inputs of known shape: no count it enters equals itself.
_Sizes = tuple[float, ...]


class _Seen(NamedTuple):
    """The shapes of one call of a layer: of its first input and of all outputs."""

    given: _Sizes
    made: tuple[_Sizes, ...]

    @classmethod
    def of(cls, call: Call) -> "_Seen":
        given, made = (
            tuple(
                tuple(math.nan if axis is None else int(axis) for axis in tensor.shape)
                for tensor in keras.tree.flatten(part)
                if hasattr(tensor, "shape")
            )
            for part in (call.inputs, call.outputs)
        )
        return cls(given[0] if given else (), made or ((),))


class _Run(keras.Operation):
    """Calls a model and notes what its layers see. As an operation it can be called on symbols, on any backend."""

    def __init__(self, model, layers):
        super().__init__()
        self.model, self.layers = model, layers
        self.seen: dict[int, list[_Seen]] = {}

    def call(self, *args, **kwargs):
        with recorded(self.layers) as calls:
            outputs = self.model(*args, **kwargs)
        # Not before the end: on torch a first attempt may fail halfway.
        self.seen = {key: [_Seen.of(call) for call in noted] for key, noted in calls.items()}
        return outputs


class _Runs:
    """A model called symbolically with different sizes for axes that are not fixed: what differs depends on them."""

    def __init__(self, model, layers):
        self._model, self._layers, self._signature = model, layers, _signature(model)
        inputs = keras.tree.flatten(self._signature)
        short, long = _LENGTHS
        self._one, self._two = self._seen(1, short), self._seen(2, long)
        # The batch is left as it is, as not all of a model need depend on it.
        self._longer = self._seen(1, long) if any(None in tensor.shape[1:] for tensor in inputs) else self._one
        self._batch = math.prod(filter(None, inputs[0].shape[:1]))  # 1 where it is open

    def _seen(self, batch: int, length: int) -> dict[int, list[_Seen]]:
        def filled(tensor):
            defaults = [batch] + [length] * len(tensor.shape)
            shape = [default if axis is None else axis for axis, default in zip(tensor.shape, defaults, strict=False)]
            return keras.KerasTensor(shape, tensor.dtype)

        run = _Run(self._model, self._layers)
        args, kwargs = keras.tree.map_structure(filled, self._signature)
        try:
            run.compute_output_spec(*args, **kwargs)
        except Exception as error:
            given = [(tuple(tensor.shape), tensor.dtype) for tensor in keras.tree.flatten(self._signature)]
            raise ValueError(
                f"Expected a model that can be called on symbolic inputs. Received: '{self._model.name}', which fails on "
                f"{given}. Wrap it: keras.Model(inputs, model(inputs)), with inputs = keras.Input(shape=...)."
            ) from error
        return run.seen

    def output_shape(self, layer):
        """Of the layer's first call; None if it is not called."""
        if id(layer) not in self._one:
            return None
        pair = (run[id(layer)][0].made for run in (self._one, self._two))
        shapes = tuple(
            tuple(axis if axis == other else None for axis, other in zip(*made, strict=True))
            for made in zip(*pair, strict=True)
        )
        return shapes[0] if len(shapes) == 1 else shapes

    def multiply_adds(self, layer) -> int | None:
        """Per example, over all calls; None if unknown."""
        count, longer = (_multiply_adds(layer, run) for run in (self._one, self._longer))
        return int(count) // self._batch if count == longer else None


def _signature(model) -> tuple[tuple, dict]:
    """The arguments to call a model on, as KerasTensors: positional ones, and those by name."""
    if getattr(model, "inputs", None):
        return (model.inputs[0] if isinstance(model, keras.Sequential) else model.input,), {}
    config = model.get_build_config()
    if not config:
        raise ValueError(f"Model '{model.name}' does not know its input shapes. Call it on an input first.")

    def tensors(shapes):
        # Made of plain lists and dicts: JAX does not know Keras's own.
        if isinstance(shapes, dict):
            return {name: tensors(inner) for name, inner in shapes.items()}
        if all(axis is None or isinstance(axis, int) for axis in shapes):
            return keras.KerasTensor((None, *shapes[1:]) if shapes else ())  # the first call's batch is not the model's
        return [tensors(inner) for inner in shapes]

    if "input_shape" in config:
        return (tensors(config["input_shape"]),), {}
    return (), {name.removesuffix("_shape"): tensors(shapes) for name, shapes in config["shapes_dict"].items()}


def _multiply_adds(layer, seen: dict[int, list[_Seen]]) -> float:
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return _attention(layer, seen)
    return sum(_of_call(layer, call.given, call.made[0]) for call in seen.get(id(layer), ()))


def _attention(layer, seen: dict[int, list[_Seen]]) -> float:
    """Of the products of queries with keys, and of attention weights with values: (batch, ..., heads, depth) each."""
    projections = (layer.query_dense, layer.key_dense, layer.value_dense)
    total = 0.0
    for query, key, value in zip(*(seen.get(id(each), ()) for each in projections), strict=True):
        (asking,), (asked,), (answer,) = query.made, key.made, value.made
        keys = math.prod(asked[axis] for axis in layer.attention_axes)
        total += math.prod(asking[:-1]) * keys * (asking[-1] + answer[-1])
    return total


@singledispatch
def _of_call(layer, given: _Sizes, made: _Sizes) -> float:
    """Multiply-adds of one call of a leaf, for all examples, from the shapes of its input and its output."""
    return 0


@_of_call.register(Butterfly)
@_of_call.register(ButterflyDense)
@_of_call.register(Kaleidoscope)
def _butterfly(layer, given, made):
    return math.prod(given[:-1]) * layer.effective_parameters


@_of_call.register(keras.layers.Dense)
def _dense(layer, given, made):
    return math.prod(given) * made[-1]


@_of_call.register(keras.layers.EinsumDense)
def _einsum(layer, given, made):
    operands, _, result = layer.equation.partition("->")
    kernel = operands.split(",")[1].strip()
    # Letters missing in the result are summed over; an ellipsis is in the result.
    return math.prod(made) * math.prod(
        size for axis, size in zip(kernel, layer.kernel.shape, strict=True) if axis not in result
    )


@_of_call.register(keras.layers.Conv1D)
@_of_call.register(keras.layers.Conv2D)
@_of_call.register(keras.layers.Conv3D)
def _convolution(layer, given, made):
    return math.prod(made) * math.prod(layer.kernel.shape[:-1])  # (*window, channels of a group, filters)


@_of_call.register(keras.layers.Conv1DTranspose)
@_of_call.register(keras.layers.Conv2DTranspose)
@_of_call.register(keras.layers.Conv3DTranspose)
def _transposed(layer, given, made):
    return math.prod(given) * math.prod(layer.kernel.shape[:-1])  # (*window, filters, channels)


@_of_call.register(keras.layers.DepthwiseConv1D)
@_of_call.register(keras.layers.DepthwiseConv2D)
def _depthwise(layer, given, made):
    return math.prod(made) * math.prod(layer.kernel.shape[:-2])  # (*window, channels, multiplier)


@_of_call.register(keras.layers.SeparableConv1D)
@_of_call.register(keras.layers.SeparableConv2D)
def _separable(layer, given, made):
    return math.prod(made) // layer.filters * (_size(layer.depthwise_kernel) + _size(layer.pointwise_kernel))


@_of_call.register(keras.layers.RNN)
def _recurrent(layer, given, made):
    return given[0] * given[1] * _kernels(layer)


@_of_call.register(keras.layers.ConvLSTM1D)
@_of_call.register(keras.layers.ConvLSTM2D)
@_of_call.register(keras.layers.ConvLSTM3D)
def _recurrent_convolution(layer, given, made):
    steps = 1 if layer.return_sequences else given[1]  # sequences have them in their shape
    return steps * math.prod(made) // layer.filters * _kernels(layer)


def _kernels(layer) -> int:
    """The size of all matrices that a recurrent layer multiplies by at each step; a GRU's bias is a matrix too."""
    return sum(_size(weight) for weight in layer.weights if len(weight.shape) > 1 and weight.name != "bias")
