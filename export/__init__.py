"""Keras models with butterfly layers to TFLite: lowered, converted, compared with Keras, measured (TensorFlow backend)."""

from .convert import TFLiteModel, pareto_front, to_tflite
from .latency import Latency
from .measure import measure
from .report import Comparison, compare
from .verify import ParityError
from .wisdom import Wisdom, wisdom

__all__ = [
    "Comparison",
    "Latency",
    "ParityError",
    "TFLiteModel",
    "Wisdom",
    "compare",
    "measure",
    "pareto_front",
    "to_tflite",
    "wisdom",
]
