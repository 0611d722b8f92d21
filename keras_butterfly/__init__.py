"""Butterfly layers for Keras, after Ailon, Leibovich, Nair (UAI 2021). `keras_butterfly.export` converts models to TFLite."""

from . import transforms
from ._version import __version__
from .autoencoder import landscape
from .autoencoder.model import ButterflyAutoencoder
from .autoencoder.two_phase import two_phase_fit
from .compression.distillation import distill
from .compression.replace import replace_dense
from .layers import initializers
from .layers.butterfly import Butterfly
from .layers.butterfly_dense import ButterflyDense
from .layers.kaleidoscope import Kaleidoscope
from .layers.low_rank import LowRank
from .model_summary import summary

__all__ = [
    "Butterfly",
    "ButterflyAutoencoder",
    "ButterflyDense",
    "Kaleidoscope",
    "LowRank",
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
