"""Butterfly layers for Keras, after Ailon, Leibovich, Nair (UAI 2021). `keras_butterfly.export` turns models into TFLite."""

from . import initializers, transforms
from ._version import __version__
from .butterfly import Butterfly
from .butterfly_dense import ButterflyDense
from .kaleidoscope import Kaleidoscope
from .replace import replace_dense

__all__ = ["Butterfly", "ButterflyDense", "Kaleidoscope", "__version__", "initializers", "replace_dense", "transforms"]
