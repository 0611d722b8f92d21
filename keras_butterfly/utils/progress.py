"""Progress bars on a terminal. The command line prints a line for each stage where there is no terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import rich.progress
from rich.console import Console

T = TypeVar("T")
# Moves a bar on by an amount, and if given changes its text.
Advance = Callable[..., None]


class Progress:
    """Bars on stderr while something runs that takes long.

    Args:
        shown: None (default): where stderr is a terminal. True or False: always, never.
    """

    #: Whether each stage is a line on stderr where that is no terminal. The command line turns it on.
    lines = False

    def __init__(self, shown: bool | None = None):
        console = Console(stderr=True)
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
        )
        disable = not (console.is_terminal if shown is None else shown)
        self._prints = Progress.lines and shown is None and disable
        self._bars = rich.progress.Progress(*columns, console=console, transient=True, disable=disable)

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def each(self, items: Iterable[T], description: str) -> Iterable[T]:
        """Go through `items` under a bar."""
        listed = list(items)
        self._print(description)
        return self._bars.track(listed, total=len(listed), description=description)

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        """Show a bar for one piece of work. The function that it gives moves the bar on, and can change its text."""
        task = self._bars.add_task(description, total=total)
        self._print(description)

        def advance(amount: float, text: str | None = None) -> None:
            self._bars.update(task, advance=amount, description=text)
            if text is not None:
                self._print(text)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)

    def _print(self, text: str) -> None:
        if self._prints:
            with suppress(OSError, ValueError):  # a closed stderr is no reason to stop the work
                print(text, file=sys.stderr, flush=True)
