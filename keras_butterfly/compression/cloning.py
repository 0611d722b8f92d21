"""A Keras model again, with some of its layers exchanged, however deep they sit."""

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from keras.layers import Layer


def clone_with(model: keras.Model, exchanged: Mapping[int, Layer], build=lambda clone: None) -> keras.Model:
    """A new model with the weights of `model`, where each layer whose id is a key is the value instead; it is compiled alike.

    Sequential and functional models are rebuilt along their graph. In models and layers of a user's class, which Keras makes
    again from their config, the layers are exchanged where they are held: as attributes, in lists and in dicts.

    Args:
        model: a built model.
        exchanged: new layers, which take and give what the old ones do.
        build: called on the copy of a model of a user's class, to build it where its config does not.

    Raises:
        ValueError: for a model or layer that Keras cannot make again from its config.
    """
    clone = _Cloner(exchanged).model(model, build)
    if model.compiled:
        try:
            clone.compile_from_config(model.get_compile_config())
        except (TypeError, ValueError):  # a loss or metric that Keras knows no name of: the user compiles again
            clone.optimizer = None
            clone.compiled = False
    return clone


class _Cloner:
    def __init__(self, exchanged: Mapping[int, Layer]):
        self.exchanged = exchanged

    def model(self, model: keras.Model, build) -> keras.Model:
        if is_graph(model):
            return self.graph(model)
        clone = remade(model)
        if not clone.built and model.get_build_config():
            clone.build_from_config(model.get_build_config())
        if not clone.built:
            build(clone)
        self.finish(model, clone)
        return clone

    def graph(self, model: keras.Model) -> keras.Model:
        """A Sequential or functional model."""
        copies: list[tuple[Layer, Layer]] = []

        def copied(layer):
            if id(layer) in self.exchanged:
                return self.exchanged[id(layer)]
            copy = remade(layer)
            if isinstance(layer, Layer):  # else a bare operation, such as the sum of two tensors
                copies.append((layer, copy))
            return copy

        compiled, model.compiled = model.compiled, False  # or Keras would compile the copy, before its layers are final
        try:
            clone = keras.models.clone_model(model, clone_function=copied, recursive=True)
        finally:
            model.compiled = compiled
        if type(clone) is not type(model):
            raise ValueError(
                f"Expected a Sequential or functional model of Keras's own class. Received '{model.name}', a "
                f"{type(model).__name__}, of which Keras makes a {type(clone).__name__}. Replace the layers of "
                "keras.Model(model.inputs, model.outputs)."
            )
        if not clone.built:
            clone.build(model.input_shape)
        for layer, copy in copies:
            self.finish(layer, copy)
        return clone

    def finish(self, layer: Layer, copy: Layer) -> None:
        """Gives `copy` the weights of `layer`, then exchanges what is to be inside it."""
        if layer.built and not copy.built and layer.get_build_config():
            copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
        for old, new in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
            new.trainable = old.trainable
            _copy_state(old, new)
        inside = dict(self.inside(layer))
        if inside:
            exchange(copy, inside)
            if not _describes_itself(copy):
                _become_exchanged(copy, inside)

    def inside(self, layer: Layer, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Layer]]:
        """Places within `layer`, as indices through `_layers`, and what belongs there.

        A copy was made by the same code, so that it holds its layers in the same order.
        """
        for index, held in enumerate(layer._layers):
            if id(held) in self.exchanged:
                yield (*place, index), self.exchanged[id(held)]
            elif any(id(inner) in self.exchanged for inner in held._flatten_layers(include_self=False)):
                if is_graph(held):
                    yield (*place, index), self.graph(held)
                else:
                    yield from self.inside(held, (*place, index))


