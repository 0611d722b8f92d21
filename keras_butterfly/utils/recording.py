"""Recording the inputs and outputs of layers while a model runs, on every Keras backend."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

_turn = threading.RLock()


class Call(NamedTuple):
    """One call of a layer: its first argument and what it returned."""

    inputs: Any
    outputs: Any


@contextmanager
def recorded(layers: Iterable[keras.layers.Layer]) -> Iterator[dict[int, list[Call]]]:
    """Record every call of one of `layers` until the `with` block ends.

    Yields a dict from `id(layer)` to the list of its calls, in the order of the first calls. The tensors are values if the
    model runs eagerly. Inside a traced function, or in a symbolic call, they are symbols. If two threads record at the same
    time, one waits for the other, because they may record the same layers.
    """
    calls: dict[int, list[Call]] = {}
    unique = {id(layer): layer for layer in layers}
    with _turn:
        before = {key: layer.__dict__.get("call") for key, layer in unique.items()}
        for key, layer in unique.items():
            # Into __dict__, because Keras's __setattr__ tracks the values of attributes.
            layer.__dict__["call"] = _recording(layer.call, calls, key)
        try:
            yield calls
        finally:
            for key, layer in unique.items():
                del layer.__dict__["call"]  # deleting the entry restores the method of the class
                if before[key] is not None:
                    layer.__dict__["call"] = before[key]


def value_of(tensor) -> np.ndarray | None:
    """Return the value of a recorded tensor as an array, or None if it is a symbol, which has no value."""
    try:
        return ops.convert_to_numpy(tensor)
    except (NotImplementedError, TypeError):  # the errors of TensorFlow and of JAX for a symbol
        return None


def _recording(call, calls: dict[int, list[Call]], key: int):
    """Return a function that does what `call` does, and records each call under `key`."""

    def recording(*args, **kwargs):
        outputs = call(*args, **kwargs)
        calls.setdefault(key, []).append(Call(next(iter((*args, *kwargs.values()))), outputs))
        return outputs

    return recording
