"""A way to let other code, such as an exporter, compute the affine maps of layers while a model is called.

Layers compute their affine map, the linear map plus the bias, through `compute_affine`. Inside a block
`with override_affine(...)` a function of the caller computes that map instead, however deep in a model the layer is. The layer
still computes its activation. So layers do not depend on any exporter.
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


def compute_affine(layer, affine: Affine, x):
    """Return `affine(x)`, or `f(x)` if an enclosing `override_affine` block names the function f for `layer`.

    Both functions receive `x` as a float tensor.
    """
    return _replacements.get().get(id(layer), affine)(floating(x, layer.compute_dtype))


def floating(x, dtype: str):
    """Return `x` as a float tensor. Integers and booleans, which Keras does not cast, are cast to `dtype`."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)) else ops.cast(x, dtype)


@contextmanager
def override_affine(replacements: Mapping[Any, Affine]) -> Iterator[None]:
    """Replace the affine maps of layers until the `with` block ends.

    Args:
        replacements: for each layer the function x -> y that computes its affine map.
    """
    token = _replacements.set({**_replacements.get(), **{id(layer): affine for layer, affine in replacements.items()}})
    try:
        yield
    finally:
        _replacements.reset(token)
