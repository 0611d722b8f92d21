"""What a lowering is estimated to cost, without converting or running anything.

The time of a lowering is a sum over what it does: operators, blocks, multiplications, bytes of weights. `work` counts these
from the structure alone; `costs.json` holds seconds per unit of each, fitted by `benchmarks/costs.py` to lowerings measured on
the machine that it names. An estimate ranks; only a measurement is a figure.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path

from keras_butterfly import ButterflyDense
from keras_butterfly.structure import fusion
from keras_butterfly.structure.wiring import Wiring

from ..lowering.layout import entry, natural, resized, rotated
from ..lowering.lowering import Layer, Lowering, halves

# Columns that XNNPACK's float kernels compute at a time, a multiple of what each instruction set takes.
LANES = 16
# Weights beyond these sizes come from slower memory: bytes that a second-level and a last-level cache are taken to hold.
NEAR, FAR = 2**18, 2**24

# Bytes of a .tflite file that are not weights: of any file, and of each such unit of work, as exports were seen to have.
FILE_BYTES = 900
BYTES = {"convs": 700, "matmuls": 500, "sums": 600, "products": 250, "stages": 1400, "gathers": 600}

Work = Counter[str]  # whole numbers


def estimate(layer: Layer, lowering: Lowering, rows: int, precision: str | None = None) -> float:
    """Estimated seconds per invocation on `rows` rows, in a precision of `Precision.name`."""
    # XNNPACK unpacks float16 weights to float32 once, on loading.
    measured = "float32" if precision in (None, "float16") or lowering.keep_float32 else precision
    costs = _costs()[measured]["row" if rows == 1 else "rows"]
    return sum(amount * costs[unit] for unit, amount in work(layer, lowering, rows).items())


def estimated_bytes(layer: Layer, lowering: Lowering, precision: str | None = None) -> int:
    """Estimated bytes of a .tflite file with the lowering alone: its weights, and what operators and tensors take."""
    done = work(layer, lowering, 1)
    each = 4 if precision is None or lowering.keep_float32 == "weights" else 2 if precision == "float16" else 1
    described = sum(amount * BYTES[unit] for unit, amount in done.items() if unit in BYTES)
    return int(done["weights"]) * each // 4 + int(described) + FILE_BYTES


def work(layer: Layer, lowering: Lowering, rows: int) -> Work:
    """How much of each unit of work the lowering does; the units are the keys of `costs.json`. Weights in bytes of float32."""
    total = Counter(invocations=1) + _work(layer, lowering, rows)
    total["weights beyond near"] = max(0, total["weights"] - NEAR)
    total["weights beyond far"] = max(0, total["weights"] - FAR)
    return total


@cache
def _costs() -> dict:
    return json.loads((Path(__file__).parent / "costs.json").read_text())["seconds"]


def _work(layer: Layer, lowering: Lowering, rows: int) -> Work:
    if isinstance(layer, ButterflyDense):
        n1, n2, (k1, k2) = len(layer.j1.wiring.inputs), layer.units, layer.middle_kernel.shape
        if lowering.kind == "dense":
            return _product(n1, n2, rows)
        if lowering.kind == "folded":
            rank = min(k1, k2)
            return _product(n1, max(rank, lowering.width), rows) + _product(rank, n2, rows)
        of_j1, of_j2_t = halves(layer, lowering)
        ends = _butterfly(layer.j1.wiring, of_j1, rows) + _butterfly(layer.j2_t.wiring, of_j2_t, rows)
        return ends + _product(k1, k2, rows)
    if lowering.kind in ("dense", "folded"):
        return _product(len(layer.wiring.inputs), len(layer.wiring.outputs), rows)
    one = _butterfly(layer.wiring, lowering, rows)
    return Counter({unit: amount * layer.stacks for unit, amount in one.items()})


def _butterfly(wiring: Wiring, lowering: Lowering, rows: int) -> Work:
    stages, size = len(wiring.strides), wiring.size
    if not stages:
        return _product(1, 1, rows)
    total: Work = Counter()
    if lowering.kind == "gather":
        effective = 4 * 2 * wiring.effective_weights
        return total + Counter({"gathers": stages, "gathered": stages * rows * size, "weights": effective})
    if lowering.kind == "slice":
        return total + Counter({"stages": stages, "stage values": stages * rows * size, "weights": 4 * 2 * size * stages})
    for kept in (wiring.inputs, wiring.outputs):
        if kept != tuple(range(len(kept))):
            total += Counter({"gathers": 1, "gathered": rows * size})
    counts, operators = lowering.grouping(wiring)
    factors = fusion.factors(wiring, counts)
    layout = entry(factors)
    for factor, operator in zip(factors, operators, strict=True):
        total += _factor(operator, factor, rows)
        wanted = layout if operator == "sum" else rotated(layout, factor.low)
        if layout != wanted or (operator == "matmul" and rows > 1):
            total += Counter({"moves": 1, "moved": rows * factor.nodes_in})
        layout = resized(wanted, factor)
    if layout != natural(layout):
        total += Counter({"moves": 1, "moved": rows * factors[-1].nodes_out})
    return total


def _factor(operator: str, factor: fusion.Factor, rows: int) -> Work:
    blocks, entries = factor.blocks, factor.multiply_adds
    stored = Counter({"weights": 4 * entries})
    if operator == "sum":  # in pieces of values that lie side by side; at stride 1 they are single ones
        return stored + Counter({"sums": 1, "sum products": rows * entries, "sum pieces": rows * entries // factor.low})
    if operator == "split":
        one = _product(factor.inputs, factor.outputs, rows)
        moved = Counter({"moved": rows * (factor.nodes_in + factor.nodes_out)})
        return Counter({unit: amount * blocks for unit, amount in one.items()}) + moved
    return stored + Counter(
        {
            f"{operator}s": 1,
            f"{operator} blocks": blocks,
            f"{operator} block rows": blocks * rows,
            f"{operator} multiplies": rows * factor.nodes_in * _padded(factor.outputs),
        }
    )


def _product(inputs: int, outputs: int, rows: int) -> Work:
    return Counter(
        {
            "products": 1,
            "product rows": rows,
            "product multiplies": rows * inputs * _padded(outputs),
            "weights": 4 * inputs * outputs,
        }
    )


def _padded(columns: int) -> int:
    return columns if columns <= LANES // 2 else -(-columns // LANES) * LANES