def _copy_state(old: Layer, new: Layer) -> None:
    """What an adapted preprocessing layer has besides weights: tables of words, values worked out from its weights."""
    if hasattr(old, "save_assets") and hasattr(old, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if hasattr(new, "finalize_state") and new.built:
        new.finalize_state()


@keras.saving.register_keras_serializable("keras_butterfly")
class Exchanged:
    """How a layer of a user's class is saved and loaded once layers inside it were exchanged: its class makes the old ones.

    A saved layer is described by its own class and config, and the new layers with their places. Loading makes the layer,
    builds it, and exchanges them again.
    """

    def get_config(self):
        own = self._own_class  # type: ignore[attr-defined]
        return {
            "layer": {
                "module": own.__module__,
                "class_name": own.__name__,
                "config": super().get_config(),  # type: ignore[misc]
                "registered_name": keras.saving.get_registered_name(own),
            },
            "build_config": self.get_build_config(),  # type: ignore[attr-defined]
            "inside": [[list(place), keras.saving.serialize_keras_object(new)] for place, new in self._inside()],
        }

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        if config["build_config"] and not layer.built:
            layer.build_from_config(config["build_config"])
        inside = {tuple(place): keras.saving.deserialize_keras_object(new) for place, new in config["inside"]}
        exchange(layer, inside)
        _become_exchanged(layer, inside)
        return layer

    def _inside(self):
        for place in self._places:  # type: ignore[attr-defined]
            held = self
            for index in place:
                held = held._layers[index]  # type: ignore[attr-defined]
            yield place, held


def _become_exchanged(layer: Layer, inside: Mapping[tuple[int, ...], Layer]) -> None:
    """Makes `layer` say of itself what `Exchanged` saves; it stays an instance of its class."""
    own = getattr(type(layer), "_own_class", type(layer))
    places = tuple(dict.fromkeys((*getattr(layer, "_places", ()), *inside)))
    # Keras saves a class that is not registered under its name: this one is loaded by the registered base.
    name = keras.saving.get_registered_name(Exchanged)
    layer.__class__ = type(name, (Exchanged, own), {"_own_class": own, "_places": places, "__module__": own.__module__})


def _describes_itself(layer: Layer) -> bool:
    """Whether the layer's config makes what it holds now, as that of a Keras wrapper does."""
    again = type(layer).from_config(layer.get_config())
    return [type(held) for held in again._flatten_layers()] == [type(held) for held in layer._flatten_layers()]


def exchange(layer: Layer, inside: Mapping[tuple[int, ...], Layer]) -> None:
    """Puts new layers at places within `layer`, indices through `_layers`."""
    owners: dict[tuple[int, ...], dict[int, Layer]] = {}
    for (*above, index), new in inside.items():
        owners.setdefault(tuple(above), {})[index] = new
    for path, swaps in owners.items():
        owner = layer
        for index in path:
            owner = owner._layers[index]
        substitute(owner, {id(owner._layers[index]): new for index, new in swaps.items()})


def is_graph(layer: Layer) -> bool:
    """Whether Keras knows the graph of the layer: a Sequential or functional model."""
    return isinstance(layer, keras.Sequential | keras.Function)


def remade(layer: Layer) -> Layer:
    """A new layer from the config of `layer`.

    Raises:
        ValueError: if Keras cannot; the message says what to do.
    """
    if type(layer) is keras.layers.Lambda:  # its config holds bytecode, which Keras does not run unasked
        settings = {"name": layer.name, "dtype": layer.dtype_policy}
        return keras.layers.Lambda(layer.function, layer._output_shape, layer.mask, layer.arguments, **settings)
    try:
        return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"Expected layers that Keras can make again from their config. Received '{layer.name}', a {type(layer).__name__}: "
            f"{reason} Give the class a get_config() that returns its constructor's arguments, or build the model from inputs "
            "to outputs with keras.Model(inputs, outputs)."
        ) from error


def substitute(owner: Layer, swaps: Mapping[int, Layer]) -> None:
    """Puts the values of `swaps` where `owner` holds the layers whose ids are the keys."""
    locked = owner._tracker.locked
    owner._tracker.unlock()
    for name, value in list(vars(owner).items()):
        if id(value) in swaps:
            setattr(owner, name, swaps[id(value)])
        elif name != "_layers":
            exchanged = _exchanged(value, swaps)
            if exchanged is not value:
                owner.__dict__[name] = exchanged
    # Keras appended what was set; the order is that of the layers before.
    held = [swaps.get(id(layer), layer) for layer in owner._layers]
    owner._layers[:] = list({id(layer): layer for layer in held}.values())
    if locked:
        owner._tracker.lock()


def _exchanged(value: Any, swaps: Mapping[int, Layer]) -> Any:
    """`value` with the layers exchanged: lists and dicts in place, tuples anew."""
    if isinstance(value, list):
        for index, item in enumerate(list(value)):
            new = swaps.get(id(item)) or _exchanged(item, swaps)
            if new is not item:
                value[index] = new
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            new = swaps.get(id(item)) or _exchanged(item, swaps)
            if new is not item:
                value[key] = new
    elif isinstance(value, tuple):
        items = [swaps.get(id(item)) or _exchanged(item, swaps) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
