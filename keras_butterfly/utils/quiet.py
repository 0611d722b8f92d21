"""Silencing TensorFlow's warnings about retracing, which this package causes by tracing each layer and model separately."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


class SharedContext:
    """A context of the whole process that several threads may be in: the first one enters it, and the last one leaves it.

    Args:
        make: returns the context manager that is entered.
    """

    def __init__(self, make: Callable[[], AbstractContextManager]):
        self._make, self._lock, self._threads = make, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._entered = self._make()
                self._entered.__enter__()
            self._threads += 1

    def __exit__(self, *error) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._entered.__exit__(None, None, None)


def quiet_tensorflow() -> SharedContext:
    """Return a context in which TensorFlow's Python logger shows errors only. This does not import TensorFlow."""
    return _QUIET


@contextmanager
def _errors_only() -> Iterator[None]:
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


_QUIET = SharedContext(_errors_only)
