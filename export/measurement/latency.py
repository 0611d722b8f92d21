"""What was measured of one model: raw seconds and the conditions they were taken under."""

from dataclasses import asdict, dataclass, field

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Measured seconds per invocation of one model.

    Attributes:
        seconds: raw measurements: each the mean, in seconds per invocation, over one timed block of invocations.
        invocations: invocations in a block.
        warmup: untimed invocations before the first block.
        threads: of the interpreter.
        runtime: name and version of the runtime.
        machine: processor, as the operating system names it.
    """

    seconds: tuple[float, ...] = field(repr=False)
    invocations: int
    warmup: int
    threads: int
    runtime: str
    machine: str

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds."""
        return float(np.percentile(self.seconds, 95))

    @property
    def iqr(self) -> float:
        """The interquartile range, in seconds. Above a tenth of the median the machine was noisy."""
        return float(np.subtract(*np.percentile(self.seconds, [75, 25])))

    def to_dict(self) -> dict:
        """All fields and derived figures, ready for JSON; times in seconds."""
        return {**asdict(self), "median": self.median, "p95": self.p95, "iqr": self.iqr}
