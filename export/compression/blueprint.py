"""How a compressed model is made of the original: which layers are replaced by what, or how narrow they become."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_butterfly.compression.narrowing import Arguments, narrow
from keras_butterfly.compression.replace import replace_each
from keras_butterfly.compression.report import ReplacementReport
from keras_butterfly.compression.width_multiplier import resized
from keras_butterfly.utils.model_inputs import examples_at

from .harm import layer_at
from .structures import BUTTERFLY, LOW_RANK, Structure

# A name lists so many layers of one structure.
NAMED = 3
# The families of models that are not those of a structure.
ORIGINAL, NARROWER, NARROWER_BUTTERFLY, MIXED = "original", "narrower", "narrower butterfly", "mixed"
# For each family of models, the kind of layers that stands for it in plots.
KIND_OF = {
    ORIGINAL: "dense",
    NARROWER: "narrow dense",
    LOW_RANK: "low rank",
    BUTTERFLY: "butterfly",
    NARROWER_BUTTERFLY: "butterfly",
    MIXED: "several kinds",
}


@dataclass(frozen=True)
class Blueprint:
    """A way to make a smaller model of the original.

    Attributes:
        structures: pairs of a layer's path and what the layer becomes. All other layers stay as they are, or dense.
        widths: pairs of a layer's path and its new width. Layers of `structures` become narrower first.
        multiplier: the width multiplier of the whole network, or None. Networks of the same arguments are equal.
        arguments: with a multiplier, a layer's path, the name of an argument, and its new value.
    """

    structures: tuple[tuple[str, Structure], ...] = ()
    widths: tuple[tuple[str, int], ...] = ()
    multiplier: float | None = field(default=None, compare=False)
    arguments: tuple[tuple[str, str, int], ...] = ()

    @classmethod
    def of_multiplier(cls, multiplier: float, arguments: Arguments) -> "Blueprint":
        """Return the way to make a network with a width multiplier, which gives its layers these arguments."""
        listed = tuple((path, name, value) for path, changed in arguments.items() for name, value in changed.items())
        return cls(multiplier=multiplier, arguments=listed)

    @property
    def layers(self) -> dict[str, str]:
        """What each changed layer becomes, in words, by its path."""
        if self.multiplier is not None:
            return {
                path: ", ".join(f"{name} {value}" for name, value in changed.items()) for path, changed in self._changed.items()
            }
        narrower = {path: f"dense, {width} units" for path, width in self.widths}
        widths = dict(self.widths)
        return narrower | {
            path: f"{structure.name}, {widths[path]} units" if path in widths else structure.name
            for path, structure in self.structures
        }

    @property
    def family(self) -> str:
        """The family of the model, one of `KIND_OF`."""
        if self.multiplier is not None:
            return NARROWER
        families = {structure.family for _, structure in self.structures}
        if self.widths:
            return NARROWER_BUTTERFLY if self.structures else NARROWER
        return ORIGINAL if not families else families.pop() if len(families) == 1 else MIXED

    @property
    def name(self) -> str:
        """The widths, and the structures with their layers, such as "two stages: hidden_0, hidden_1"."""
        if self.multiplier is not None:
            return f"all layers narrower, width multiplier {self.multiplier:.2g}"
        narrower = []
        if self.widths:
            widths = list(dict.fromkeys(width for _, width in self.widths))
            numbers = " and ".join(map(str, widths)) if len(widths) <= NAMED else f"{min(widths)} to {max(widths)}"
            narrower = [f"narrower, {numbers} units"]
        paths: dict[str, list[str]] = {}
        for path, structure in self.structures:
            paths.setdefault(structure.name, []).append(path)
        parts = [f"{name}: {_listed(held)}" for name, held in paths.items()]
        return "; ".join([*narrower, *parts]) or ORIGINAL

    def build(
        self,
        model: keras.Model,
        x,
        starts: Mapping[tuple[str, str], Sequence[np.ndarray]],
        seed_of: Callable[[str, Structure], int | None],
    ) -> tuple[keras.Model, ReplacementReport | None]:
        """Return the new model, and the report of the layers that were replaced, or None if none was.

        Args:
            model: the original.
            x: inputs of the model.
            starts: the weights to start a layer with, by its path and the name of its structure.
            seed_of: gives the seed of a layer, by its path and its structure. It has to be that of the layer's start, because
                the nodes of a `ButterflyDense` depend on it.
        """
        if self.multiplier is not None:
            return resized(model, self._changed), None
        if self.widths:
            model = narrow(model, dict(self.widths))
        if not self.structures:
            return model, None
        settings = {path: {**structure.settings, "seed": seed_of(path, structure)} for path, structure in self.structures}
        new, report = replace_each(model, settings, data=examples_at(x, slice(1)))
        for path, structure in self.structures:
            if (path, structure.name) in starts:
                layer_at(new, path).set_weights(starts[path, structure.name])
        return new, report

    @property
    def _changed(self) -> dict[str, dict[str, int]]:
        """The new arguments of layers, by their paths."""
        changed: dict[str, dict[str, int]] = {}
        for path, name, value in self.arguments:
            changed.setdefault(path, {})[name] = value
        return changed


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:NAMED])}{f' and {len(paths) - NAMED} more' if len(paths) > NAMED else ''}"
