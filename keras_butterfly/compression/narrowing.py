"""Making the hidden dense layers of a trained model narrower, with the weights of their strongest units."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ..utils.keras_internals import held_variables
from ..utils.model_walk import named_layers
from .cloning import config_without, is_graph

# The arguments of layers, by the paths of the layers.
Arguments = Mapping[str, Mapping[str, int]]
# Widths above this are rounded to a multiple of STEP, which processors handle best.
FINE, STEP = 16, 4


def narrowable_layers(model: keras.Model, among: Collection[str] | None = None) -> dict[str, int]:
    """Return the path and the width of each `Dense` layer that can be made narrower alone and leaves the outputs' shapes.

    There are none in a model of a user's class, of which Keras does not know the graph.

    Args:
        model: a built model.
        among: the paths of the layers to consider. None (default): all of them.
    """
    if not is_graph(model):
        return {}
    widths = {path: layer.units for path, layer in named_layers(model) if type(layer) is keras.layers.Dense}
    asked = {path: width for path, width in widths.items() if width > 1 and (among is None or path in among)}
    return {path: width for path, width in asked.items() if _with_units(model, {path: width // 2}) is not None}


def narrowed_widths(widths: Mapping[str, int], factor: float) -> dict[str, int]:
    """Return the widths times `factor`, rounded, at least 1."""
    scaled = {path: width * factor for path, width in widths.items()}
    return {path: round(new / STEP) * STEP if new > FINE else max(1, round(new)) for path, new in scaled.items()}


def narrow(model: keras.Model, widths: Mapping[str, int]) -> keras.Model:
    """Return a copy of a Sequential or functional model with narrower `Dense` layers, which keep their strongest units.

    A unit is as strong as the norm of its incoming weights. The kernels of the layers that follow keep the rows of these units.
    Layers of another shape can be trained, also if they could not before.

    Args:
        model: a built model.
        widths: the new widths, by the paths of the layers.

    Raises:
        ValueError: if no such model can be made, or a layer of another kind depends on the width in a way that is not known.
    """
    new = _with_units(model, widths)
    if new is None:
        raise ValueError(f"Expected layers that can be made narrower, of 'narrowable_layers'. Received: {sorted(widths)}")
    kept: dict[tuple[int, int], np.ndarray] = {}  # (old width, new width) -> the units that the last layer of that width keeps
    for path, old_layer, new_layer in _pairs(model, new):
        old_variables, new_variables = held_variables(old_layer), held_variables(new_layer)
        own = _strongest(old_layer, widths[path]) if path in widths else None
        if [each.shape for each in old_variables] != [each.shape for each in new_variables]:
            new_layer.trainable = True
        for old, variable in zip(old_variables, new_variables, strict=True):
            value = ops.convert_to_numpy(old)
            for axis, (before, after) in enumerate(zip(value.shape, variable.shape, strict=True)):
                if own is not None and axis == value.ndim - 1:
                    value = np.take(value, own, axis)
                elif before != after:
                    value = np.take(value, _kept_units(kept, before, after, path), axis)
            variable.assign(value)
        if own is not None:
            kept = {**kept, (old_layer.units, widths[path]): own}
    return new


def _with_units(model: keras.Model, widths: Mapping[str, int]) -> keras.Model | None:
    return remade(model, {path: {"units": width} for path, width in widths.items()})


def remade(model: keras.Model, arguments: Arguments) -> keras.Model | None:
    """Return a model like `model` with other arguments of its layers and untrained weights.

    It is None if Keras cannot make such a model, or if its outputs have other shapes.
    """
    config = config_without("build_config", model.get_config())  # the layers get other shapes
    for path, changed in arguments.items():
        config_of(config, path).update(changed)
    try:
        new = type(model).from_config(config)
        if not new.built:
            new.build(model.input_shape)
    except Exception:  # Layers of a user's class may refuse a width by any error.
        return None
    if not new.built or _shapes(new.outputs) != _shapes(model.outputs):
        return None
    # Names are not compared: layers that a layer makes itself, such as the softmax of an attention, have new ones in each copy.
    return new if _types(new) == _types(model) else None


def config_of(config: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the part of a model's config that is the config of the layer at `path`, or an empty dict if there is none."""
    for name in path.split("/"):
        listed = config["layers"] if "layers" in config else [config["layer"]] if "layer" in config else []
        config = next((each["config"] for each in listed if each["config"].get("name") == name), {})
    return config


def _pairs(model: keras.Model, new: keras.Model) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, layer, layer of the new model) for each layer, once if it is held at several places."""
    seen = set()
    for (path, old_layer), (_, new_layer) in zip(named_layers(model), named_layers(new), strict=True):
        if id(old_layer) not in seen:
            seen.add(id(old_layer))
            yield path, old_layer, new_layer


def _strongest(layer: keras.layers.Dense, count: int) -> np.ndarray:
    """Return the indices of the `count` units with the largest incoming weights, in their order."""
    norms = np.linalg.norm(ops.convert_to_numpy(ops.cast(layer.kernel, "float32")), axis=0)
    return np.sort(np.argsort(-norms, kind="stable")[:count])


def _kept_units(kept: Mapping[tuple[int, int], np.ndarray], before: int, after: int, path: str) -> np.ndarray:
    """Return which of `before` features are kept, of which `after` are left.

    They are the units of the last narrowed layer of that width, once or several times if its outputs were flattened.

    Raises:
        ValueError: if no narrowed layer fits.
    """
    for (old, new), units in reversed(list(kept.items())):
        if before % old == 0 and before // old * new == after:
            return (np.arange(before // old)[:, None] * old + units).reshape(-1)
    raise ValueError(f"Layer '{path}' has {before} features of which {after} are left, and it is not known which.")


def _shapes(tensors) -> list[tuple]:
    return [tuple(tensor.shape) for tensor in tensors]


def _types(model: keras.Model) -> list[type]:
    return [type(layer) for _, layer in named_layers(model)]
