"""The command `devices`: the list, and what sets a device up and removes it again."""

import json

import pytest
from keras_butterfly_cli import cli, device_commands

from keras_butterfly.export.measurement.devices import DEVICES


def test_all_devices_are_listed_with_what_they_need_and_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.main(["devices"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert all(name in printed for name in DEVICES) and "ready" in printed
    cli.main(["devices", "--json"], standalone_mode=False)
    listed = json.loads(capsys.readouterr().out)
    assert listed["host"]["missing"] is None
    assert "keras-butterfly devices setup arm64" in listed["arm64"]["missing"]


def test_only_devices_with_a_setup_are_set_up_and_removed():
    for command in (device_commands.set_up, device_commands.remove):
        with pytest.raises(ValueError, match=r"Expected a device that is set up by a command, .*arm64.* Received: 'host'"):
            command("host")


def test_removing_what_is_not_there_says_so_and_what_is_there_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.main(["devices", "remove", "arm64"], standalone_mode=False)
    assert "Nothing is installed for the device arm64" in capsys.readouterr().out
    folder = tmp_path / "keras_butterfly" / "arm64"
    folder.mkdir(parents=True)
    cli.main(["devices", "remove", "arm64"], standalone_mode=False)
    assert str(folder) in capsys.readouterr().out and not folder.exists()
