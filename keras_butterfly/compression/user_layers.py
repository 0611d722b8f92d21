"""Replacing layers inside a layer of a user's class, so that Keras can still save and load it."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras.layers import Layer

from ..utils.keras_internals import attributes, held_layers, set_held_layers, unlocked

# Where a layer sits inside another: the index among the layers that the outer one holds, the index among the layers that this
# one holds, and so on.
Place = tuple[int, ...]


@keras.saving.register_keras_serializable("keras_butterfly")
class WithReplacedLayers:
    """A layer of a user's class in which layers were replaced. This class only says how it is saved and loaded.

    The user's class alone would make the old layers on loading. So the config holds the user's class and config, and the new
    layers with their places. Loading makes the user's layer, builds it, and replaces the layers again.
    """

    def get_config(self):
        user_class = self._user_class  # type: ignore[attr-defined]
        return {
            "layer": {
                "module": user_class.__module__,
                "class_name": user_class.__name__,
                "config": super().get_config(),  # type: ignore[misc]
                "registered_name": keras.saving.get_registered_name(user_class),
            },
            "build_config": self.get_build_config(),  # type: ignore[attr-defined]
            "build_configs_inside": [
                [list(place), _layer_at(self, place).get_build_config()]
                for place in _owners(self._places)  # type: ignore[attr-defined]
            ],
            "replacements": [
                [list(place), keras.saving.serialize_keras_object(_layer_at(self, place))]
                for place in self._places  # type: ignore[attr-defined]
            ],
        }

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        _build(layer, config["build_config"])
        # A layer makes some layers only when it is built, such as attention its projections. A user's layer without a build()
        # of its own has not built the layers inside it yet.
        for place, build_config in config["build_configs_inside"]:
            _build(_layer_at(layer, place), build_config)
        replacements = {tuple(place): keras.saving.deserialize_keras_object(new) for place, new in config["replacements"]}
        replace_inside(layer, replacements)
        make_saveable(layer, replacements)
        return layer


def _build(layer: Layer, build_config) -> None:
    if build_config and not layer.built:
        layer.build_from_config(build_config)


def _owners(places: Iterable[Place]) -> list[Place]:
    """Return the places of the layers on the way to `places`, outer ones first."""
    return sorted({place[:depth] for place in places for depth in range(1, len(place))}, key=lambda place: (len(place), place))


def make_saveable(layer: Layer, replacements: Mapping[Place, Layer]) -> None:
    """Let Keras save `layer` as `WithReplacedLayers` does. It stays an instance of its class."""
    user_class = getattr(type(layer), "_user_class", type(layer))
    places = tuple(dict.fromkeys((*getattr(layer, "_places", ()), *replacements)))
    # A class that is not registered is saved under its name. This name makes Keras load it by the registered base class.
    name = keras.saving.get_registered_name(WithReplacedLayers)
    fields = {"_user_class": user_class, "_places": places, "__module__": user_class.__module__}
    # Keras saves an object under its class, and loads it by that class's `from_config`; an instance cannot change either. A
    # wrapper around the layer would lose the attributes of the user's class. So the class of the instance is changed.
    layer.__class__ = type(name, (WithReplacedLayers, user_class), fields)


def replace_inside(layer: Layer, replacements: Mapping[Place, Layer]) -> None:
    """Put the values of `replacements` at their places inside `layer`."""
    by_owner: dict[Place, dict[int, Layer]] = {}
    for (*owner_place, index), new in replacements.items():
        by_owner.setdefault(tuple(owner_place), {})[index] = new
    for place, new_layers in by_owner.items():
        owner = _layer_at(layer, place)
        held = held_layers(owner)
        _substitute(owner, {id(held[index]): new for index, new in new_layers.items()})


def _layer_at(layer, place: Place):
    """Return the layer at a place inside `layer`."""
    for index in place:
        layer = held_layers(layer)[index]
    return layer


def _substitute(owner: Layer, substitutes: Mapping[int, Layer]) -> None:
    """Replace layers in the attributes of `owner`. The keys are the ids of the old layers."""
    with unlocked(owner):
        held_before = held_layers(owner)
        for name, value in attributes(owner).items():
            if id(value) in substitutes:
                setattr(owner, name, substitutes[id(value)])
            else:
                new_value = _with_substitutes(value, substitutes)
                if new_value is not value:
                    owner.__dict__[name] = new_value
        # Keras appended the new layers. Their order must be that of the old ones, because places are indices.
        held = [substitutes.get(id(layer), layer) for layer in (*held_before, *held_layers(owner))]
        set_held_layers(owner, list({id(layer): layer for layer in held}.values()))


def _with_substitutes(value: Any, substitutes: Mapping[int, Layer]) -> Any:
    """Return `value` with layers replaced. Lists and dicts are changed in place, and tuples are made again."""
    if isinstance(value, list | dict):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            new = substitutes.get(id(item)) or _with_substitutes(item, substitutes)
            if new is not item:
                value[key] = new
    elif isinstance(value, tuple):
        items = [substitutes.get(id(item)) or _with_substitutes(item, substitutes) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
