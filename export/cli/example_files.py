"""The examples command: copies of the notebooks, and of the Python files and data that they need."""

import errno
import os
import secrets
import shutil
from pathlib import Path

import click
import keras_butterfly_examples

SOURCE = Path(keras_butterfly_examples.__file__).parent
SUFFIXES = {".ipynb", ".py", ".npz", ".xz", ".md", ".html", ".css", ".js"}
# A copy has no pages of the documentation beside it, so its links to them lead to the repository.
PAGES = "https://github.com/keras-butterfly/keras-butterfly/blob/main/docs/"
# The errors of a disk, which are not the user's input.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}


def run(folder: Path, overwrite: bool = False) -> None:
    """Copy the examples to `folder`, all or none, and print the paths of the copies.

    Raises:
        ValueError: if `folder` is a file, cannot be written to, or holds files and `overwrite` is False.
        OSError: if the disk is full. Its `filename` is `folder`.
    """
    paths = example_paths()
    temporary = (folder if os.path.isdir(folder) else folder.parent) / f".{secrets.token_hex(8)}"
    try:
        _check(folder, paths, overwrite)
        temporary.mkdir()
        _copy(paths, temporary)
        _move(paths, temporary, folder)
    except OSError as error:
        if error.errno in DISK:
            raise OSError(error.errno, f"could not write the examples: {error.strerror}", str(folder)) from error
        received = f"'{folder}': {error.strerror}"
        raise ValueError(
            f"Expected a DIR in an existing folder that can be written to. Received {received}. Create that folder, or choose "
            "another DIR."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for path in paths:
        click.echo(f"wrote {folder / path}")


def example_paths() -> list[Path]:
    """Return the paths of the files that are copied, relative to their folder."""
    paths = [path.relative_to(SOURCE) for path in SOURCE.rglob("*") if path.suffix in SUFFIXES]
    # Leaves out __init__.py, which a copy does not need, and the caches of Python and Jupyter.
    return sorted(path for path in paths if not any(part.startswith((".", "__")) for part in path.parts))


def _check(folder: Path, paths: list[Path], overwrite: bool) -> None:
    """Check that `folder` is new or empty, or that the files in it can be replaced."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"Expected a folder to write to. Received a file: '{folder}'. Choose another DIR.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"Expected a new or an empty folder. '{folder}' holds files. Choose another DIR, or pass --overwrite.")
    targets = [folder / path for path in paths]
    folders = [target.parent for target in targets if os.path.lexists(target.parent)]
    wrong = [target for target in targets if target.is_dir()] + [each for each in folders if not each.is_dir()]
    if wrong:
        raise ValueError(
            "Expected earlier examples to replace. Received a folder in place of a file, or a file in place of a folder: "
            f"'{wrong[0]}'. Choose another DIR."
        )


def _copy(paths: list[Path], temporary: Path) -> None:
    for path in paths:
        content = (SOURCE / path).read_bytes()
        if path.suffix == ".ipynb":
            content = content.replace(f"]({'../' * len(path.parts)}docs/".encode(), f"]({PAGES}".encode())
        target = temporary / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)


def _move(paths: list[Path], temporary: Path, folder: Path) -> None:
    """Rename the temporary folder to `folder`. If `folder` exists, its other files stay, so the files are moved one by one."""
    if not folder.is_dir():
        temporary.rename(folder)
        return
    for path in paths:
        (folder / path).parent.mkdir(exist_ok=True)
        (temporary / path).replace(folder / path)
