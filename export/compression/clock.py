"""How far a search is, how much time is left, and whether its time limit is over."""

import time

from keras_butterfly.utils.progress import Advance


class Clock:
    """The work of a search, in any unit, and the time that it takes.

    Args:
        limit: the largest number of seconds. None: no limit.

    Attributes:
        has_cut: whether the limit, or a part of it, was found to be over, so that work was left out.
    """

    def __init__(self, limit: float | None):
        self.limit, self.started = limit, time.monotonic()
        self.total, self.done, self.has_cut = 0.0, 0.0, False
        self.advance: Advance = lambda amount, text=None: None

    @property
    def seconds(self) -> float:
        """The seconds since the search began."""
        return time.monotonic() - self.started

    def expect(self, work: float) -> None:
        """Add work that is to be done."""
        self.total += work

    def show(self, text: str) -> None:
        """Show what is done now, and how much time is left."""
        self.advance(0, f"{text}{self.left}")

    def finish(self, work: float) -> None:
        """Note that work was done."""
        self.done += work
        self.advance(work / max(self.total, self.done))

    def skip(self, work: float) -> None:
        """Note that work is not to be done, for example because its result is known."""
        self.total -= work

    @property
    def left(self) -> str:
        """The time that is left, in words that end a sentence. It is empty if too little was done to tell."""
        if self.done < 0.02 * self.total or not self.done:
            return ""
        seconds = self.seconds * max(0.0, self.total - self.done) / self.done
        if self.limit is not None:
            seconds = min(seconds, max(0.0, self.limit - self.seconds))
        return f", about {seconds:.0f} s left" if seconds < 90 else f", about {seconds / 60:.0f} min left"

    def is_over(self, part: float = 1.0) -> bool:
        """Return whether `part` of the time limit is over. Who asks leaves out work if it is."""
        over = self.limit is not None and self.seconds > part * self.limit
        self.has_cut = self.has_cut or over
        return over
