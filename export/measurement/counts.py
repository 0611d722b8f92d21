"""The counts of one model: how many instructions and memory reads an emulated processor executes, and its conditions."""

from dataclasses import asdict, dataclass, field
from typing import ClassVar

from .figures import now

# What a memory read of 8 bytes costs beside the instruction that reads, in instructions. docs/devices.md explains the number.
INSTRUCTIONS_PER_READ = 0.5


@dataclass(frozen=True)
class Counts:
    """What one invocation of a model executes on an emulated processor. Counts are exact: every repetition gives the same.

    Counts are not seconds. They say which of two files does less work, and not how long it takes.

    Attributes:
        instructions: number of instructions per invocation.
        reads: number of memory reads of at most 8 bytes per invocation. A read of 16 bytes counts as two.
        core: the processor that is emulated, such as "cortex-a76".
        runtime: name and version of the runtime.
        machine: the emulator, and the library with the counting.
        device: the name of the device.
        when: when the measurement ended, in UTC, in the form of ISO 8601.

    Example:
        >>> counts = export.Counts(53_000, 44_000, core="cortex-a76", runtime="litert", machine="qemu")
        >>> counts.instructions, counts.cost > counts.reads
        (53000, True)
    """

    unit: ClassVar[str] = "counts"
    columns: ClassVar[tuple[str, ...]] = ("instructions", "reads", "weighted sum")
    ratio: ClassVar[str] = "times less"
    axis: ClassVar[str] = "instructions and reads, weighted sum, thousands"

    instructions: int
    reads: int
    core: str
    runtime: str
    machine: str
    device: str = "arm64"
    when: str = field(default_factory=now)

    @property
    def cost(self) -> float:
        """The figure by which models are compared: the instructions plus the reads, which are weighted."""
        return self.instructions + INSTRUCTIONS_PER_READ * self.reads

    @property
    def title(self) -> str:
        """The conditions of the measurement, as the title of a table."""
        return f"{self.device}: {self.runtime}, threads 1, {self.core} emulated by {self.machine}"

    @property
    def bar(self) -> tuple[float, float]:
        """The length of a bar in a plot, in thousands, and 0, because counts do not spread."""
        return self.cost / 1e3, 0.0

    def cells(self) -> list[str]:
        """Return the cells of a table, in the order of `columns`."""
        return [f"{self.instructions:,}", f"{self.reads:,}", f"{self.cost:,.0f}"]

    def to_dict(self) -> dict:
        """Return all fields with the weighted sum, ready for JSON."""
        return {"unit": self.unit, **asdict(self), "cost": self.cost}
