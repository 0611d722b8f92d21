"""The command `devices`, which lists the devices on which files can be measured, and installs what they need."""

from keras_butterfly_cli.commands import print_report

from keras_butterfly.export.measurement.devices import DEVICES
from keras_butterfly.utils.text_table import TextTable


def list_devices(as_json):
    """Print the devices, what each needs, and what is missing on this machine."""
    listed = {name: {"needs": kind.needs, "missing": kind.missing()} for name, kind in DEVICES.items()}
    table = TextTable("device", "needs", "state")
    for name, facts in listed.items():
        table.add_row(name, facts["needs"], facts["missing"] or "ready")
    print_report(listed, [table], as_json)


def set_up(device):
    """Install what a device needs, and print each step."""
    _installable(device).setup(lambda step: print(step, flush=True))


def remove(device):
    """Remove what `set_up` has installed for a device, and print which folder that was."""
    folder = _installable(device).remove()
    print(f"Nothing is installed for the device {device}." if folder is None else f"removed {folder}")


def _installable(device: str):
    """Return the class of a device that has the functions `setup` and `remove`.

    Raises:
        ValueError: if there is no such device. The message names those that there are.
    """
    names = [name for name, kind in DEVICES.items() if hasattr(kind, "setup")]
    if device not in names:
        raise ValueError(f"Expected a device that is set up by a command, one of {names}. Received: {device!r}")
    return DEVICES[device]
