"""Which layers of a model a search may change, and how."""

from typing import NamedTuple

import keras

from keras_butterfly.compression.narrowing import Arguments, narrowable_layers
from keras_butterfly.compression.width_multiplier import hidden_widths

from .replaceable import Replaceable, replaceable_layers


class Places(NamedTuple):
    """The layers of a model that a search may change.

    Attributes:
        layers: the layers that may be replaced.
        widths: the widths of the layers that may be made narrower alone, by their paths.
        arguments: the widths of all layers that may be made narrower together, by their paths and arguments. Empty if they are
            those of `widths`.
    """

    layers: list[Replaceable]
    widths: dict[str, int]
    arguments: Arguments

    @property
    def paths(self) -> list[str]:
        """The paths of the layers. Those that may be changed in several ways come several times."""
        return [*(layer.path for layer in self.layers), *self.widths, *self.arguments]

    @classmethod
    def of(cls, model: keras.Model, x, where, min_weights: int | None) -> "Places":
        """Return the layers of `model` that the arguments `where` and `min_weights` of `compress` let a search change.

        Raises:
            ValueError: as `replaceable_layers`, and if there are no places.
        """
        layers = replaceable_layers(model, x, where, min_weights)
        all_permitted = where is None and min_weights is None
        widths = narrowable_layers(model, None if all_permitted else {layer.path for layer in layers})
        arguments = hidden_widths(model) if all_permitted else {}
        if arguments.keys() <= widths.keys():
            arguments = {}
        places = cls(layers, widths, arguments)
        if not places.paths:
            raise ValueError(
                "Expected a layer that can be replaced or made narrower. Found none. Choose others by `where`, or lower "
                "`min_weights`."
            )
        return places
