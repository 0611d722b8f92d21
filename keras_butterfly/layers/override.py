"""A way to let other code, such as an exporter, compute the affine maps of layers while a model is called.

Layers compute their affine map, the linear map plus the bias, through `execute`. Inside a block `with executions(...)` the
function of the caller computes that map instead, however deep in a model the layer is. The activation is still computed by the
layer. So layers do not depend on any exporter.
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
    """Return `affine(x)`, or `f(x)` if an enclosing `executions` block names the function f for `layer`.

    Both functions receive `x` as a float tensor.
    """
    return _replacements.get().get(id(layer), affine)(floating(x, layer.compute_dtype))


def floating(x, dtype: str):
    """Return `x` as a float tensor. Integers and booleans, which Keras does not cast, are cast to `dtype`."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)) else ops.cast(x, dtype)


@contextmanager
def executions(replacements: Mapping[Any, Affine]) -> Iterator[None]:
    """Compute the affine map of each layer in `replacements` by the function given for it, until the `with` block ends."""
    token = _replacements.set({**_replacements.get(), **{id(layer): affine for layer, affine in replacements.items()}})
    try:
        yield
    finally:
        _replacements.reset(token)
