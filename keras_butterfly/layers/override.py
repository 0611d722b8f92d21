"""The seam between layers and whoever wants to run them another way, an exporter for instance.

Layers compute their affine map, linear map and bias, through `execute`. Inside `executions(...)` a caller's function takes a
layer's place, however deep in a model the layer sits; the activation stays the layer's own. Layers so know nothing of any
export.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

Affine = Callable[[Any], Any]

_replacements: ContextVar[Mapping[int, Affine]] = ContextVar("replacements", default=MappingProxyType({}))


def execute(layer, affine: Affine, x):
    """`affine(x)`, or what the innermost `executions` block gives for `layer`; either gets `x` as a float tensor."""
    return _replacements.get().get(id(layer), affine)(floating(x, layer.compute_dtype))


def floating(x, dtype: str):
    """`x` as a tensor; integers and booleans, which Keras passes on as they are, cast to `dtype`."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)) else ops.cast(x, dtype)


@contextmanager
def executions(replacements: Mapping[Any, Affine]) -> Iterator[None]:
    """While active, each layer that is a key computes its affine map by the function that is its value."""
    token = _replacements.set({**_replacements.get(), **{id(layer): affine for layer, affine in replacements.items()}})
    try:
        yield
    finally:
        _replacements.reset(token)
