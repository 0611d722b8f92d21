"""Progress bars on a terminal; nothing where there is none."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import rich.progress
from rich.console import Console

T = TypeVar("T")


class Progress:
    """Bars on stderr while something runs that takes long.

    Args:
        shown: None (default): where stderr is a terminal. True or False: always, never.
    """

    def __init__(self, shown: bool | None = None):
        console = Console(stderr=True)
        columns = (rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(), rich.progress.TimeElapsedColumn())
        disable = not (console.is_terminal if shown is None else shown)
        self._bars = rich.progress.Progress(*columns, console=console, transient=True, disable=disable)

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def each(self, items: Iterable[T], description: str) -> Iterable[T]:
        """Goes through `items` under a bar."""
        listed = list(items)
        return self._bars.track(listed, total=len(listed), description=description)

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Callable[[float], None]]:
        """A bar for one piece of work; the function it gives moves it on."""
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda amount: self._bars.advance(task, amount)
        finally:
            self._bars.remove_task(task)
