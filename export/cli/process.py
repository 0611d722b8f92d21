"""The signals and the standard streams of the command's process."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# The signals that stop a command.
STOPPING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
# After so many seconds a signal is raised again if the command goes on.
REPEAT_SECONDS = 3.0


@contextmanager
def signals_raised() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at SIGINT, SIGTERM and SIGHUP until the `with` block ends, so that temporary files are removed.

    Some libraries swallow every exception: Keras in bare `except` clauses, JAX in a callback of the garbage collector.
    Therefore KeyboardInterrupt is raised again and again until the context is left. Signals that the parent process has ignored
    stay ignored.

    Yields the numbers of the signals that were received, in their order.
    """
    received: list[int] = []
    leaving = False

    def stop(number, frame):
        received.append(number)
        if leaving:
            return
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        raise KeyboardInterrupt

    def unraisable(found):
        if issubclass(found.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS / 100)  # outside of the callback
        else:
            hook(found)

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield received
        return
    wanted = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in (*wanted, signal.SIGALRM)}
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        for number in before:
            signal.signal(number, stop)
        yield received
    finally:
        leaving = True
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            # A second Ctrl-C while Python exits would print a traceback.
            signal.signal(number, signal.SIG_IGN if number in received else handler)


def keep_to_the_encoding() -> None:
    """Write a question mark for each character that the terminal cannot show, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def silence_native_code() -> None:
    """Discard what compiled libraries log to file descriptor 2. Python's own stderr stays as it is."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed
        kept = os.dup(nowhere)
    encoding = None if sys.stderr is None else sys.stderr.encoding
    sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=encoding, errors="replace")
    if nowhere != 2:
        os.dup2(nowhere, 2)
        os.close(nowhere)


def discard_unwritten(stream) -> None:
    """Discard what `stream` cannot write. Otherwise Python would try again when it exits, and exit with code 120."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
