"""The latency of one model: the raw seconds, and the conditions of the measurement."""

from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np

from .figures import now


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
        device: the name of the device.
        when: when the measurement ended, in UTC, in the form of ISO 8601.

    Example:
        >>> seconds = (1e-6, 3e-6, 2e-6)
        >>> export.Latency(seconds, invocations=100, warmup=50, threads=1, runtime="litert", machine="a board").median
        2e-06
    """

    unit: ClassVar[str] = "seconds"
    columns: ClassVar[tuple[str, ...]] = ("median us", "p95 us", "IQR us")
    ratio: ClassVar[str] = "speed-up"
    axis: ClassVar[str] = "median latency, microseconds"

    seconds: tuple[float, ...] = field(repr=False)
    invocations: int
    warmup: int
    threads: int
    runtime: str
    machine: str
    device: str = "host"
    when: str = field(default_factory=now)

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

    @property
    def cost(self) -> float:
        """The figure by which models are compared: the median, in seconds."""
        return self.median

    @property
    def title(self) -> str:
        """The conditions of the measurement, as the title of a table."""
        return f"{self.device}: {self.runtime}, threads {self.threads}, {self.machine}"

    @property
    def bar(self) -> tuple[float, float]:
        """The length of a bar in a plot, and half the interquartile range, in microseconds."""
        return self.median * 1e6, self.iqr / 2 * 1e6

    def cells(self) -> list[str]:
        """Return the cells of a table, in the order of `columns`."""
        return [f"{seconds * 1e6:,.2f}" for seconds in (self.median, self.p95, self.iqr)]

    def to_dict(self) -> dict:
        """Return all fields with median, p95 and iqr, ready for JSON. Times are in seconds."""
        return {"unit": self.unit, **asdict(self), "median": self.median, "p95": self.p95, "iqr": self.iqr}
