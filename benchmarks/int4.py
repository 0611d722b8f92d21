"""Dense networks with weights in int4, a rival of butterflies. They are made by ai-edge-quantizer, the extra "int4"."""

from dataclasses import replace
from importlib.util import find_spec

from keras_butterfly import export


def is_installed() -> bool:
    """Return whether ai-edge-quantizer is installed."""
    return find_spec("ai_edge_quantizer") is not None


def quantized(exported: export.TFLiteModel) -> export.TFLiteModel:
    """Return a copy of a float32 model with weights in int4, whose activations the runtime quantizes to int8.

    Each output of a layer has a scale of its own. The runtime has kernels for such weights. Only `content` is new. All other
    fields, such as `operators`, `parity` and `precision`, still describe the float32 model.
    """
    from ai_edge_quantizer import quantizer, recipe

    found = quantizer.Quantizer(bytearray(exported.content), recipe.dynamic_wi4_afp32()).quantize()
    return replace(exported, content=bytes(found.quantized_model))
