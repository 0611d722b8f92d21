"""Places to measure at, behind one interface: this machine, and whatever else can run a .tflite file and a clock."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ..latency import Latency
from .host import Host


class Device(Protocol):
    """A place where models are measured; a phone, a browser or an Arm board is added by giving it these four.

    Attributes:
        name: by which `device=` finds it and wisdom remembers it.
        runtime: name and version of the runtime.
        machine: the processor's name.
    """

    @property
    def name(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    @property
    def machine(self) -> str: ...

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, progress: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Latencies of .tflite models by name, taken in turn. `progress` is called with the number of rounds done."""
        ...


DEVICES: dict[str, Device] = {"host": Host()}


def find(device: str | Device) -> Device:
    """The device of that name, or `device` itself.

    Raises:
        ValueError: for a name that is not known.
    """
    if all(hasattr(device, part) for part in ("name", "runtime", "machine", "measure")):
        return device  # type: ignore[return-value]
    if device not in DEVICES:
        raise ValueError(f"`device` must be one of {tuple(DEVICES)}, or an export.devices.Device. Received: device={device!r}")
    return DEVICES[device]
