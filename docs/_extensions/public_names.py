"""The public names of the package, which the API reference has to document. This module needs no Sphinx."""

import importlib
import inspect
from functools import cache
from typing import Any

MODULES = (
    "keras_butterfly",
    "keras_butterfly.initializers",
    "keras_butterfly.landscape",
    "keras_butterfly.transforms",
    "keras_butterfly.sketching",
    "keras_butterfly.export",
)


@cache
def public_objects() -> dict[str, Any]:
    """Return the object of each public name, such as "keras_butterfly.Butterfly", except modules and `__version__`."""
    return {
        f"{name}.{member}": value
        for name in MODULES
        for member, value in ((member, getattr(_module(name), member)) for member in _module(name).__all__)
        if not inspect.ismodule(value) and member != "__version__"
    }


def namespace() -> dict[str, Any]:
    """Return a dict of the names that examples in docstrings use without an import: keras, np, export and the public names."""
    import keras
    import numpy as np

    names: dict[str, Any] = {"keras": keras, "np": np, "export": _module("keras_butterfly.export")}
    for name in ("keras_butterfly", "keras_butterfly.sketching"):
        names |= {member: getattr(_module(name), member) for member in _module(name).__all__}
    return names


def _module(name: str) -> Any:
    """Return the module that users reach under `name`. `keras_butterfly.initializers` is an attribute, not a file."""
    package, _, member = name.rpartition(".")
    if not package:
        return importlib.import_module(name)
    module = getattr(importlib.import_module(package), member, None)
    return importlib.import_module(name) if module is None else module
