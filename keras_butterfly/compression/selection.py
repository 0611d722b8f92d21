"""The selection of the layers that `replace_dense` replaces, by its arguments `where` and `min_weights`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

from ..utils.model_walk import named_layers
from ..utils.validation import positive_integer
from .dense_map import KINDS

NOT_SELECTED, TOO_SMALL = "is not selected by `where`", "has fewer weights than `min_weights`"
SEVERAL_PIXELS = "is a 1 x 1 convolution of several pixels, which is replaced only if `where` or `min_weights` is given"
WIDER_KERNEL = "is a convolution of several pixels, which is never replaced"
# Layers with fewer weights than this are not reported as kept, unless the user selected them.
MIN_REPORTED_WEIGHTS = 4096

Candidate = tuple[str, keras.layers.Layer]
# Reasons that say nothing new about a small layer.
_QUIET_REASONS = (NOT_SELECTED, TOO_SMALL, SEVERAL_PIXELS, WIDER_KERNEL)

_TABLE_OR_LOOP = {
    keras.layers.LSTM: "recurrent",
    keras.layers.GRU: "recurrent",
    keras.layers.Embedding: "a table of embeddings",
}


@dataclass(frozen=True)
class Selection:
    """A rule that says which layers to replace.

    Attributes:
        why_not_selected: returns why `where` does not select the layer at a path, or None if it does.
        min_weights: smallest number of weights of a layer to replace.
        must_succeed: whether it is an error if a selected layer cannot be replaced. It is if the user named the layers.
        only_if_smaller: whether a layer is kept if its replacement would have more than half of its weights.
    """

    why_not_selected: Callable[[str, keras.layers.Layer], str | None]
    min_weights: int = 1
    must_succeed: bool = False
    only_if_smaller: bool = False

    @classmethod
    def of(cls, where, min_weights: int | None, candidates: Sequence[Candidate]) -> "Selection":
        """Return the rule that the arguments of `replace_dense` describe.

        Raises:
            ValueError: if an argument is of another type, or `where` names a layer that is not among the candidates.
        """
        least = 1 if min_weights is None else positive_integer(min_weights, "min_weights")
        if where is None and min_weights is None:
            return cls(lambda path, layer: _why_several_pixels(layer), only_if_smaller=True)
        if where is None:
            return cls(lambda path, layer: None, least)
        if isinstance(where, re.Pattern):
            return cls(_selecting(lambda path, layer: where.search(path)), least)
        if callable(where):
            return cls(_selecting(lambda path, layer: where(layer)), least)
        names = [where] if isinstance(where, str) else where
        if isinstance(names, Sequence) and all(isinstance(name, str) for name in names):
            unknown = [name for name in names if not any(name in (path, layer.name) for path, layer in candidates)]
            if unknown:
                raise ValueError(f"Expected names of dense layers, of {[path for path, _ in candidates]}. Received: {unknown}")
            return cls(_selecting(lambda path, layer: path in names or layer.name in names), least, must_succeed=True)
        hint = (
            " To select by the number of weights, pass it as `min_weights`."
            if isinstance(where, int) and not isinstance(where, bool)
            else ""
        )
        raise ValueError(
            "`where` must be None, a name, a list of names, a compiled regular expression, or a function that takes a layer. "
            f"Received: where={where!r}.{hint}"
        )

    def why_not(self, path: str, layer: keras.layers.Layer) -> str | None:
        """Return why `layer` is not selected, or None if it is."""
        reason = self.why_not_selected(path, layer)
        if reason is not None:
            return reason
        if layer.built and layer.count_params() < self.min_weights:
            return TOO_SMALL
        return None


def candidates_of(model: keras.Model) -> list[Candidate]:
    """Return each layer of `model` whose class may be a dense map, once, with its first path."""
    found: dict[int, Candidate] = {}
    for path, layer in named_layers(model):
        if isinstance(layer, KINDS):
            found.setdefault(id(layer), (path, layer))
    return list(found.values())


def reasons_to_report(model: keras.Model, reasons: dict[str, str]) -> dict[str, str]:
    """Return, by path, why layers are kept that a user may expect to be replaced.

    Args:
        model: the model.
        reasons: maps the path of each candidate that is kept to the reason. Of the layers that were not selected, only large
            ones are reported. Recurrent layers and embeddings with many weights are added.
    """
    reported = {
        path: f"has {layer.count_params():,} weights, but is {what}, which is not replaced"
        for path, layer in named_layers(model)
        for kind, what in _TABLE_OR_LOOP.items()
        if isinstance(layer, kind) and layer.built and layer.count_params() >= MIN_REPORTED_WEIGHTS
    }
    for path, layer in candidates_of(model):
        reason = reasons.get(path)
        if reason is not None and (reason not in _QUIET_REASONS or _may_be_expected(layer)):
            reported[path] = reason
    return reported


def _may_be_expected(layer: keras.layers.Layer) -> bool:
    """Return whether a user may expect `layer` to be replaced: it is large, and no convolution of several pixels."""
    return _is_pointwise(layer) and layer.built and layer.count_params() >= MIN_REPORTED_WEIGHTS


def summarize(reasons: dict[str, str]) -> str:
    """Return one sentence part for each different reason, with the first three paths that it holds for."""
    paths: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        paths.setdefault(reason, []).append(f"'{path}'")
    parts = [f"{', '.join(held[:3])}{' and others' if len(held) > 3 else ''} {reason}" for reason, held in paths.items()]
    return "; ".join(parts[:8]) or "the model has no dense layer"


def _selecting(selects: Callable[[str, keras.layers.Layer], object]) -> Callable[[str, keras.layers.Layer], str | None]:
    """Turn a function that returns whether a layer is selected into one that returns why it is not, or None if it is."""
    return lambda path, layer: None if selects(path, layer) else NOT_SELECTED


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    return not isinstance(layer, keras.layers.Conv2D) or tuple(layer.kernel_size) == (1, 1)


def _why_several_pixels(layer: keras.layers.Layer) -> str | None:
    """Return None, except for a convolution that is applied to more than one pixel.

    Convolutions of a single pixel are dense layers in disguise, such as the last ones of MobileNetV3.
    """
    shape = (layer.get_build_config() or {}).get("input_shape")
    if not isinstance(layer, keras.layers.Conv2D) or (shape is not None and tuple(shape[1:3]) == (1, 1)):
        return None
    return SEVERAL_PIXELS if _is_pointwise(layer) else WIDER_KERNEL
