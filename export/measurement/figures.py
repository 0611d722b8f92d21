"""What measured figures have in common, whether they are seconds or counts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar, Protocol


class Figure(Protocol):
    """What a `Latency` and a `Counts` have in common: what tables, plots and the planner need to know.

    Attributes:
        unit: the unit of `cost`. Figures in different units cannot be compared.
        columns: the headings of the cells in a table.
        ratio: the heading of the column that compares a model with the first one.
        axis: the label of the axis on which `bar` is drawn.
    """

    unit: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    ratio: ClassVar[str]
    axis: ClassVar[str]

    @property
    def cost(self) -> float: ...

    @property
    def title(self) -> str: ...

    @property
    def bar(self) -> tuple[float, float]: ...

    def cells(self) -> list[str]: ...

    def to_dict(self) -> dict: ...


def now() -> str:
    """Return the present time in UTC, in the form of ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def amount(cost: float, unit: str) -> str:
    """Return a cost in words: seconds as microseconds, counts as they are."""
    return f"{cost * 1e6:,.2f} us" if unit == "seconds" else f"{cost:,.0f} counts"


def check_one_unit(figures: Mapping[str, Figure]) -> None:
    """Check that all figures have the same unit.

    Args:
        figures: name of the model -> what was measured of it.

    Raises:
        ValueError: if some figures are seconds and others are counts. The message names a model of each.
    """
    models = {figure.unit: name for name, figure in figures.items()}
    if len(models) > 1:
        received = ", ".join(f"{unit} of '{name}'" for unit, name in models.items())
        raise ValueError(
            f"Expected figures in one unit, because seconds and counts cannot be compared. Received: {received}. "
            "Measure all models on the same device."
        )
