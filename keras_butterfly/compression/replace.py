"""Replacing the dense layers of a trained model by butterfly layers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import keras
import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..layers.butterfly_dense import ButterflyDense
from ..utils.model_inputs import check_data, read_examples
from ..utils.model_walk import named_layers
from ..utils.progress import Progress
from ..utils.recording import recorded
from ..utils.text_table import TextTable
from ..utils.validation import check_seed, positive_integer
from .cloning import clone_with
from .dense_map import KINDS, MAX_WEIGHT_RATIO, DenseMap, little_saved
from .fitting import STEPS, fit

REPLACEMENTS = ("auto", "butterfly", "sandwich")
INITIALIZE = ("fit", "fresh")
NOT_SELECTED = "is not selected by `where`"
# Rows of each layer's inputs that are kept of the data; more cost memory and change the fit little.
MOST_ROWS = 8192
BATCH = 64
# Layers with fewer weights are not listed among those that stay, unless they were asked for.
HEAVY = 4096


@dataclass(frozen=True)
class Change:
    """One layer replaced.

    Attributes:
        layer: its path, names joined by "/".
        was, kind: classes of the old layer and the new one.
        inputs, units: sizes of the last axis before and after.
        weights_before, weights_after: with the bias.
        error: relative error in the 2-norm of the fit: of the outputs on the data (about their mean, where there is a bias
            to move), else of the kernel. 1 is that of the zero map; None where nothing was fitted.
        fitted_to: "data", "kernel" or None.
    """

    layer: str
    was: str
    kind: str
    inputs: int
    units: int
    weights_before: int
    weights_after: int
    error: float | None = None
    fitted_to: str | None = None


@dataclass(frozen=True)
class Record:
    """What `replace_dense` did.

    Attributes:
        changes: the layers replaced, in the order of the model.
        kept: path -> why it stays, for the other layers that are or resemble dense ones.
        weights_before, weights_after: of the whole model.
    """

    changes: tuple[Change, ...]
    kept: dict[str, str]
    weights_before: int
    weights_after: int

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each layer that saves little."""
        found = (little_saved(change.layer, change.weights_after, change.weights_before) for change in self.changes)
        return tuple(note for note in found if note)

    def table(self) -> TextTable:
        """Return a table, which `print` and `rich.print` show."""
        title = f"{self.weights_before:,} weights -> {self.weights_after:,}"
        table = TextTable(title=title, title_justify="left", caption="\n".join(self.notes) or None, caption_justify="left")
        for column in ("layer", "was", "is", "shape"):
            table.add_column(column)
        for column in ("weights before", "after", "relative error"):
            table.add_column(column, justify="right")
        for change in self.changes:
            error = "" if change.error is None else f"{change.error:.3f} ({change.fitted_to})"
            shape = f"{change.inputs} -> {change.units}"
            counts = (f"{change.weights_before:,}", f"{change.weights_after:,}")
            table.add_row(change.layer, change.was, change.kind, shape, *counts, error)
        return table

    def to_dict(self) -> dict:
        """Ready for JSON."""
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True)
class _Target:
    """A dense layer and what takes its place."""

    path: str
    map: DenseMap
    new: Butterfly | ButterflyDense

    @property
    def old(self) -> keras.layers.Layer:
        return self.map.layer

    @property
    def placed(self) -> keras.layers.Layer:
        """What stands in the model: the new layer, after a selection of rows and columns for a convolution with strides."""
        if self.map.strides == (1, 1):
            return self.new
        return keras.Sequential([keras.layers.MaxPooling2D(1, self.map.strides), self.new], name=self.old.name)


