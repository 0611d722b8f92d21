"""What layers are given and give while a model runs, on every Keras backend."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras


class Call(NamedTuple):
    """One call of a layer: its first argument and what it returned."""

    inputs: Any
    outputs: Any


@contextmanager
def recorded(layers: Iterable[keras.layers.Layer]) -> Iterator[dict[int, list[Call]]]:
    """While active, every call of one of `layers` is noted, by `id(layer)`, in the order of the first calls.

    The tensors belong to whoever runs the model: values when it runs eagerly, symbols inside a traced function or a symbolic
    call.
    """
    calls: dict[int, list[Call]] = {}
    unique = {id(layer): layer for layer in layers}
    for key, layer in unique.items():
        # Set past Keras's __setattr__, which tracks what layers hold; the method of the class shines through afterwards.
        layer.__dict__["call"] = _noting(layer.call, calls, key)
    try:
        yield calls
    finally:
        for layer in unique.values():
            del layer.__dict__["call"]


def _noting(call, calls: dict[int, list[Call]], key: int):
    def noting(*args, **kwargs):
        outputs = call(*args, **kwargs)
        calls.setdefault(key, []).append(Call(next(iter((*args, *kwargs.values()))), outputs))
        return outputs

    return noting
