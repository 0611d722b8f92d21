"""Butterfly layers for Keras, after Ailon, Leibovich, Nair (UAI 2021). `keras_butterfly.export` turns models into TFLite."""

from . import initializers, landscape, transforms
from ._version import __version__
from .autoencoder import ButterflyAutoencoder
from .butterfly import Butterfly
from .butterfly_dense import ButterflyDense
from .distillation import distill
from .kaleidoscope import Kaleidoscope
from .replace import replace_dense
from .summary import summary
from .two_phase import two_phase_fit

__all__ = [
    "Butterfly",
    "ButterflyAutoencoder",
    "ButterflyDense",
    "Kaleidoscope",
    "__version__",
    "distill",
    "initializers",
    "landscape",
    "replace_dense",
    "summary",
    "transforms",
    "two_phase_fit",
]


def __dir__() -> list[str]:
    return sorted(__all__)