def replace_dense(
    model: keras.Model,
    *,
    kind: Literal["auto", "butterfly", "sandwich"] = "auto",
    k: int | None = None,
    stacks: int = 1,
    where: Callable[[keras.layers.Layer], bool] | str | re.Pattern | Sequence[str] | int | None = None,
    initialize: Literal["fit", "fresh"] = "fit",
    data=None,
    steps: int = STEPS,
    seed: int | None = None,
    progress: bool | None = None,
) -> tuple[keras.Model, Record]:
    """A new model whose dense layers are butterfly layers; `model` stays as it is.

    `Dense` on inputs of any rank, `EinsumDense` whose equation is a dense map of the last axis, and 1x1 `Conv2D` (a butterfly
    over the channels), in Sequential and functional models, nested and shared ones, wrappers, and layers and models of a user's
    class that Keras can make again from its config. Names, activations, biases, regularisers, dtype policies and `trainable`
    are kept. (Regularisers act on a butterfly's weights and bias as stored, see `Butterfly`.)

    Args:
        model: a built model.
        kind: "butterfly": `Butterfly`, of full rank. "sandwich": `ButterflyDense`, J2^T W' J1 of rank k. "auto" (default):
            "sandwich" where `k` is given, else "butterfly", which after training is the more accurate at equal weights.
        k: k1 = k2 of a sandwich. Default: those of `ButterflyDense`.
        stacks: of a `Butterfly`: the sum of that many.
        where: which layers. None (default): each dense one of which at most half the weights would be left, and of the
            convolutions those that see a single position. A name or path, or several; a compiled regular expression,
            searched in paths; a predicate of layers; or a number: all, convolutions too, with at least that many weights. A
            name must be of a layer that can be replaced.
        initialize: "fit" (default): all factors are fitted (see `fitting.fit`): to what the layer gives on `data`, or without
            data to its kernel, which is of little use for kernels without structure. One after the other, each given what the
            layers before it, already replaced, give. "fresh": random factors, to be trained.
        data: inputs of the model, in any form that `model_inputs.read_examples` takes: what `model.predict` takes, a
            `tf.data.Dataset` or a generator. As many as the widest layer has inputs, or more. Of a stream at most 8,192
            examples are read.
        steps: gradient steps of each fit.
        seed: of the new layers' random draws.
        progress: show bars on stderr. Default: where it is a terminal.

    Returns:
        The new model, compiled like the old one where Keras can copy how, and a `Record` of what changed.

    Raises:
        ValueError: for no or an unbuilt model, no layer that fits `where`, `k` larger than a layer's sides, data that do not
            fit the model or are not finite, or an argument out of range.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2.
    """
    check_model(model)
    make = _Maker(kind, k, stacks, seed)
    if initialize not in INITIALIZE:
        raise ValueError(f"`initialize` must be one of {INITIALIZE}. Received: initialize={initialize!r}")
    data = None if data is None else check_data(model, read_examples(data, MOST_ROWS)[0])
    targets, kept = _chosen(model, where, make)
    new = clone_with(model, {id(target.old): target.placed for target in targets}, lambda clone: _call_once(clone, data))
    with Progress(progress) as bars:
        results = _initialize(model, new, targets, initialize, data, steps, bars)
    return new, Record(
        tuple(_change(target, *result) for target, result in zip(targets, results, strict=True)),
        kept,
        model.count_params(),
        new.count_params(),
    )


def check_model(model) -> None:
    """Raises ValueError unless `model` is a built Keras model."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(f"Expected a built model. Received: '{model.name}', not built. Call it on data, or build(...), first.")


class _Maker:
    """Makes the layer that takes a dense map's place.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, kind: str, k: int | None, stacks: int, seed: int | None):
        if kind not in REPLACEMENTS:
            raise ValueError(f"`kind` must be one of {REPLACEMENTS}. Received: kind={kind!r}")
        self.k = None if k is None else positive_integer(k, "k")
        self.stacks, self.seed, self.made = positive_integer(stacks, "stacks"), check_seed(seed), 0
        self.sandwich = kind == "sandwich" or (kind == "auto" and k is not None)
        if k is not None and not self.sandwich:
            raise ValueError(f'`k` is of kind="sandwich"; a full butterfly has none. Received: kind={kind!r}, k={k}')
        if self.sandwich and stacks != 1:
            raise ValueError(f'`stacks` is of kind="butterfly". Received: kind={kind!r}, k={k}, stacks={stacks}')

    def __call__(self, dense: DenseMap) -> Butterfly | ButterflyDense:
        """The built layer. Raises ValueError, saying why, where k is larger than a side of the layer."""
        layer = dense.layer
        if self.k is not None and self.k > min(dense.inputs, dense.units):
            raise ValueError(f"has {dense.inputs} inputs and {dense.units} units, fewer than k={self.k}")
        settings = {
            "units": dense.units,
            "activation": layer.activation,
            "use_bias": layer.bias is not None,
            "bias_initializer": layer.bias_initializer,
            "kernel_regularizer": layer.kernel_regularizer,
            "bias_regularizer": layer.bias_regularizer,
            "activity_regularizer": layer.activity_regularizer,
            "bias_constraint": layer.bias_constraint,
            "dtype": layer.dtype_policy,
            "trainable": layer.trainable,
            "name": layer.name,
            # Two numbers apart, as a ButterflyDense takes two.
            "seed": None if self.seed is None else (self.seed + 2 * self.made) % 2**32,
        }
        self.made += 1
        if self.sandwich:
            new = ButterflyDense(k1=self.k, k2=self.k, butterfly_regularizer=layer.kernel_regularizer, **settings)
        else:
            new = Butterfly(stacks=self.stacks, **settings)
        new.build((None, dense.inputs))
        return new


