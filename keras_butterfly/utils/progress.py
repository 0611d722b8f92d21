"""Progress bars on stderr. Without a terminal the command line prints a line for each stage instead."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import rich.progress
from rich.console import Console

T = TypeVar("T")
# A function that moves a bar on by an amount. If a text is given too, it becomes the text of the bar.
Advance = Callable[..., None]


class Progress:
    """A context manager that shows progress bars on stderr.

    Args:
        shown: the argument `progress` of public functions. True: show bars. False: show none. None (default): show bars if
            stderr is a terminal.
    """

    #: Whether to print a line for each stage if stderr is not a terminal. The command line sets it.
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
        """Return `items`, and move a bar on as they are iterated over."""
        listed = list(items)
        self._print(description)
        return self._bars.track(listed, total=len(listed), description=description)

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        """Show a bar while active. Yields the function that moves the bar on, and can change its text."""
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
