"""Copies of a network in which all hidden layers have a part of their width, as by the width multiplier of MobileNets."""

import keras
from keras import layers

from ..utils.model_walk import named_layers
from .cloning import copy_state, is_graph
from .narrowing import Arguments, config_of, narrowed_widths, remade

# The arguments of each kind of layer that are widths.
WIDTHS: dict[type, tuple[str, ...]] = {
    layers.Dense: ("units",),
    layers.Embedding: ("output_dim",),
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), ("filters",)),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), ("filters",)),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose), ("filters",)),
    **dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN), ("units",)),
    layers.MultiHeadAttention: ("key_dim", "value_dim"),
    layers.GroupQueryAttention: ("head_dim",),
}
# Those that no layer outside depends on.
INNER = {"key_dim", "value_dim", "head_dim"}


def hidden_widths(model: keras.Model) -> Arguments:
    """Return which widths of `model` can be made smaller so that its outputs keep their shapes: layer -> argument -> width.

    Layers of the same width become narrower together, because their outputs may be added to each other. If they cannot, each
    is tried alone. There are none in a model of a user's class, of which Keras does not know the graph.
    """
    if not is_graph(model):
        return {}
    found: Arguments = {}
    for group in _groups(model):
        both = _merged(found, group)
        if _can_shrink(model, both):
            found = both
        elif len(group) > 1:
            for path, arguments in group.items():
                with_one = _merged(found, {path: arguments})
                found = with_one if _can_shrink(model, with_one) else found
    return found


def with_multiplier(widths: Arguments, multiplier: float) -> Arguments:
    """Return all of `widths` times `multiplier`, each rounded as `narrowed_widths` does it."""
    return {path: narrowed_widths(arguments, multiplier) for path, arguments in widths.items()}


def resized(model: keras.Model, arguments: Arguments) -> keras.Model:
    """Return a copy of `model` whose layers have the widths in `arguments`.

    Layers of another shape have random weights and can be trained, also if they could not before. The others stay as they are.

    Args:
        model: a built Sequential or functional model.
        arguments: the new widths, by layer and argument.

    Raises:
        ValueError: if no such network can be made.
    """
    new = remade(model, arguments)
    if new is None:
        raise ValueError(f"Expected widths that can be changed, of 'hidden_widths'. Received: {sorted(arguments)}")
    for (_, old), (_, copy) in zip(named_layers(model), named_layers(new), strict=True):
        is_same = [each.shape for each in old.weights] == [each.shape for each in copy.weights]
        copy.trainable = old.trainable if is_same else True
        if is_same:
            copy.set_weights(old.get_weights())
            copy_state(old, copy)
    return new


def _groups(model: keras.Model) -> list[Arguments]:
    """Return groups of equal widths, by layer and argument."""
    config, groups = model.get_config(), dict[object, dict[str, dict[str, int]]]()
    for path, layer in named_layers(model):
        for name in WIDTHS.get(type(layer), ()):
            width = config_of(config, path).get(name)
            if isinstance(width, int) and width > 1:
                groups.setdefault(path if name in INNER else width, {}).setdefault(path, {})[name] = width
    return list(groups.values())


def _merged(first: Arguments, second: Arguments) -> Arguments:
    return {path: {**first.get(path, {}), **second.get(path, {})} for path in (*first, *second)}


def _can_shrink(model: keras.Model, widths: Arguments) -> bool:
    return remade(model, with_multiplier(widths, 0.5)) is not None
