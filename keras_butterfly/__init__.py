"""Butterfly layers for Keras, after Ailon, Leibovich, Nair (UAI 2021). `keras_butterfly.export` turns models into TFLite."""

from . import initializers
from ._version import __version__
from .butterfly import Butterfly
from .butterfly_dense import ButterflyDense

__all__ = ["Butterfly", "ButterflyDense", "__version__", "initializers"]
