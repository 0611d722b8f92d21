"""What layers are given and give while a model runs, on every Keras backend."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras

_turn = threading.RLock()


class Call(NamedTuple):
    """One call of a layer: its first argument and what it returned."""

    inputs: Any
    outputs: Any


@contextmanager
def recorded(layers: Iterable[keras.layers.Layer]) -> Iterator[dict[int, list[Call]]]:
    """While active, note every call of one of `layers`, by `id(layer)`, in the order of the first calls.

    The tensors belong to whoever runs the model: values when it runs eagerly, symbols inside a traced function or a symbolic
    call. Two threads take turns, because they may record the same layers.
    """
    calls: dict[int, list[Call]] = {}
    unique = {id(layer): layer for layer in layers}
    with _turn:
        before = {key: layer.__dict__.get("call") for key, layer in unique.items()}
        for key, layer in unique.items():
            # Set past Keras's __setattr__, which tracks what layers hold.
            layer.__dict__["call"] = _noting(layer.call, calls, key)
        try:
            yield calls
        finally:
            for key, layer in unique.items():
                del layer.__dict__["call"]  # which restores the method of the class
                if before[key] is not None:
                    layer.__dict__["call"] = before[key]


def _noting(call, calls: dict[int, list[Call]], key: int):
    def noting(*args, **kwargs):
        outputs = call(*args, **kwargs)
        calls.setdefault(key, []).append(Call(next(iter((*args, *kwargs.values()))), outputs))
        return outputs

    return noting
