"""Exporting Keras models with butterfly layers to TFLite, comparing the files with Keras, and measuring them.

This needs Keras on the TensorFlow backend.
"""

from .compression.compression import Compression
from .compression.search import compress
from .compression.targets import TargetError
from .convert import pareto_front, to_tflite
from .measurement.comparison import Comparison, compare
from .measurement.counts import Counts
from .measurement.latency import Latency
from .measurement.timing import measure
from .model import TFLiteModel
from .planning.wisdom import Wisdom, wisdom
from .tflite.parity import ParityError

__all__ = [
    "Comparison",
    "Compression",
    "Counts",
    "Latency",
    "ParityError",
    "TFLiteModel",
    "TargetError",
    "Wisdom",
    "compare",
    "compress",
    "measure",
    "pareto_front",
    "to_tflite",
    "wisdom",
]


def __dir__() -> list[str]:
    return sorted(__all__)
