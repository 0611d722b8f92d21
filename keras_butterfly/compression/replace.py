"""Replacing the dense layers of a trained model by butterfly layers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

import keras
import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..layers.butterfly_dense import ButterflyDense
from ..layers.flattened_axes import FlattenedAxes
from ..layers.low_rank import LowRank
from ..layers.sizes import check_stacks
from ..structure.wiring import Radix, check_radix
from ..utils.keras_internals import all_layers, held_variables
from ..utils.model_checks import check_finite_weights, check_model
from ..utils.model_inputs import check_data, example_count, examples_at, fixed_batch_size, run_model
from ..utils.progress import Progress
from ..utils.quiet import warnings_not_raised
from ..utils.recording import recorded, value_of
from ..utils.streams import read_examples
from ..utils.validation import check_seed, integer_within, positive_integer
from .cloning import clone_with
from .dense_map import MAX_WEIGHT_RATIO, DenseMap, why_not_dense
from .fitting import STEPS, fit
from .report import LayerReplacement, ReplacementReport
from .selection import Selection, candidates_of, reasons_to_report, summarize

KINDS = ("auto", "butterfly", "butterfly_dense", "low_rank")
INITIALIZE = ("auto", "fit", "fresh")
# Rows of each layer's inputs that are kept of the data. More cost memory and change the fit little.
MAX_ROWS = 8192
# More gradient steps of a fit are a slip.
MAX_STEPS = 1_000_000
BATCH = 64


@warnings_not_raised()
def replace_dense(
    model: keras.Model,
    *,
    kind: Literal["auto", "butterfly", "butterfly_dense", "low_rank"] = "auto",
    k: int | None = None,
    rank: int | None = None,
    stacks: int = 1,
    radix: Radix | None = None,
    where: Callable[[keras.layers.Layer], bool] | str | re.Pattern | Sequence[str] | None = None,
    min_weights: int | None = None,
    initialize: Literal["auto", "fit", "fresh"] = "auto",
    data=None,
    steps: int = STEPS,
    seed: int | None = None,
    progress: bool | None = None,
) -> tuple[keras.Model, ReplacementReport]:
    """Return a copy of `model` whose dense layers are butterfly layers. `model` itself is not changed.

    Three kinds of layers can be replaced: `Dense` on inputs of any rank; `EinsumDense` whose equation is a dense map of the
    last axes, such as the projections of `MultiHeadAttention` and `GroupQueryAttention`; and 1x1 `Conv2D`, by a butterfly
    over the channels. They may be part of Sequential and functional models, nested and shared ones, wrappers, and layers and
    models of a user's class that Keras can make again from its config.

    If an `EinsumDense` sums over several axes or makes several, such as heads and their depth, they are flattened to one: the
    new layer is inside a `FlattenedAxes`.

    The new layers have the names, activations, biases, regularizers, dtype policies and `trainable` of the old ones.
    Regularizers act on a butterfly's weights and bias as stored, see `Butterfly`.

    Args:
        model: a built model.
        kind: class of the new layers. "butterfly": `Butterfly`, of full rank. "butterfly_dense": `ButterflyDense`, J2^T W' J1
            of rank k. "auto" (default): "butterfly_dense" if `k` is given, else "butterfly", which is the more accurate of the
            two at equal numbers of weights, once it is trained.
        k: sizes k1 = k2 of W' in `ButterflyDense`. None (default): those that `ButterflyDense` chooses.
        rank: rank of a `LowRank` layer, for which it is required, or of the low-rank term that is added to a `Butterfly`.
        stacks: number of butterflies whose sum a `Butterfly` is.
        radix: how many nodes each stage of a butterfly mixes, see `Butterfly`. A sequence fits only layers up to its product.
            None (default): that of the new layer's class, 4 for `Butterfly` and 2 for `ButterflyDense`.
        where: which layers to replace. A name or path, or a list of them; each must be of a layer that can be replaced. A
            compiled regular expression, which is searched in the paths. Or a function that takes a layer and returns whether
            to replace it. None (default): if `min_weights` is given, all dense layers, convolutions included. Otherwise the
            dense layers of which at most half the weights would be left, and convolutions only if applied to a single pixel.
        min_weights: replace only layers with at least this many weights.
        initialize: how the new layers start. "fresh": from random factors, which have to be trained, for example by `distill`.
            "fit": all factors are fitted (see `fitting.fit`) to the outputs of the old layer on `data`, or without data to its
            kernel. A fit to a kernel without structure is of little use. Layers are fitted in the order in which the model
            calls them, on the outputs of the new layers before them. "auto" (default): "fit" for low-rank layers, and "fresh"
            for butterflies. A fitted butterfly is nearer to the old layer at once, but less accurate after the training,
            because its matrix starts with a low effective rank. The page Evidence of the documentation has the figures.
        data: inputs of the model, as `model.predict` takes them, or a stream of batches: a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a generator, or a function that returns one. Give at least as many examples as
            the widest layer has inputs. At most 8,192 examples of a stream are read.
        steps: number of gradient steps of each fit, at most 1,000,000. Default 300.
        seed: seed of the new layers' random initial weights.
        progress: True: show progress bars on stderr. False: show none. None (default): show them if stderr is a terminal.

    Returns:
        The new model, and a `ReplacementReport`. The model is compiled like `model`, if Keras can copy the compilation.

    Raises:
        ValueError: if `model` is no built model, no layer can be replaced, `k` is larger than a side of a named layer, the data
            do not fit the model or are not finite, or an argument is out of range.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2.

    Example:
        >>> dense = keras.Sequential([keras.Input((256,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(10)])
        >>> small, report = replace_dense(dense, seed=0)
        >>> dense.count_params(), small.count_params()
        (68362, 6922)
    """
    check_model(model)
    check_finite_weights(model)
    factory = _LayerFactory(kind, k, rank, stacks, radix, seed)
    steps = integer_within(steps, "steps", 0, MAX_STEPS)
    if initialize not in INITIALIZE:
        raise ValueError(f"`initialize` must be one of {INITIALIZE}. Received: initialize={initialize!r}")
    fitted = initialize == "fit" or (initialize == "auto" and factory.kind == "low_rank")
    data = None if data is None else check_data(model, read_examples(model, data, MAX_ROWS)[0])
    selection = Selection.of(where, min_weights, candidates_of(model))
    targets, reasons = _targets(model, selection, factory)
    if not targets:
        given = {"where": where, "min_weights": min_weights}
        received = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        raise ValueError(
            f"Expected a layer to replace. Found none{' for ' if received else ''}{received}: {summarize(reasons)}."
        )
    new = _with_targets(model, targets, data)
    with Progress(progress) as bars:
        if fitted:
            replacements = _fit_all(model, new, targets, data, steps, bars)
        else:
            replacements = [_keep_random(target) for target in targets]
    kept = reasons_to_report(model, reasons)
    return new, ReplacementReport(tuple(replacements), kept, model.count_params(), new.count_params())


@warnings_not_raised()
def replace_each(
    model: keras.Model, settings: Mapping[str, Mapping], *, data=None, fitted: bool = False
) -> tuple[keras.Model, ReplacementReport]:
    """Return a copy of `model` in which each layer is replaced in its own way.

    Args:
        model: a built model.
        settings: maps the path of a layer to the arguments `kind`, `k`, `rank`, `stacks`, `radix` and `seed` of
            `replace_dense`.
        data: inputs of the model, as arrays in the structure that it takes.
        fitted: whether the new layers are fitted to the outputs of the old ones on `data`, or without data to their kernels.
            Otherwise they start from random weights.

    Raises:
        ValueError: as `replace_dense`, and if a layer cannot be replaced as its settings say.
    """
    layers, targets = dict(candidates_of(model)), []
    for path, given in settings.items():
        factory = _LayerFactory(**given)
        target = _target_or_reason(model, path, layers[path], factory, None)
        if not isinstance(target, _Target):
            raise ValueError(f"Layer '{path}' {target}. Choose other arguments for it.")
        targets.append(target)
    new = _with_targets(model, targets, data)
    if fitted:
        replacements = _fit_all(model, new, targets, data, STEPS, Progress(False))
    else:
        replacements = [_keep_random(target) for target in targets]
    return new, ReplacementReport(tuple(replacements), {}, model.count_params(), new.count_params())


@dataclass(frozen=True)
class _Target:
    """A dense layer of the model, and the built layer that replaces it."""

    path: str
    map: DenseMap
    new: Butterfly | ButterflyDense | LowRank

    @property
    def old(self) -> keras.layers.Layer:
        return self.map.layer

    @cached_property
    def in_model(self) -> keras.layers.Layer:
        """Return the layer to put into the model, which takes the inputs of the old one and makes outputs of its shape.

        If the old layer is a convolution with strides, pixels are selected first. If it maps several axes, they are flattened.
        """
        if self.map.strides != (1, 1):
            return keras.Sequential([keras.layers.MaxPooling2D(1, self.map.strides), self.new], name=self.old.name)
        if len(self.map.input_shape) == len(self.map.output_shape) == 1:
            return self.new
        outside = {} if _keeps_activation(self.map) else _activation_of(self.old)
        settings = {"name": self.old.name, "dtype": self.old.dtype_policy, "trainable": self.old.trainable}
        wrapper = FlattenedAxes(self.new, len(self.map.input_shape), self.map.output_shape, **outside, **settings)
        wrapper.build((None, *self.map.input_shape))
        return wrapper

    def replacement(self, error: float | None = None, fitted_to: str | None = None) -> LayerReplacement:
        was, kind = type(self.old).__name__, type(self.new).__name__
        counts = (self.map.weights, self.new.count_params())
        return LayerReplacement(self.path, was, kind, self.map.inputs, self.map.units, *counts, error, fitted_to)


class _LayerFactory:
    """A maker of the layers that replace dense ones.

    Raises:
        ValueError: if an argument is out of range, or of the other kind of layer.
    """

    def __init__(self, kind: str = "auto", k=None, rank=None, stacks=1, radix=None, seed=None):
        if kind not in KINDS:
            raise ValueError(f"`kind` must be one of {KINDS}. Received: kind={kind!r}")
        self.kind = kind if kind != "auto" else "butterfly_dense" if k is not None else "butterfly"
        self.k = None if k is None else positive_integer(k, "k")
        self.rank = None if rank is None else positive_integer(rank, "rank")
        self.stacks, self.seed, self.made = check_stacks(stacks), check_seed(seed), 0
        self.radix = None if radix is None else check_radix(radix)
        received = f"Received: kind={kind!r}, k={k}, rank={rank}, stacks={stacks}, radix={radix}"
        if k is not None and self.kind != "butterfly_dense":
            raise ValueError(f'`k` is of kind="butterfly_dense"; other layers have none. {received}')
        if stacks != 1 and self.kind != "butterfly":
            raise ValueError(f'`stacks` is of kind="butterfly". {received}')
        if rank is None and self.kind == "low_rank":
            raise ValueError(f'kind="low_rank" needs a `rank`. {received}')
        if rank is not None and self.kind == "butterfly_dense":
            raise ValueError(f'`rank` is of kind="low_rank" and kind="butterfly". {received}')
        if radix is not None and self.kind == "low_rank":
            raise ValueError(f"`radix` is of butterflies. {received}")

    def why_not(self, dense: DenseMap) -> str | None:
        """Return why no layer of these settings can replace `dense`, or None if one can."""
        for name, value in (("k", self.k), ("rank", self.rank)):
            if value is not None and value > min(dense.inputs, dense.units):
                return f"has {dense.inputs} inputs and {dense.units} units, fewer than {name}={value}"
        if isinstance(self.radix, tuple) and prod(self.radix) < max(dense.inputs, dense.units):
            return f"has {dense.inputs} inputs and {dense.units} units, more than the product of radix={self.radix}"
        return None

    def make(self, dense: DenseMap) -> Butterfly | ButterflyDense | LowRank:
        """Return a built layer with the settings of the dense one."""
        layer = dense.layer
        settings = {
            "units": dense.units,
            "use_bias": layer.bias is not None,
            "bias_initializer": layer.bias_initializer,
            "kernel_regularizer": layer.kernel_regularizer,
            "bias_regularizer": layer.bias_regularizer,
            "bias_constraint": layer.bias_constraint,
            "dtype": layer.dtype_policy,
            "trainable": layer.trainable,
            "name": layer.name,
            **(_activation_of(layer) if _keeps_activation(dense) else {}),
        }
        # Steps of two, because a ButterflyDense uses two successive seeds.
        seed = None if self.seed is None else (self.seed + 2 * self.made) % 2**32
        self.made += 1
        stages = {} if self.radix is None else {"radix": self.radix}
        new: Butterfly | ButterflyDense | LowRank
        if self.kind == "butterfly_dense":
            penalty = {"butterfly_regularizer": layer.kernel_regularizer}
            new = ButterflyDense(k1=self.k, k2=self.k, seed=seed, **penalty, **stages, **settings)
        elif self.kind == "butterfly":
            new = Butterfly(stacks=self.stacks, rank=self.rank, seed=seed, **stages, **settings)
        else:
            new = LowRank(rank=self.rank, kernel_initializer=keras.initializers.GlorotUniform(seed), **settings)
        new.build((None, dense.inputs))
        return new


def _keeps_activation(dense: DenseMap) -> bool:
    """Return whether the new layer has the activation. If its units are reshaped to several axes, the wrapper has it."""
    return len(dense.output_shape) == 1


def _activation_of(layer: keras.layers.Layer) -> dict:
    """Return the arguments of a layer that act on the outputs."""
    return {"activation": layer.activation, "activity_regularizer": layer.activity_regularizer}


def _targets(model: keras.Model, selection: Selection, factory: _LayerFactory) -> tuple[list[_Target], dict[str, str]]:
    """Return the layers to replace, and by path the reason why each other candidate is kept.

    Raises:
        ValueError: if a layer that the user named cannot be replaced.
    """
    targets, reasons = [], {}
    for path, layer in candidates_of(model):
        reason = selection.why_not(path, layer)
        if reason is None:
            target = _target_or_reason(model, path, layer, factory, MAX_WEIGHT_RATIO if selection.only_if_smaller else None)
            if isinstance(target, _Target):
                targets.append(target)
                continue
            if selection.must_succeed:
                raise ValueError(f"Layer '{path}' {target}. Choose other layers by `where`, or other arguments.")
            reason = target
        reasons[path] = reason
    return targets, reasons


def _target_or_reason(model, path: str, layer, factory: _LayerFactory, max_weight_ratio: float | None) -> _Target | str:
    """Return `layer` with a new layer to replace it, or the reason why it is kept."""
    reason = why_not_replaced(model, layer)
    if reason is not None:
        return reason
    dense = DenseMap.of(layer)
    reason = factory.why_not(dense)
    if reason is not None:
        return reason
    new = factory.make(dense)
    if max_weight_ratio is not None and new.count_params() > max_weight_ratio * dense.weights:
        return f"would keep {new.count_params():,} of its {dense.weights:,} weights"
    return _Target(path, dense, new)


def why_not_replaced(model: keras.Model, layer: keras.layers.Layer) -> str | None:
    """Return why no other layer can take the place of `layer` in `model`, as the end of a sentence, or None if one can."""
    reason = why_not_dense(layer)
    if reason is not None:
        return reason
    # SpectralNormalization, for example, holds the kernel of the layer that it wraps, and changes it.
    held_elsewhere = {id(weight) for other in all_layers(model) if other is not layer for weight in held_variables(other)}
    if any(id(weight) in held_elsewhere for weight in layer.variables):
        return "has weights that another layer works on"
    return None


def _with_targets(model: keras.Model, targets: list[_Target], data) -> keras.Model:
    """Return a copy of `model` with the new layers of `targets`."""
    return clone_with(model, {id(target.old): target.in_model for target in targets}, lambda clone: _build_by_call(clone, data))


def _build_by_call(clone: keras.Model, data) -> None:
    """Call a model of a user's class on the first example, which builds it."""
    if data is None:
        raise ValueError(f"'{clone.name}' is built by its first call only. Give `data`, or define build() in its class.")
    clone(examples_at(data, slice(1)), training=False)


def _keep_random(target: _Target) -> LayerReplacement:
    """Copy the old layer's bias, and leave the other weights of the new layer random."""
    _set_bias(target.new, target.map.bias)
    return target.replacement()


def _fit_all(model, new, targets: list[_Target], data, steps: int, bars: Progress) -> list[LayerReplacement]:
    """Fit each new layer, and return the replacements in the order of `targets`.

    Args:
        model: the original.
        new: the model that holds the new layers.
        targets: the layers.
        data: inputs of the models, or None to fit to the kernels.
        steps: number of gradient steps of each fit.
        bars: shows the progress.
    """
    old_layers = {target.old: target.map for target in targets}
    old_inputs = {} if data is None else _layer_inputs(model, old_layers, data, bars, "run the model")
    # In the order of the calls, so that each new layer is fitted on the outputs of those before it.
    order = {key: index for index, key in enumerate(old_inputs)}
    replacements: dict[str, LayerReplacement] = {}
    for target in sorted(targets, key=lambda t: order.get(id(t.old), len(order))):
        _set_bias(target.new, target.map.bias)
        with bars.task(f"fit {target.path}", steps) as advance:
            if id(target.old) in old_inputs:
                layer = target.in_model
                inputs = _layer_inputs(new, {layer: target.map}, data, bars, f"run for {target.path}")[id(layer)]
                error = _fit_outputs(target, old_inputs[id(target.old)], inputs, steps, advance)
                replacements[target.path] = target.replacement(error, "data")
            else:
                error = fit(target.new, target.map.kernel, steps=steps, advance=advance)
                replacements[target.path] = target.replacement(error, "kernel")
    return [replacements[target.path] for target in targets]


def _fit_outputs(target: _Target, old_inputs: np.ndarray, new_inputs: np.ndarray, steps: int, advance) -> float:
    """Fit the new layer to the outputs of the old one, and return the relative error.

    Args:
        target: both layers. If they have a bias, the new bias makes the means of the outputs equal.
        old_inputs: inputs of the old layer (rows, inputs).
        new_inputs: inputs of the new layer on the same examples (rows, inputs).
        steps: number of gradient steps.
        advance: called with 1 after each step.
    """
    kernel, bias = target.map.kernel, target.map.bias
    outputs = old_inputs @ kernel
    if bias is None:
        return fit(target.new, kernel, (new_inputs, outputs), steps=steps, advance=advance)
    inputs_mean, outputs_mean = new_inputs.mean(0), outputs.mean(0)
    error = fit(target.new, kernel, (new_inputs - inputs_mean, outputs - outputs_mean), steps=steps, advance=advance)
    mapped_mean = target.new.linear(ops.cast(inputs_mean[None], target.new.compute_dtype))
    _set_bias(target.new, bias + outputs_mean - ops.convert_to_numpy(ops.cast(mapped_mean, "float32"))[0])
    return error


def _set_bias(layer, bias: np.ndarray | None) -> None:
    if bias is not None:
        if layer.bias_constraint is not None:
            bias = ops.convert_to_numpy(layer.bias_constraint(ops.convert_to_tensor(bias)))
        layer.bias.assign(bias)


def _layer_inputs(
    model: keras.Model, maps: dict[keras.layers.Layer, DenseMap], data, bars: Progress, description: str
) -> dict[int, np.ndarray]:
    """Return the inputs of each layer on `data`, as a dict from `id(layer)` to an array (rows, inputs).

    The dict has the order in which the model calls the layers. At most MAX_ROWS rows are drawn, the same for two models that
    call their layers alike. Layers that run inside a compiled loop are left out. Stateful layers keep their states.

    Args:
        model: a built model.
        maps: the layers, each with the map that says which rows it takes of its inputs.
        data: inputs of the model.
        bars: shows the progress.
        description: text of the progress bar.

    Raises:
        ValueError: if the model has a fixed batch size, and `data` has fewer examples.
    """
    fixed, count = fixed_batch_size(model), example_count(data)
    size = fixed or BATCH
    starts = [start for start in range(0, count, size) if fixed is None or start + fixed <= count]
    if not starts:
        raise ValueError(f"Expected at least one batch of {fixed} examples in the data. Received: {count}")
    states = [state for layer in all_layers(model) for state in keras.tree.flatten(getattr(layer, "states", None) or ())]
    values_before = [ops.convert_to_numpy(state) for state in states]
    maps_by_id = {id(layer): dense for layer, dense in maps.items()}
    max_rows = -(-MAX_ROWS // len(starts))
    collected: dict[int, list[np.ndarray]] = {}
    try:
        for start in bars.each(starts, description):
            with recorded(maps) as calls:
                run_model(model, examples_at(data, slice(start, start + size)))
            for key, layer_calls in calls.items():
                inputs = [value for call in layer_calls if (value := value_of(call.inputs)) is not None]
                if len(inputs) == len(layer_calls):
                    rows = np.concatenate([maps_by_id[key].rows_of(value) for value in inputs])
                    collected.setdefault(key, []).append(_sample_rows(rows, max_rows, start))
    finally:
        for state, value in zip(states, values_before, strict=True):
            state.assign(value)
    return {key: np.concatenate(parts)[:MAX_ROWS] for key, parts in collected.items()}


def _sample_rows(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` rows drawn at random, or all if there are no more."""
    if len(rows) <= count:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), count, replace=False)]