def _chosen(model: keras.Model, where, make: _Maker) -> tuple[list[_Target], dict[str, str]]:
    """The layers to replace, and why each of the others stays."""
    candidates: dict[int, tuple[str, keras.layers.Layer]] = {}
    for path, layer in named_layers(model):
        if isinstance(layer, KINDS):
            candidates.setdefault(id(layer), (path, layer))
    wanted, must = _wanted(where, [(path, layer.name) for path, layer in candidates.values()])
    targets, reasons, kept = [], {}, _heavy_others(model)
    for path, layer in candidates.values():
        try:
            if not wanted(path, layer):
                raise ValueError(NOT_SELECTED)
            dense = DenseMap.of(layer)
            if any(variable is held for variable in layer.variables for held in _held_by_others(model, layer)):
                raise ValueError("has weights that another layer works on")
            target = _Target(path, dense, make(dense))
            if where is None and target.new.count_params() > MAX_WEIGHT_RATIO * dense.weights:
                raise ValueError(f"would keep {target.new.count_params():,} of its {dense.weights:,} weights")
            targets.append(target)
        except ValueError as reason:
            if must(path, layer):
                raise ValueError(f"Layer '{path}' {reason}. Choose other layers by `where`, or other arguments.") from None
            reasons[path] = str(reason)
            if str(reason) != NOT_SELECTED or _could_be_replaced(layer):
                kept[path] = str(reason)
    if not targets:
        raise ValueError(f"Expected a layer to replace. Found none for where={where!r}: {_summed_up(reasons)}.")
    return targets, kept


def _could_be_replaced(layer: keras.layers.Layer) -> bool:
    """Return whether somebody may expect this layer to be replaced: no convolution of several pixels, and not a small one."""
    pointwise = not isinstance(layer, keras.layers.Conv2D) or tuple(layer.kernel_size) == (1, 1)
    return pointwise and layer.count_params() >= HEAVY


def _heavy_others(model: keras.Model) -> dict[str, str]:
    """Return why layers with many weights that are no dense maps stay, by path."""
    names = {keras.layers.LSTM: "recurrent", keras.layers.GRU: "recurrent", keras.layers.Embedding: "a table of embeddings"}
    return {
        path: f"has {layer.count_params():,} weights, but is {what}, which is not replaced"
        for path, layer in named_layers(model)
        for kind, what in names.items()
        if isinstance(layer, kind) and layer.built and layer.count_params() >= HEAVY
    }


def _held_by_others(model, layer) -> list:
    """Variables that other layers hold themselves, as SpectralNormalization does with the kernel of what it wraps."""
    others = (other for other in model._flatten_layers() if other is not layer)
    return [variable for other in others for variable in (*other._trainable_variables, *other._non_trainable_variables)]


def _summed_up(kept: dict[str, str]) -> str:
    """Each reason once, with the first layers it holds for."""
    paths: dict[str, list[str]] = {}
    for path, reason in kept.items():
        paths.setdefault(reason, []).append(f"'{path}'")
    parts = [f"{', '.join(held[:3])}{' and others' if len(held) > 3 else ''} {reason}" for reason, held in paths.items()]
    return "; ".join(parts[:8]) or "the model has no dense layer"


def _wanted(where, known: list[tuple[str, str]]):
    """Whether a layer is asked for, and whether it must be replaced, as functions of (path, layer)."""
    if where is None:
        return (lambda path, layer: _on_one_position(layer)), (lambda path, layer: False)
    if isinstance(where, str):
        where = [where]
    if isinstance(where, re.Pattern):
        return (lambda path, layer: where.search(path) is not None), (lambda path, layer: False)
    if isinstance(where, int) and not isinstance(where, bool):
        least = positive_integer(where, "where")
        return (lambda path, layer: layer.count_params() >= least), (lambda path, layer: False)
    if callable(where):
        return (lambda path, layer: bool(where(layer))), (lambda path, layer: False)
    if isinstance(where, Sequence) and all(isinstance(name, str) for name in where):
        unknown = [name for name in where if not any(name in names for names in known)]
        if unknown:
            raise ValueError(f"Expected names of dense layers, of {[path for path, _ in known]}. Received: {unknown}")

        def named(path, layer):
            return path in where or layer.name in where

        return named, named
    raise ValueError(
        "`where` must be None, a name, names, a compiled regular expression, a predicate, or a number of weights. "
        f"Received: where={where!r}"
    )


def _on_one_position(layer) -> bool:
    """Whether it is no convolution, or one that sees a single pixel, such as the last ones of MobileNetV3."""
    shape = (layer.get_build_config() or {}).get("input_shape")
    return not isinstance(layer, keras.layers.Conv2D) or (shape is not None and tuple(shape[1:3]) == (1, 1))


def _call_once(clone: keras.Model, data) -> None:
    """Builds a model of a user's class."""
    if data is None:
        raise ValueError(f"'{clone.name}' is built by its first call only. Give `data`, or define build() in its class.")
    clone(keras.tree.map_structure(lambda array: array[:1], data), training=False)


