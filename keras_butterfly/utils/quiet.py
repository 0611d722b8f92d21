"""Keeping TensorFlow's notes about retracing from the user: every layer and every model is a function of its own here."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """While active, TensorFlow's Python logger shows errors only. This does not import TensorFlow."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
