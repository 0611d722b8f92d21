"""Keras models with butterfly layers to TFLite: lowered, converted, compared with Keras, measured (TensorFlow backend)."""

from .convert import pareto_front, to_tflite
from .latency import Latency
from .measure import measure
from .model import TFLiteModel
from .report import Comparison, compare
from .sweep import Sweep, TargetError, sweep
from .verify import ParityError
from .wisdom import Wisdom, wisdom

__all__ = [
    "Comparison",
    "Latency",
    "ParityError",
    "Sweep",
    "TFLiteModel",
    "TargetError",
    "Wisdom",
    "compare",
    "measure",
    "pareto_front",
    "sweep",
    "to_tflite",
    "wisdom",
]


def __dir__() -> list[str]:
    return sorted(__all__)
