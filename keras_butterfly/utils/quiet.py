"""Silencing TensorFlow's warnings about retracing, which this package causes by tracing each layer and model separately."""

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
