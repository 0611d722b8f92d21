"""Writing files whole or not at all, and never over another unasked."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def check_writable(path, overwrite: bool = False) -> Path:
    """`path` as a Path that a file may be written to.

    Raises:
        ValueError: if its folder does not exist, it is a folder, or it is a file and `overwrite` is False.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"Expected a path. Received: {path!r}")
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"Expected an existing folder to write to. Received: '{path.parent}'. Create it first.")
    if path.is_dir():
        raise ValueError(f"Expected a path for a file. Received a folder: '{path}'")
    if path.exists() and not overwrite:
        raise ValueError(f"'{path}' exists. Choose another path, or pass overwrite=True.")
    return path


def write(path, content: bytes | Callable[[Path], object], overwrite: bool = False) -> Path:
    """Writes to a temporary name in the same folder, then renames: a reader sees the whole file or none.

    Args:
        path: of the file.
        content: bytes, or a function that writes to the path it is given, whose suffix is that of `path`.
        overwrite: replace an existing file.

    Raises:
        ValueError: as `check_writable`.
    """
    path = check_writable(path, overwrite)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
