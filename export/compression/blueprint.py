"""How a compressed model is made of the original: which layers are replaced by what, or how narrow they become."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_butterfly.compression.replace import replace_each
from keras_butterfly.compression.report import ReplacementReport
from keras_butterfly.utils.model_inputs import example_count, examples_at, fixed_batch_size, sample
from keras_butterfly.utils.model_walk import layer_at

from .narrowing import NAMED, Narrowing
from .structures import BUTTERFLY, LOW_RANK, Structure

# The families of models that are not those of a structure.
ORIGINAL, NARROWER, MIXED = "original", "narrower", "mixed"
# The families of narrower networks whose layers have a structure, by the family of the structure.
NARROWER_WITH = {BUTTERFLY: "narrower butterfly", LOW_RANK: "narrower low rank"}
# For each family of models, the kind of layers that stands for it in plots.
KIND_OF = {
    ORIGINAL: "dense",
    NARROWER: "narrow dense",
    LOW_RANK: "low rank",
    BUTTERFLY: "butterfly",
    NARROWER_WITH[LOW_RANK]: "low rank",
    NARROWER_WITH[BUTTERFLY]: "butterfly",
    MIXED: "several kinds",
}
# The new layers of narrower networks are fitted to the outputs of the dense ones on so many examples.
FITTED = 4096


@dataclass(frozen=True)
class Blueprint:
    """A way to make a smaller model of the original.

    Attributes:
        structures: pairs of a layer's path and what the layer becomes. All other layers stay as they are, or dense.
        narrowing: how layers become narrower, before those of `structures` are replaced. None: they keep their widths.
    """

    structures: tuple[tuple[str, Structure], ...] = ()
    narrowing: Narrowing | None = None

    @property
    def layers(self) -> dict[str, str]:
        """What each changed layer becomes, in words, by its path."""
        units = self.narrowing.units if self.narrowing else {}
        return (self.narrowing.layers if self.narrowing else {}) | {
            path: f"{structure.name}, {units[path]} units" if path in units else structure.name
            for path, structure in self.structures
        }

    @property
    def family(self) -> str:
        """The family of the model, one of `KIND_OF`."""
        families = {structure.family for _, structure in self.structures}
        if len(families) > 1:
            return MIXED
        if self.narrowing:
            return NARROWER_WITH[families.pop()] if families else NARROWER
        return families.pop() if families else ORIGINAL

    @property
    def name(self) -> str:
        """What becomes narrower, and the structures with their layers, such as "two stages: hidden_0, hidden_1"."""
        paths: dict[str, list[str]] = {}
        for path, structure in self.structures:
            paths.setdefault(structure.name, []).append(path)
        narrower = [self.narrowing.name] if self.narrowing else []
        return "; ".join([*narrower, *(f"{name}: {_listed(held)}" for name, held in paths.items())]) or ORIGINAL

    def build(
        self,
        model: keras.Model,
        x,
        starts: Mapping[tuple[str, str], Sequence[np.ndarray]],
        seed_of: Callable[[str, Structure], int | None],
        fitted: bool = False,
    ) -> tuple[keras.Model, ReplacementReport | None]:
        """Return the new model, and the report of the layers that were replaced, or None if none was.

        New layers can be trained, also if those in their places could not.

        Args:
            model: the original.
            x: inputs of the model.
            starts: the weights to start a layer with, by its path and the name of its structure.
            seed_of: gives the seed of a layer, by its path and its structure. It has to be that of the layer's start, because
                the nodes of a `ButterflyDense` depend on it.
            fitted: whether the new layers of a narrower network are fitted to the outputs of the narrower dense ones. Otherwise
                they are random, also if `x` has fewer examples than a fixed batch of the model.
        """
        if self.narrowing:
            model = self.narrowing.narrowed(model)
        if not self.structures:
            return model, None
        settings = {path: {**structure.settings, "seed": seed_of(path, structure)} for path, structure in self.structures}
        fitted = fitted and self.narrowing is not None and example_count(x) >= (fixed_batch_size(model) or 1)
        data = sample(x, FITTED) if fitted else examples_at(x, slice(1))
        new, report = replace_each(model, settings, data=data, fitted=fitted)
        for path, structure in self.structures:
            layer_at(new, path).trainable = True
            if (path, structure.name) in starts:
                layer_at(new, path).set_weights(starts[path, structure.name])
        return new, report


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:NAMED])}{f' and {len(paths) - NAMED} more' if len(paths) > NAMED else ''}"
