"""The ways to make the layers of a network narrower."""

from dataclasses import dataclass, field
from typing import Protocol

import keras

from keras_butterfly.compression.narrowing import Arguments, narrow
from keras_butterfly.compression.width_multiplier import resized

# A name lists so many widths, or layers of one structure.
NAMED = 3


class Narrowing(Protocol):
    """A way to make the layers of a network narrower."""

    @property
    def name(self) -> str:
        """What becomes narrower, such as "narrower, 256 units"."""

    @property
    def layers(self) -> dict[str, str]:
        """What each changed layer becomes, in words, by its path."""

    @property
    def units(self) -> dict[str, int]:
        """The new units of each layer that has units, by its path."""

    def narrowed(self, model: keras.Model) -> keras.Model:
        """Return a copy of `model` with narrower layers.

        Raises:
            ValueError: if no such network can be made.
        """


@dataclass(frozen=True)
class StrongestUnits:
    """A way to make a network narrower: some of its dense layers keep only their strongest units, with their weights.

    Attributes:
        widths: pairs of a layer's path and its new number of units.
    """

    widths: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        widths = list(dict.fromkeys(self.units.values()))
        numbers = " and ".join(map(str, widths)) if len(widths) <= NAMED else f"{min(widths)} to {max(widths)}"
        return f"narrower, {numbers} units"

    @property
    def layers(self) -> dict[str, str]:
        return {path: f"dense, {width} units" for path, width in self.widths}

    @property
    def units(self) -> dict[str, int]:
        return dict(self.widths)

    def narrowed(self, model: keras.Model) -> keras.Model:
        return narrow(model, self.units)


@dataclass(frozen=True)
class WidthMultiplier:
    """A way to make a network narrower: all of its hidden layers get a part of their width, and random weights.

    Attributes:
        multiplier: the factor on the widths. Two of the same arguments are equal, because the widths are rounded.
        arguments: a layer's path, the name of an argument, and its new value, for each width.
    """

    multiplier: float = field(compare=False)
    arguments: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, multiplier: float, arguments: Arguments) -> "WidthMultiplier":
        """Return the way to make a network whose layers have these arguments, by their paths."""
        return cls(multiplier, tuple((path, *each) for path, changed in arguments.items() for each in changed.items()))

    @property
    def name(self) -> str:
        return f"all layers narrower, width multiplier {self.multiplier:.2g}"

    @property
    def layers(self) -> dict[str, str]:
        return {path: ", ".join(f"{name} {value}" for name, value in changed.items()) for path, changed in self.changed.items()}

    @property
    def units(self) -> dict[str, int]:
        return {path: value for path, name, value in self.arguments if name == "units"}

    @property
    def changed(self) -> Arguments:
        """The new arguments of layers, by their paths."""
        changed: dict[str, dict[str, int]] = {}
        for path, name, value in self.arguments:
            changed.setdefault(path, {})[name] = value
        return changed

    def narrowed(self, model: keras.Model) -> keras.Model:
        return resized(model, self.changed)
