"""The devices on which .tflite files are measured, behind one interface."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol

import numpy as np

from ..counts import Counts
from ..latency import Latency
from .adb import Adb
from .arm64 import Arm64
from .browser import Browser
from .host import Host
from .ssh import Ssh


class Device(Protocol):
    """A device that runs .tflite files, and measures how fast they are.

    To measure on a device of your own, write a class with these three attributes and these two methods, and pass an instance as
    `device`. `predict` is needed only where the outputs of a device are compared.

    Attributes:
        name: the name under which wisdom keeps the measurements of this device.
        runtime: name and version of the runtime that runs the files.
        machine: the name of the device's processor.
        unit: "counts" where the device returns `Counts`. A device that measures seconds need not have this attribute.
    """

    @property
    def name(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    @property
    def machine(self) -> str: ...

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> Mapping[str, Latency | Counts]:
        """Return the latency of each model, or its counts. All figures of one device are in one unit.

        The models take turns. In each round one block of every model is timed.

        Args:
            models: the bytes of the .tflite files, by name.
            threads: number of threads of the interpreter.
            warmup: number of untimed invocations before the first round.
            runs: number of rounds.
            on_round: a function to call after each round with the number of rounds that are done.

        Raises:
            ValueError: if the device is not ready, or cannot run a model.
        """
        ...

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once on the device, and return its outputs, by the names in its signature.

        Args:
            content: the bytes of a file with one signature.
            inputs: the inputs by name. Floats are quantized where the file takes int8, and int8 outputs are converted to float.

        Raises:
            ValueError: if the device is not ready, or the inputs do not fit the file.
        """
        ...


class DeviceKind(Protocol):
    """A class of devices in `DEVICES`. It is called with the text after the colon of a device's name, or "" if there is none.

    Attributes:
        needs: what a machine must have for such devices, as a phrase for `keras-butterfly devices`.
    """

    needs: str

    def __call__(self, address: str) -> Device: ...

    def missing(self) -> str | None:
        """Return what is missing for such devices, and what to do about it, as a sentence. None if all is there."""
        ...

    # A class may also have two static methods, which `keras-butterfly devices setup` and `devices remove` call. setup(on_step)
    # installs what is missing, and calls `on_step` with a sentence before each step. remove() returns the folder it removed.


# The kinds of devices. "ssh:pi@raspberry" is DEVICES["ssh"]("pi@raspberry").
DEVICES: dict[str, DeviceKind] = {
    "host": Host,
    "adb": Adb,
    "ssh": Ssh,
    "browser": Browser,
    "arm64": Arm64,
}


def unit(device: Device) -> str:
    """Return the unit in which a device measures: its attribute `unit`, which is "counts", or else "seconds"."""
    return getattr(device, "unit", "seconds")


def find(device: str | Device) -> Device:
    """Return the device that is called `device`, or `device` itself if it is an object with the members of `Device`.

    The name is a kind of `DEVICES`. After a colon it may have an address, such as the "pi@raspberry" of "ssh:pi@raspberry". The
    same name gives the same object, so that a connection is opened once.

    Raises:
        ValueError: if `device` is neither such an object nor a known name.
    """
    if all(hasattr(device, part) for part in ("name", "runtime", "machine", "measure")):
        return device  # type: ignore[return-value]
    if not isinstance(device, str) or device.partition(":")[0] not in DEVICES:
        raise ValueError(
            f"`device` must be one of {tuple(DEVICES)}, or an object like export.measurement.devices.Device. "
            f"Received: device={device!r}"
        )
    return _named(device)


@cache
def _named(name: str) -> Device:
    kind, _, address = name.partition(":")
    return DEVICES[kind](address)
