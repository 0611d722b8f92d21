"""The command `devices`, which lists the devices on which files can be measured."""

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
