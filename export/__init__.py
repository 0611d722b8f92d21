"""Keras models with butterfly layers to TFLite: lowered, converted, compared with Keras, measured (TensorFlow backend)."""

from .convert import TFLiteModel, to_tflite
from .measure import Latency, measure
from .report import Comparison, compare
from .verify import ParityError

__all__ = ["Comparison", "Latency", "ParityError", "TFLiteModel", "compare", "measure", "to_tflite"]
