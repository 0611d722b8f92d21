"""What a lowering is estimated to cost, without converting or running anything.

The time of a lowering is a sum over what it does: operators, blocks, multiplications, bytes of weights. `Lowering.work` counts
these from the structure alone. `costs.json` holds seconds per unit of each, fitted by `benchmarks/costs.py` to lowerings
measured on the machine that it names. An estimate ranks; only a measurement is a figure.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path

from ..lowering import Layer, Lowering, Work

COSTS = Path(__file__).parent / "costs.json"
# Weights beyond these sizes come from slower memory: bytes that a second-level and a last-level cache are taken to hold.
NEAR, FAR = 2**18, 2**24

# Bytes of a .tflite file that are not weights: of any file, and of each such unit of work, as exports were seen to have.
FILE_BYTES = 900
BYTES = {"convs": 700, "matmuls": 500, "sums": 600, "products": 250, "stages": 1400, "gathers": 600, "depthwises": 950}


def estimate(layer: Layer, lowering: Lowering, rows: int, precision: str | None = None) -> float:
    """Return the estimated seconds per invocation on `rows` rows, in a precision of `Precision.name`."""
    # XNNPACK unpacks float16 weights to float32 once, on loading.
    measured = "float32" if precision in (None, "float16") or lowering.keep_float32 else precision
    costs = _costs()[measured]["row" if rows == 1 else "rows"]
    return sum(amount * costs[unit] for unit, amount in work(layer, lowering, rows).items())


def estimated_bytes(layer: Layer, lowering: Lowering, precision: str | None = None) -> int:
    """Return the estimated bytes of a .tflite file with the lowering alone: its weights, operators and tensors."""
    done = work(layer, lowering, 1)
    each = 4 if precision is None or lowering.keep_float32 == "weights" else 2 if precision == "float16" else 1
    described = sum(amount * BYTES[unit] for unit, amount in done.items() if unit in BYTES)
    return int(done["weights"]) * each // 4 + int(described) + FILE_BYTES


def work(layer: Layer, lowering: Lowering, rows: int) -> Work:
    """Return how much of each unit of work, the keys of `costs.json`, the lowering does. Weights are in bytes of float32."""
    total = Counter(invocations=1) + lowering.work(layer.parts(), rows)
    total["weights beyond near"] = max(0, total["weights"] - NEAR)
    total["weights beyond far"] = max(0, total["weights"] - FAR)
    return total


@cache
def _costs() -> dict:
    return json.loads(COSTS.read_text())["seconds"]
