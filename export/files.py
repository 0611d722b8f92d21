"""Writing files so that a reader sees the whole file or none, and an existing file is replaced only on request."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from keras_butterfly.utils.locking import locked_folder

# The errors that os.link raises on file systems without hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# The errors of a disk, which are not the user's input.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def check_writable(path, overwrite: bool = False) -> Path:
    """Check that a file can be written to `path`, and return `path` as a `Path`.

    To find out, an empty file is made in the folder and removed again.

    Raises:
        ValueError: if the folder does not exist or cannot be written to, the file name is too long, a folder or a device is at
            `path`, or a file is there and `overwrite` is False.
        OSError: if the disk is full. Its `filename` is `path`.
    """
    path = _check_path(path, overwrite)
    with _new_file(path):
        return path


def _check_path(path, overwrite: bool) -> Path:
    """Check what `check_writable` checks, as far as it can be seen without writing."""
    if not isinstance(path, str | Path) or not str(path) or "\0" in str(path):
        raise ValueError(f"Expected a path, as a str or a pathlib.Path. Received: {path!r}")
    if str(path).endswith(os.sep):
        raise ValueError(f"Expected the path of a file. Received a folder: '{path}'. Add a file name.")
    path = Path(path)
    folder = _target(path).parent
    if not os.path.isdir(folder):  # unlike Path.is_dir, this is False for a path that is too long
        raise ValueError(f"Expected an existing folder to write to. Received: '{_short(folder)}'. Create it first.")
    longest = os.pathconf(folder, "PC_NAME_MAX")
    if len(os.fsencode(path.name)) > longest:
        raise ValueError(f"Expected a file name of at most {longest} bytes. Received: '{_short(path.name)}'. Shorten it.")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise ValueError(f"Expected the path of a file. Received: '{path}': {error.strerror}. Choose another path.") from error
    if stat.S_ISDIR(mode):
        raise ValueError(f"Expected the path of a file. Received a folder: '{path}'. Add a file name.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"Expected the path of a file. Received: '{path}', which is no regular file. Choose another path.")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(_exists_message(path))
    return path


def check_distinct(outputs: dict[str, object], inputs: dict[str, object]) -> None:
    """Check that no output is the same file as another output or an input. Links and relative paths are followed.

    Args:
        outputs, inputs: name of the argument, as the user knows it -> path. Paths that are None are ignored.

    Raises:
        ValueError: if two of them are the same file. The message names both.
    """
    taken: dict[Path, str] = {}
    for name, path in [*inputs.items(), *outputs.items()]:
        if path is None:
            continue
        target = _target(Path(str(path)))
        if target in taken and not (name in inputs and taken[target] in inputs):
            raise ValueError(f"Expected {taken[target]} and {name} to be different files. Received '{path}' for both.")
        taken.setdefault(target, name)


def write(path, content: bytes | Callable[[Path], object], overwrite: bool = False) -> Path:
    """Write a file so that a reader sees the whole file or none, and return its path.

    The content is written to a temporary file in the same folder, which is then renamed. A replaced file passes its mode on to
    the new one. If there was no file, the umask sets the mode. If `path` is a symbolic link, its target is written.

    Args:
        path: the path of the file.
        content: the bytes, or a function that takes a path and writes the file there. The path ends in the suffix of `path`.
        overwrite: whether an existing file is replaced.

    Raises:
        ValueError: as `check_writable`, and if a file appears at `path` while the content is written and `overwrite` is False.
        OSError: if writing fails, for example because the disk is full. Its `filename` is `path`.
    """
    path = _check_path(path, overwrite)
    target = _target(path)
    with _new_file(path) as temporary:
        try:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                content(temporary)
            if overwrite:
                with suppress(FileNotFoundError):
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                temporary.replace(target)
            else:
                _link(temporary, target)
        except FileExistsError:
            raise ValueError(_exists_message(path)) from None
        except OSError as error:
            raise OSError(error.errno, f"could not write the file: {error.strerror or error}", str(path)) from error
    return path


def locked(path) -> AbstractContextManager[None]:
    """Return a context in which no other process changes the file at `path`, if all of them use this function."""
    return locked_folder(_target(Path(path)).parent)


def _exists_message(path: Path) -> str:
    return f"Expected a path where no file exists. '{path}' exists. Choose another path, or pass overwrite=True."


def _target(path: Path) -> Path:
    """Return the absolute path of the file that `path` leads to through symbolic links. The file need not exist."""
    return Path(os.path.realpath(path))


def _short(path) -> str:
    """Return a path for a message, cut if it is very long."""
    text = str(path)
    return text if len(text) < 300 else f"{text[:40]}..."


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Make an empty file with a random name beside the target of `path`, and remove it when the `with` block ends.

    Yields its path. The umask sets its mode. An interrupt leaves nothing behind.

    Raises:
        ValueError: if the folder does not permit it.
        OSError: if the disk is full. Its `filename` is `path`.
    """
    target = _target(path)
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix[:32]}")
    try:
        _create(temporary, path)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _create(temporary: Path, path: Path) -> None:
    """Make an empty file at `temporary`, for content that is to go to `path`.

    Raises:
        ValueError, OSError: as `_new_file`.
    """
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(error.errno, f"could not write the file: {error.strerror}", str(path)) from error
        reason = f"'{temporary.parent}': {error.strerror}"
        raise ValueError(f"Expected a folder that can be written to. Received: {reason}. Choose another one.") from error


def _link(temporary: Path, target: Path) -> None:
    """Make `target` a second name of the file `temporary`. Unlike renaming, this fails if `target` exists.

    Raises:
        FileExistsError: if it does.
    """
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        temporary.replace(target)
