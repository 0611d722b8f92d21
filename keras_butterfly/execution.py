"""The seam between layers and whoever wants to run them another way, an exporter for instance.

Layers compute their linear map through `execute`. Inside `executions(...)` a caller's function takes a layer's place, however
deep in a model the layer sits; bias and activation stay the layer's own. Layers so know nothing of any export.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

Linear = Callable[[Any], Any]

_replacements: ContextVar[Mapping[int, Linear]] = ContextVar("replacements", default=MappingProxyType({}))


def execute(layer, linear: Linear, x):
    """`linear(x)`, or what the innermost `executions` block gives for `layer`; either gets `x` as a float tensor."""
    return _replacements.get().get(id(layer), linear)(floating(x, layer.compute_dtype))


def floating(x, dtype: str):
    """`x` as a tensor; integers and booleans, which Keras passes on as they are, cast to `dtype`."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)) else ops.cast(x, dtype)


@contextmanager
def executions(replacements: Mapping[Any, Linear]) -> Iterator[None]:
    """While active, each layer that is a key computes its linear map by the function that is its value."""
    token = _replacements.set({**_replacements.get(), **{id(layer): linear for layer, linear in replacements.items()}})
    try:
        yield
    finally:
        _replacements.reset(token)
