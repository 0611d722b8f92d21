"""The folders below the user's cache folder that hold the software of devices."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the path of the folder `name`, below ~/.cache or what XDG_CACHE_HOME names. It need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_butterfly" / name


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give the `with` block an empty folder to fill, which then takes the place of `folder`. After an error nothing is left.

    The new folder is filled beside `folder` and then renamed, so that a folder of that name is whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        yield new
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def remove(folder: Path) -> Path | None:
    """Remove `folder` with all that is in it, and return its path. If it does not exist, return None."""
    if not folder.exists():
        return None
    shutil.rmtree(folder)
    return folder
