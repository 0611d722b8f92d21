"""Private names of Keras, each behind a function of ours. No other module of this package uses a private Keras name.

Every name was seen in Keras 3.15.1 and also works in Keras 3.8. If a new version of Keras breaks one, mend it here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras.layers import Layer


def held_layers(layer: Layer) -> list[Layer]:
    """Return the layers that `layer` holds directly, in the order in which Keras tracks them. Uses `_layers`."""
    return list(layer._layers)


def set_held_layers(layer: Layer, held: Sequence[Layer]) -> None:
    """Set which layers `layer` holds directly, and in which order. Uses `_layers`."""
    layer._layers[:] = held


def all_layers(layer: Layer, include_self: bool = True) -> list[Layer]:
    """Return `layer` and all layers below it, each once. Uses `_flatten_layers`.

    Args:
        layer: a layer or a model.
        include_self: whether `layer` is part of the result.
    """
    return list(layer._flatten_layers(include_self=include_self))


def held_variables(layer: Layer) -> list[keras.Variable]:
    """Return the variables that `layer` holds directly, without those of the layers below it.

    Uses `_trainable_variables` and `_non_trainable_variables`.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def attributes(layer: Layer) -> dict[str, Any]:
    """Return the attributes of `layer`, without the list of the layers that it holds. Uses the name `_layers`."""
    return {name: value for name, value in vars(layer).items() if name != "_layers"}


@contextmanager
def unlocked(layer: Layer) -> Iterator[None]:
    """Let layers and weights be added to a built `layer` until the `with` block ends. Uses `_tracker`."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def calls_in_graph(layer: Layer) -> list:
    """Return the nodes of a functional model's graph at which `layer` is called. Uses `_inbound_nodes`.

    A node has `input_tensors` and `output_tensors`. The list is empty if the layer was never called on symbolic tensors.
    """
    return list(getattr(layer, "_inbound_nodes", ()))


def attention_projections(layer: keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention) -> tuple[Layer, ...]:
    """Return the layers that project the queries, keys and values. Uses `_query_dense`, `_key_dense` and `_value_dense`.

    `MultiHeadAttention` has them as public properties too, `GroupQueryAttention` has not.
    """
    return layer._query_dense, layer._key_dense, layer._value_dense


def lambda_output_shape(layer: keras.layers.Lambda):
    """Return the argument `output_shape` that a `Lambda` layer was made with. Uses `_output_shape`."""
    return layer._output_shape


def learning_rate_or_schedule(optimizer: keras.optimizers.Optimizer):
    """Return the learning rate of `optimizer`: its schedule, or else the variable. Uses `_learning_rate`.

    The public `learning_rate` is the present value of a schedule instead.
    """
    return optimizer._learning_rate
