"""Locks on folders, by which processes take turns to change a file."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

# What file systems without locks answer, NFS among them, where the lock would be on a folder.
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked_folder(folder, wait: bool = True) -> Iterator[None]:
    """Hold a lock on `folder` until the `with` block ends. Other processes that use this function wait, or are refused.

    The operating system releases the lock of a process that ends, also of one that is killed. Without `fcntl`, as on Windows,
    and on file systems without locks there is no lock.

    Args:
        folder: an existing folder.
        wait: whether to wait until the lock is free.

    Raises:
        BlockingIOError: if `wait` is False and another process holds the lock.
        FileNotFoundError: if there is no such folder, or another process removed it until the lock was free.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if not os.path.samestat(os.fstat(handle), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, "another process has replaced the folder", str(folder))
        yield
    finally:
        os.close(handle)
