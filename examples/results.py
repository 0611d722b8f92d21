"""Results of a long experiment in one JSON file, so that it can be interrupted and goes on where it stopped.

    python examples/results.py OUT FILE ...

merges files of the same settings, such as those of several processes, to the new file OUT.
"""

import json
import platform
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import keras

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


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
            write_json(self.path, self.tree)
        return branch[names[-1]]


def write_json(path: Path, tree: dict) -> None:
    """Write a tree of results to a JSON file, and replace the one that is there."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(tree, indent=1)))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file of an experiment, and replace the one that is there, so that a reader sees the whole file or none.

    `keras_butterfly.export.files` does more, but it needs TensorFlow, which may be missing where a network is only trained.

    Args:
        path: path of the file.
        write: a function that takes a path, which ends as `path` does, and writes the file there.
    """
    temporary = path.with_name(f".{path.name}")
    write(temporary)
    temporary.replace(path)


def machine() -> str:
    """Return the processor or the GPU that computes, and the versions of Keras and its backend."""
    backend = keras.backend.backend()
    return f"{_processor(backend)}, Keras {keras.__version__}, {BACKENDS[backend]} {import_module(backend).__version__}"


def _processor(backend: str) -> str:
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform != "cpu":
            return device.device_kind
    try:
        from keras_butterfly.export.measurement import devices
    except ImportError:  # TensorFlow is missing.
        return platform.processor() or platform.machine()
    return devices.find("host").machine


def merged(trees: list[dict]) -> dict:
    """Return one tree with the results of all `trees`. The machine and the date are those of the first tree.

    Raises:
        ValueError: if their settings differ.
    """
    for tree in trees:
        if tree["settings"] != trees[0]["settings"]:
            raise ValueError(f"Expected results of the settings {trees[0]['settings']}. Received: {tree['settings']}")
    result: dict = {}
    for tree in trees:
        _add(result, tree)
    return result


def _add(tree: dict, other: dict) -> None:
    """Add to `tree` what it lacks of `other`."""
    for name, value in other.items():
        if isinstance(value, dict):
            _add(tree.setdefault(name, {}), value)
        else:
            tree.setdefault(name, value)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.argument(
    "paths", metavar="FILE ...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
def main(out, paths):
    try:
        if out.exists():
            raise ValueError(f"Expected a path where no file exists. '{out}' exists. Choose another path.")
        write_json(out, merged([json.loads(path.read_text()) for path in paths]))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
