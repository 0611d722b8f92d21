"""The devices on which .tflite files are timed, behind one interface. The machine that runs this process is one of them."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ..latency import Latency
from .host import Host


class Device(Protocol):
    """A device that runs .tflite files and times them.

    To measure on a phone, in a browser or on an Arm board, write a class with these three attributes and this method, and pass
    an instance as `device`.

    Attributes:
        name: the name under which wisdom keeps the measurements of this device.
        runtime: name and version of the runtime that runs the files.
        machine: the name of the device's processor.
    """

    @property
    def name(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    @property
    def machine(self) -> str: ...

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Return the latency of each model.

        The models take turns. In each round one block of every model is timed.

        Args:
            models: the bytes of the .tflite files, by name.
            threads: number of threads of the interpreter.
            warmup: number of untimed invocations before the first round.
            runs: number of rounds.
            on_round: a function to call after each round with the number of rounds that are done.
        """
        ...


DEVICES: dict[str, Device] = {"host": Host()}


def find(device: str | Device) -> Device:
    """Return the device that is called `device`, or `device` itself if it is an object with the members of `Device`.

    Raises:
        ValueError: if `device` is neither such an object nor a known name.
    """
    if all(hasattr(device, part) for part in ("name", "runtime", "machine", "measure")):
        return device  # type: ignore[return-value]
    if device not in DEVICES:
        raise ValueError(
            f"`device` must be one of {tuple(DEVICES)}, or an object like export.measurement.devices.Device. "
            f"Received: device={device!r}"
        )
    return DEVICES[device]
