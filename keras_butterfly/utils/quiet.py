"""Hiding what libraries report about calls that this package makes, and showing the warnings of this package."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ContextDecorator, contextmanager, suppress


class SharedContext(ContextDecorator):
    """A context of the whole process that several threads may be in: the first one enters it, and the last one leaves it.

    It can also be used as the decorator of a function.

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
    """Return a context in which TensorFlow's Python logger shows errors only. This does not import TensorFlow.

    TensorFlow warns of retracing, which this package causes by tracing each layer and model separately.
    """
    return _QUIET_TENSORFLOW


def silent_libraries() -> SharedContext:
    """Return a context in which nothing is written on stderr and no warnings of Python are shown.

    Compiled code, such as TensorFlow's converter and the TFLite runtime, writes to file descriptor 2, past `sys.stderr`.
    """
    return _SILENT


def warnings_not_raised() -> SharedContext:
    """Return a context in which warnings that the user turned into errors are shown instead of raised.

    A warning that a library raises as an error would end a call of this package halfway. `warn_user` is called outside.
    """
    return _NOT_RAISED


def warn_user(message: str) -> None:
    """Warn at the line of the first function on the call stack that is not part of this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USER:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


# The modules that stand between the user's line and a warning: our own, and contextlib, whose context managers they use.
_NOT_THE_USER = ("keras_butterfly", "contextlib")


@contextmanager
def _errors_only() -> Iterator[None]:
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _silent() -> Iterator[None]:
    nowhere, stderr = os.open(os.devnull, os.O_WRONLY), None
    with suppress(OSError):  # stderr may be closed.
        stderr = os.dup(2)
    try:
        os.dup2(nowhere, 2)
        with quiet_tensorflow(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.close(nowhere)
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def _not_raised() -> Iterator[None]:
    if not any(action == "error" for action, *_ in warnings.filters):
        yield
        return
    with warnings.catch_warnings():
        # The user's other filters stay, in their order. `catch_warnings` has made Python forget which ones it has applied.
        warnings.filters[:] = [  # type: ignore[index]
            ("default" if action == "error" else action, *rest) for action, *rest in warnings.filters
        ]
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does by default
        yield


_QUIET_TENSORFLOW = SharedContext(_errors_only)
_SILENT = SharedContext(_silent)
_NOT_RAISED = SharedContext(_not_raised)
