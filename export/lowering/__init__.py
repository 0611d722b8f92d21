"""Ways to write a layer's affine map in TFLite's built-in operators. A new kind is a file here and an entry below."""

from .dense import Dense, Folded
from .fused import Fused, Grouping
from .lowering import SCOPES, Layer, Lowering, Part, Work, lower
from .stages import Gather, Slice

KINDS: dict[str, type[Lowering]] = {kind.kind: kind for kind in (Gather, Slice, Fused, Folded, Dense)}

__all__ = [
    "KINDS",
    "SCOPES",
    "Dense",
    "Folded",
    "Fused",
    "Gather",
    "Grouping",
    "Layer",
    "Lowering",
    "Part",
    "Slice",
    "Work",
    "lower",
]
