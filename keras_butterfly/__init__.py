"""Butterfly layers for Keras, after Ailon, Leibovich, Nair (UAI 2021). `keras_butterfly.export` turns models into TFLite."""

from . import initializers, transforms
from ._version import __version__
from .butterfly import Butterfly
from .butterfly_dense import ButterflyDense
from .distillation import distill
from .kaleidoscope import Kaleidoscope
from .replace import replace_dense
from .summary import summary

__all__ = [
    "Butterfly",
    "ButterflyDense",
    "Kaleidoscope",
    "__version__",
    "distill",
    "initializers",
    "replace_dense",
    "summary",
    "transforms",
]
