"""Results of a long experiment in one JSON file, so that it can be interrupted and goes on where it stopped."""

import json
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import keras

from keras_butterfly.export import files
from keras_butterfly.export.measurement import devices


class Results:
    """A tree of results below names, written whole after every new one.

    Args:
        path: of the JSON file; read where it exists.
        settings: what the results depend on. Results of other settings are not mixed with these.

    Raises:
        ValueError: if the file holds results of other settings.
    """

    def __init__(self, path: Path, settings: dict):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.tree: dict[str, Any] = {"settings": settings, "machine": machine(), "date": f"{date.today()}"}
        if self.path.exists():
            self.tree = json.loads(self.path.read_text())
            if self.tree["settings"] != json.loads(json.dumps(settings)):
                raise ValueError(
                    f"{self.path} holds results of other settings, {self.tree['settings']}. Received: {settings}. "
                    "Take another folder, or remove it."
                )

    def has(self, names: tuple[str, ...]) -> bool:
        """Return whether there is a result below `names`."""
        branch = self.tree
        for name in names:
            if name not in branch:
                return False
            branch = branch[name]
        return True

    def once(self, names: tuple[str, ...], compute: Callable[[], Any]):
        """The result below `names`, computed and written where it is not there yet."""
        branch = self.tree
        for name in names[:-1]:
            branch = branch.setdefault(name, {})
        if names[-1] not in branch:
            branch[names[-1]] = compute()
            files.write(self.path, json.dumps(self.tree, indent=1).encode(), overwrite=True)
        return branch[names[-1]]


def machine() -> str:
    """Return the processor, the accelerator if the backend uses one, and the versions that results depend on."""
    name = keras.backend.backend()
    backend = import_module(name)
    accelerators = {device.device_kind for device in backend.devices() if device.platform != "cpu"} if name == "jax" else set()
    return ", ".join(
        [*sorted(accelerators), devices.find("host").machine, f"Keras {keras.__version__}", f"{name} {backend.__version__}"]
    )
