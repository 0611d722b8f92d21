"""Copies of a network in which all hidden layers have a part of their width, as by the width multiplier of MobileNets."""

from collections.abc import Mapping

import keras
from keras import layers

from ..utils.model_walk import named_layers
from .cloning import copy_state, is_graph
from .narrowing import Arguments, config_of, narrowed_widths, remade

# The arguments of each kind of layer that are widths.
WIDTHS: dict[type, tuple[str, ...]] = {
    layers.Dense: ("units",),
    layers.Embedding: ("output_dim",),
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.SeparableConv1D, layers.SeparableConv2D), ("filters",)),
    **dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN), ("units",)),
    layers.MultiHeadAttention: ("key_dim", "value_dim", "output_shape"),
    layers.GroupQueryAttention: ("head_dim",),
}
# Those that no layer outside depends on.
INNER = {"key_dim", "value_dim", "head_dim"}


def hidden_widths(model: keras.Model) -> Arguments:
    """Return the widths that can be made smaller without another shape of the outputs, by layer and argument.

    Layers of the same width become narrower together, because their outputs may be added to each other. If they cannot, each
    is tried alone. There are none in a model of a user's class, of which Keras does not know the graph.
    """
    if not is_graph(model):
        return {}
    found: dict[str, dict[str, int]] = {}
    for group in _groups(model):
        alone = [{path: arguments} for path, arguments in group.items()]
        for each in [group] if _can_shrink(model, group) else [one for one in alone if _can_shrink(model, one)]:
            for path, arguments in each.items():
                found.setdefault(path, {}).update(arguments)
    return found


def with_multiplier(widths: Arguments, multiplier: float) -> Arguments:
    """Return widths times `multiplier`, rounded, at least 1."""
    return {path: narrowed_widths(arguments, multiplier) for path, arguments in widths.items()}


def resized(model: keras.Model, arguments: Arguments) -> keras.Model:
    """Return a network like `model` with other widths. Layers of another shape have random weights, the others keep theirs.

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
        if [each.shape for each in old.weights] == [each.shape for each in copy.weights]:
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


def _can_shrink(model: keras.Model, widths: Mapping[str, Mapping[str, int]]) -> bool:
    return remade(model, with_multiplier(widths, 0.5)) is not None
