"""The layers of a model, however deep they sit."""

from collections.abc import Iterator

from keras.layers import Layer


def named_layers(model: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """All layers below `model` with their paths, names joined by "/"; a shared one comes once for each place."""
    for layer in model._layers:
        path = f"{prefix}{layer.name}"
        yield path, layer
        yield from named_layers(layer, f"{path}/")
