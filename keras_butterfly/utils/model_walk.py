"""Walking through the layers of a model, at any depth."""

from collections.abc import Iterator

from keras.layers import Layer

from .keras_internals import held_layers


def named_layers(model: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield (path, layer) for each layer below `model`, at any depth.

    A path is the names of the layers on the way, joined by "/". A layer that is held at several places comes once for each.
    """
    for layer in held_layers(model):
        path = f"{prefix}{layer.name}"
        yield path, layer
        yield from named_layers(layer, f"{path}/")


def layer_at(model: Layer, path: str) -> Layer:
    """Return the layer of `model` at `path`, as `named_layers` gives it."""
    return dict(named_layers(model))[path]
