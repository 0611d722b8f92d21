"""A rich table that plain `print` shows."""

import io

from rich.console import Console
from rich.table import Table

WIDTH = 120


class TextTable(Table):
    """A `rich.table.Table` whose `str()` is the table as text, 120 columns wide at most."""

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH)
        console.print(self, highlight=False)
        return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
