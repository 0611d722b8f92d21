"""Rich tables, and groups of lines and tables, that plain `print` shows."""

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 120


class TextTable(Table):
    """A `rich.table.Table` whose `str()` is the table as text, 120 columns wide at most.

    Texts are shown as they are: names of files and layers may hold brackets, which rich takes for its markup.
    """

    def add_row(self, *cells, **settings) -> None:
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **settings)

    def __str__(self) -> str:
        return _as_text(self)


class TextGroup(Group):
    """A `rich.console.Group` whose `str()` is its parts as text, one below the other, 120 columns wide at most."""

    def __str__(self) -> str:
        return _as_text(self)


def wide_console() -> Console:
    """Return a console for stdout, at least 120 columns wide unless stdout is a terminal."""
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console.width = max(console.width, WIDTH)
    return console


def _as_text(renderable: RenderableType) -> str:
    """Return what rich prints for `renderable`, without colors."""
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(renderable, highlight=False)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
