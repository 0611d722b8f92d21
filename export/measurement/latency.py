"""The latency of one model: the raw seconds, and the conditions of the measurement."""

from dataclasses import asdict, dataclass, field

import numpy as np


@dataclass(frozen=True)
class Latency:
    """The measured latency of one model.

    Attributes:
        seconds: the raw measurements, one for each timed block: the mean seconds per invocation over the block.
        invocations: number of invocations in a block.
        warmup: number of untimed invocations before the first block.
        threads: number of threads of the interpreter.
        runtime: name and version of the runtime.
        machine: the processor, as the device names it.

    Example:
        >>> seconds = (1e-6, 3e-6, 2e-6)
        >>> export.Latency(seconds, invocations=100, warmup=50, threads=1, runtime="litert", machine="a board").median
        2e-06
    """

    seconds: tuple[float, ...] = field(repr=False)
    invocations: int
    warmup: int
    threads: int
    runtime: str
    machine: str

    @property
    def median(self) -> float:
        """The median, in seconds per invocation."""
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds per invocation."""
        return float(np.percentile(self.seconds, 95))

    @property
    def iqr(self) -> float:
        """The interquartile range, in seconds per invocation. If it is above a tenth of the median, the machine was noisy."""
        return float(np.subtract(*np.percentile(self.seconds, [75, 25])))

    def to_dict(self) -> dict:
        """Return all fields with median, p95 and iqr, ready for JSON. Times are in seconds."""
        return {**asdict(self), "median": self.median, "p95": self.p95, "iqr": self.iqr}