def _initialize(model, new, targets: list[_Target], initialize: str, data, steps: int, bars: Progress) -> list[tuple]:
    """(error, what it was fitted to) of each target, whose weights are set."""
    seen = {}
    if data is not None and initialize == "fit":
        seen = _rows(model, {t.old: t.map.strides for t in targets}, data, bars, "run the model")
    results: dict[int, tuple] = {}
    # In the order in which the model calls them, so that each is given what those before it give now.
    order = {key: index for index, key in enumerate(seen)}
    for target in sorted(targets, key=lambda t: order.get(id(t.old), len(order))):
        _set_bias(target.new, target.map.bias)
        if initialize == "fresh":
            results[id(target)] = (None, None)
            continue
        with bars.task(f"fit {target.path}", steps) as advance:
            if id(target.old) in seen:
                given = _rows(new, {target.new: (1, 1)}, data, bars, f"run for {target.path}")[id(target.new)]
                error = _fit_outputs(target, seen[id(target.old)], given, steps, advance)
                results[id(target)] = (error, "data")
            else:
                results[id(target)] = (fit(target.new, target.map.kernel, steps=steps, advance=advance), "kernel")
    return [results[id(target)] for target in targets]


def _fit_outputs(target: _Target, inputs: np.ndarray, given: np.ndarray, steps: int, advance) -> float:
    """Fits the layer to give on the rows `given` what the old one gives on `inputs`; a bias takes up the mean."""
    kernel, bias = target.map.kernel, target.map.bias
    wanted = inputs @ kernel
    if bias is None:
        return fit(target.new, kernel, (given, wanted), steps=steps, advance=advance)
    centre, mean = given.mean(0), wanted.mean(0)
    error = fit(target.new, kernel, (given - centre, wanted - mean), steps=steps, advance=advance)
    _set_bias(target.new, bias + mean - _linear(target.new, centre[None])[0])
    return error


def _linear(layer, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(layer.linear(ops.cast(x, layer.compute_dtype)), "float32"))


def _set_bias(layer, bias: np.ndarray | None) -> None:
    if bias is not None:
        if layer.bias_constraint is not None:
            bias = ops.convert_to_numpy(layer.bias_constraint(ops.convert_to_tensor(bias)))
        layer.bias.assign(bias)


def _rows(model, strides: dict[keras.layers.Layer, tuple[int, int]], data, bars: Progress, description: str):
    """Rows of the last axis that each layer (a key) is given on `data`, by id, in the order of the first calls.

    At most MOST_ROWS, the same of two models whose layers are called alike; of a convolution with strides only those that it
    looks at. Layers that let no values out, inside a compiled loop, are left out. The states of stateful layers are as before.
    """
    fixed = next((tensor.shape[0] for tensor in getattr(model, "inputs", None) or ()), None)
    size, count = fixed or BATCH, len(keras.tree.flatten(data)[0])
    starts = [start for start in range(0, count, size) if fixed is None or start + fixed <= count]
    if not starts:
        raise ValueError(f"Expected at least one batch of {fixed} examples in the data. Received: {count}")
    states = [state for layer in model._flatten_layers() for state in keras.tree.flatten(getattr(layer, "states", None) or ())]
    before = [ops.convert_to_numpy(state) for state in states]
    steps = {id(layer): step for layer, step in strides.items()}
    collected: dict[int, list[np.ndarray]] = {}
    for start in bars.each(starts, description):
        batch = keras.tree.map_structure(lambda array, start=start: array[start : start + size], data)
        with recorded(strides) as calls:
            model(batch, training=False)
        for key, made in calls.items():
            try:
                rows = np.concatenate([_flat(call.inputs, steps[key]) for call in made])
            except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError):
                continue
            most = -(-MOST_ROWS // len(starts))
            if len(rows) > most:
                rows = rows[np.random.default_rng(start).choice(len(rows), most, replace=False)]
            collected.setdefault(key, []).append(rows)
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    return {key: np.concatenate(parts)[:MOST_ROWS] for key, parts in collected.items()}


def _flat(x, strides: tuple[int, int]) -> np.ndarray:
    values = ops.convert_to_numpy(ops.cast(x, "float32"))
    values = values if strides == (1, 1) else values[:, :: strides[0], :: strides[1]]
    return values.reshape(-1, values.shape[-1])


def _change(target: _Target, error: float | None, fitted_to: str | None) -> Change:
    was, kind = type(target.old).__name__, type(target.new).__name__
    counts = (target.map.weights, target.new.count_params())
    return Change(target.path, was, kind, target.map.inputs, target.map.units, *counts, error, fitted_to)
