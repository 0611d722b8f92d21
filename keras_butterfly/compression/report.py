"""The report of what `replace_dense` replaced, and what it kept."""

from dataclasses import asdict, dataclass

from ..utils.text_table import TextTable
from .dense_map import little_saved

# What the table says about layers that were not fitted.
RANDOM = "New layers with random weights: {}. They need training, for example by distill(new, model, x, y)."


@dataclass(frozen=True)
class LayerReplacement:
    """A layer that was replaced, and the layer that stands in its place.

    Attributes:
        layer: path of the layer: the names on the way to it, joined by "/".
        was: class of the old layer.
        kind: class of the new layer.
        inputs, units: sizes of the last axis of the layer's inputs and outputs. Several axes that the layer maps count as one.
        weights_before, weights_after: number of weights of the old and of the new layer, with the bias.
        error: relative error of the fit in the 2-norm. 0 is exact, and 1 is the error of a layer that returns zeros. If the
            layer was fitted to data, the error is that of its outputs on the data; if the layer has a bias, the means over the
            data are subtracted first. If it was fitted to the kernel, the error is that of the kernel. None: the layer starts
            from random weights.
        fitted_to: "data", "kernel" or None.
    """

    layer: str
    was: str
    kind: str
    inputs: int
    units: int
    weights_before: int
    weights_after: int
    error: float | None = None
    fitted_to: str | None = None


@dataclass(frozen=True)
class ReplacementReport:
    """The layers that `replace_dense` replaced, and the reasons why it kept others.

    Attributes:
        replacements: the layers that were replaced, in the order of the model.
        kept: maps the path of a layer that is not replaced, but that a user might expect to be, to the reason.
        weights_before, weights_after: number of weights of the whole model.
    """

    replacements: tuple[LayerReplacement, ...]
    kept: dict[str, str]
    weights_before: int
    weights_after: int

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each new layer that has more than half as many weights as the dense one."""
        notes = (little_saved(each.layer, each.weights_after, each.weights_before) for each in self.replacements)
        return tuple(note for note in notes if note)

    def table(self) -> TextTable:
        """Return a table, which `print` and `rich.print` show."""
        random = sum(each.fitted_to is None for each in self.replacements)
        below = "\n".join([*self.notes, *([RANDOM.format(random)] if random else [])]) or None
        title = f"{self.weights_before:,} weights -> {self.weights_after:,}"
        table = TextTable(title=title, title_justify="left", caption=below, caption_justify="left")
        for column in ("layer", "was", "is", "shape"):
            table.add_column(column)
        for column in ("weights before", "after", "relative error"):
            table.add_column(column, justify="right")
        for each in self.replacements:
            error = "" if each.error is None else f"{each.error:.3f} ({each.fitted_to})"
            counts = (f"{each.weights_before:,}", f"{each.weights_after:,}")
            table.add_row(each.layer, each.was, each.kind, f"{each.inputs} -> {each.units}", *counts, error)
        return table

    def to_dict(self) -> dict:
        """Return the report as a dict of plain values, which JSON can hold."""
        return {**asdict(self), "notes": list(self.notes)}
