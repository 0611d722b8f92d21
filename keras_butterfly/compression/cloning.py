"""Copying a Keras model with other layers in place of some of its layers, at any depth."""

import tempfile
from collections.abc import Callable, Iterator, Mapping

import keras
from keras.layers import Layer

from ..utils.keras_internals import all_layers, held_layers, lambda_output_shape
from ..utils.validation import reason_of
from .user_layers import Place, make_saveable, replace_inside


def clone_with(
    model: keras.Model, replacements: Mapping[int, Layer], build: Callable[[keras.Model], None] = lambda clone: None
) -> keras.Model:
    """Return a copy of `model`, with the same weights, in which some layers are replaced. It is compiled like `model`.

    Sequential and functional models are made again along their graph. Models and layers of a user's class are made again by
    Keras from their config. Layers that they hold are then replaced in their attributes, lists and dicts.

    Args:
        model: a built model.
        replacements: maps `id(layer)` of a layer of `model` to the layer to put in its place.
        build: function that builds the copy of a model of a user's class, if Keras cannot from its config.

    Raises:
        ValueError: if Keras cannot make a model or a layer again from its config.
    """
    clone = _Cloner(replacements).clone(model, build)
    if model.compiled:
        try:
            clone.compile_from_config(model.get_compile_config())
        except (TypeError, ValueError):  # Keras cannot find a loss or metric by name. The user compiles the copy.
            clone.optimizer = None
            clone.compiled = False
    return clone


class _Cloner:
    """A maker of copies of models in which the same layers are replaced."""

    def __init__(self, replacements: Mapping[int, Layer]):
        self.replacements = replacements

    def clone(self, model: keras.Model, build: Callable[[keras.Model], None]) -> keras.Model:
        """Return a copy of a model of any kind."""
        if is_graph(model):
            return self.clone_graph(model)
        clone = remake(model)
        if not clone.built and model.get_build_config():
            clone.build_from_config(model.get_build_config())
        if not clone.built:
            build(clone)
        self.fill(clone, model)
        return clone

    def clone_graph(self, model: keras.Model) -> keras.Model:
        """Return a copy of a Sequential or functional model."""
        copies: list[tuple[Layer, Layer]] = []

        def copy_or_replacement(layer):
            if id(layer) in self.replacements:
                return self.replacements[id(layer)]
            copy = remake(layer)
            if isinstance(layer, Layer):  # An operation that is no layer, such as the sum of two tensors, has no weights.
                copies.append((copy, layer))
            return copy

        # Otherwise Keras compiles the copy, before it has its final layers.
        compiled, model.compiled = model.compiled, False
        try:
            clone = keras.models.clone_model(model, clone_function=copy_or_replacement, recursive=True)
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
        for copy, layer in copies:
            self.fill(copy, layer)
        return clone

    def fill(self, copy: Layer, layer: Layer) -> None:
        """Give `copy` the weights and states of `layer`, and then replace the layers inside it."""
        if layer.built and not copy.built and layer.get_build_config():
            copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
        for old, new in zip(all_layers(layer), all_layers(copy), strict=True):
            new.trainable = old.trainable
            copy_state(old, new)
        replacements = dict(self.replacements_inside(layer))
        if replacements:
            replace_inside(copy, replacements)
            if not _config_makes_same_layers(copy):
                make_saveable(copy, replacements)

    def replacements_inside(self, layer: Layer, place: Place = ()) -> Iterator[tuple[Place, Layer]]:
        """Yield (place, new layer) for each layer inside `layer` that is to be replaced.

        A copy of `layer` is made by the same code. So it holds its layers in the same order, and the places hold for it too.
        """
        for index, held in enumerate(held_layers(layer)):
            if id(held) in self.replacements:
                yield (*place, index), self.replacements[id(held)]
            elif any(id(inner) in self.replacements for inner in all_layers(held, include_self=False)):
                if is_graph(held):
                    yield (*place, index), self.clone_graph(held)
                else:
                    yield from self.replacements_inside(held, (*place, index))


def copy_state(old: Layer, new: Layer) -> None:
    """Copy the state of an adapted preprocessing layer that is not in its weights, such as a table of words."""
    if hasattr(old, "save_assets") and hasattr(old, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if hasattr(new, "finalize_state") and new.built:
        new.finalize_state()


def _config_makes_same_layers(layer: Layer) -> bool:
    """Return whether the config of `layer` makes the layers that it holds now, as that of a Keras wrapper does."""
    again = type(layer).from_config(layer.get_config())
    return [type(held) for held in all_layers(again)] == [type(held) for held in all_layers(layer)]


def is_graph(layer: Layer) -> bool:
    """Return whether Keras knows the graph of `layer`: it is a Sequential or functional model."""
    return isinstance(layer, keras.Sequential | keras.Function)


def remake(layer: Layer) -> Layer:
    """Return a new layer, made from the config of `layer`.

    Raises:
        ValueError: if Keras cannot make it. The message says what to do.
    """
    if type(layer) is keras.layers.Lambda:  # Its config holds bytecode, which Keras refuses to run.
        settings = {"name": layer.name, "dtype": layer.dtype_policy}
        return keras.layers.Lambda(layer.function, lambda_output_shape(layer), layer.mask, layer.arguments, **settings)
    try:
        return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected layers that Keras can make again from their config. Received '{layer.name}', a {type(layer).__name__}: "
            f"{reason_of(error)}. Give the class a get_config() that returns its constructor's arguments, or build the model "
            "from inputs to outputs with keras.Model(inputs, outputs)."
        ) from error


def config_without(name: str, config):
    """Return a Keras config without the entries called `name`, at any depth."""
    if isinstance(config, dict):
        return {key: config_without(name, value) for key, value in config.items() if key != name}
    return [config_without(name, value) for value in config] if isinstance(config, list) else config
