"""Writing files whole or not at all, and never over another file unasked."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What os.link answers on file systems that know no hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def check_writable(path, overwrite: bool = False) -> Path:
    """Return `path` as a Path that a file may be written to.

    Raises:
        ValueError: if its folder does not exist or cannot be written to, its name is too long, it is a folder or a device, or
            something is there and `overwrite` is False.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"Expected a path. Received: {path!r}")
    path = Path(path)
    folder = _target(path).parent
    if not folder.is_dir():
        raise ValueError(f"Expected an existing folder to write to. Received: '{folder}'. Create it first.")
    longest = os.pathconf(folder, "PC_NAME_MAX")
    if len(os.fsencode(path.name)) > longest:
        raise ValueError(f"Expected a file name of at most {longest} bytes. Received: '{path.name[:40]}...'. Shorten it.")
    if path.is_dir():
        raise ValueError(f"Expected a path for a file. Received a folder: '{path}'")
    if path.exists() and not path.is_file():
        raise ValueError(f"Expected a path for a file. Received '{path}', which is no regular file.")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"'{path}' exists. Choose another path, or pass overwrite=True.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"Expected a folder that can be written to. Received: '{folder}'. Choose another one.")
    return path


def check_distinct(outputs: dict[str, object], inputs: dict[str, object]) -> None:
    """Check that no two outputs, and no output and input, are one file, whatever the paths that lead to it.

    Args:
        outputs, inputs: paths by the names that the user knows them by. Paths that are None are left out.

    Raises:
        ValueError: naming the two that are one file.
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
    """Write a file under a temporary name in the same folder, then give it its name: a reader sees the whole file or none.

    A file that is replaced passes its mode on; a new one has the mode that the umask allows. If `path` is a symbolic link, the
    file that it leads to is written.

    Args:
        path: of the file.
        content: bytes, or a function that writes to the path it is given, whose suffix is that of `path`.
        overwrite: replace an existing file.

    Raises:
        ValueError: as `check_writable`, also if a file appears at `path` meanwhile and `overwrite` is False.
        OSError: naming `path`, for example if the disk is full.
    """
    path = check_writable(path, overwrite)
    target = _target(path)
    temporary = _new_file(target)
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
        raise ValueError(f"'{path}' exists. Choose another path, or pass overwrite=True.") from None
    except OSError as error:
        raise OSError(error.errno, f"could not write the file: {error.strerror or error}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def locked(path) -> Iterator[None]:
    """Hold the lock of the folder of `path`, so that two processes do not read, change and write one file at the same time.

    On systems without `fcntl` there is no lock.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(_target(Path(path)).parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _target(path: Path) -> Path:
    """Return the absolute path of the file that `path` leads to, through symbolic links, also where nothing is there."""
    return Path(os.path.realpath(path))


def _new_file(target: Path) -> Path:
    """Create an empty file of another name beside `target`, with the mode that the umask allows."""
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix[:32]}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _link(temporary: Path, target: Path) -> None:
    """Give the file a second name, which unlike a rename fails if `target` exists."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        temporary.replace(target)
