"""Random small models, exported and compared with Keras: `make fuzz`, or a few of them in the tests.

    python tests/fuzz.py [--models 300] [--first 0]

Every model is drawn from its own seed, so that one that fails is drawn again alone by --first N --models 1.
"""

import sys

import click
import keras
import numpy as np
from keras import layers
from rich.progress import track

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank, export

PRECISIONS = (None, None, "float16", "dynamic", "int8")
# Errors on fresh inputs may exceed those on the representative data by so many times: they are the largest of a few values.
FRESH = 4.0
# A quantised model that was refused is wrong if it is so many times as far off as with Dense kernels.
WORSE_THAN_DENSE = 4.0
# More refusals than this would hide something.
MAX_REFUSED = 0.1
ACTIVATIONS = (None, "relu", "tanh", "sigmoid", "gelu", "softmax")
ORDERS = (None, None, "increasing", "decreasing")
RADICES = (2, 2, 4, 8, "auto", (3, 5, 9), (12, 11))  # both products are above the largest width
WIDTHS = (1, 2, 3, 5, 8, 10, 16, 24, 31, 32, 50, 64, 100, 128)


class Drawn:
    """One random model with the settings it is exported with."""

    def __init__(self, seed: int):
        self.draw = draw = np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)
        rank = int(draw.choice([2, 2, 2, 3, 4]))
        self.shape = (*(int(n) for n in draw.integers(2, 6, rank - 2)), self.width())
        inputs = x = keras.Input(self.shape)
        for _ in range(draw.integers(1, 5)):
            x = self.layer(x)
        self.model = keras.Model(inputs, x)
        for weight in self.model.trainable_weights:  # trained models have biases, and no longer their initial weights
            weight.assign(weight + 0.02 * draw.standard_normal(weight.shape))
        self.settings = {
            "quantize": _choice(draw, PRECISIONS),
            "effort": _choice(draw, ("estimate", "estimate", "estimate", "measure")),
            "objective": _choice(draw, ("latency", "latency", "size")),
            "lowering": _choice(draw, ("auto", "auto", "auto", "gather", "slice", "fused", "folded", "dense")),
            "batch_size": _choice(draw, (1, 1, 3, None)),
            "representative_data": self.examples(60),
        }

    def exported(self, **changed) -> export.TFLiteModel:
        return export.to_tflite(self.model, wisdom=export.Wisdom(), progress=False, **{**self.settings, **changed})

    def error(self, exported: export.TFLiteModel, x: np.ndarray) -> float:
        expected = self.model(x, training=False).numpy()
        return float(np.abs(exported.predict(x) - expected).max() / (np.abs(expected).max() or 1.0))

    def width(self) -> int:
        return int(self.draw.choice(WIDTHS))

    def examples(self, count: int) -> np.ndarray:
        return self.draw.standard_normal((count, *self.shape)).astype("float32")

    def layer(self, x):
        draw, seed = self.draw, int(self.draw.integers(1000))
        common = {"activation": _choice(draw, ACTIVATIONS), "use_bias": bool(draw.integers(2))}
        kind = draw.integers(10)
        if kind <= 2:
            common |= {"truncation": _choice(draw, ("random", "first")), "order": _choice(draw, ORDERS)}
            common |= {"radix": _choice(draw, RADICES), "rank": _choice(draw, (None, None, 1))}
            stacks, transposed = int(draw.integers(1, 3)), bool(draw.integers(2))
            return Butterfly(self.width(), stacks=stacks, transposed=transposed, seed=seed, **common)(x)
        if kind <= 4:
            return ButterflyDense(self.width(), radix=_choice(draw, RADICES), seed=seed, **common)(x)
        if kind == 5:
            return Kaleidoscope(self.width(), radix=_choice(draw, RADICES), seed=seed, **common)(x)
        if kind == 6:
            return layers.Dense(self.width(), **common)(x)
        if kind == 7:
            return layers.LayerNormalization()(x)
        if kind == 8:
            return LowRank(self.width(), rank=1, **common)(x)
        shared = Butterfly(x.shape[-1], seed=seed, **common)
        return layers.Add()([x, shared(shared(x))])


def check(seed: int) -> tuple[str, str]:
    """Exports model number `seed`: "right", "refused" (quantised, and no better with Dense kernels) or "wrong", and why."""
    drawn = Drawn(seed)
    fresh = drawn.examples(200)
    try:
        exported = drawn.exported()
    except export.ParityError as error:
        if drawn.settings["quantize"] is None:
            return "wrong", str(error)
        ours, dense = (drawn.exported(tolerance=1e9, lowering=lowering) for lowering in (drawn.settings["lowering"], "dense"))
        errors = [model.parity.relative_error for model in (ours, dense)]
        return "wrong" if errors[0] > WORSE_THAN_DENSE * errors[1] else "refused", f"relative error {errors}"
    except ValueError as error:  # the runtime dies of some int8 operators of other layers
        if drawn.settings["quantize"] != "int8" or "dies of signal" not in str(error):
            raise
        return "refused", str(error)
    foreign = [name for name in exported.operators if name.startswith(("CUSTOM", "Flex"))]
    if foreign:
        return "wrong", f"operators {foreign}"
    error, bound = drawn.error(exported, fresh), FRESH * max(exported.parity.relative_error, 2e-6)
    if error <= bound:
        return "right", ""
    why = f"relative error on fresh inputs {error:.3g}, on the data {exported.parity.relative_error:.3g}"
    if drawn.settings["quantize"] is None:
        return "wrong", why
    # Fresh inputs leave the ranges that few data have shown. The same lowerings in float32 tell whether that is all.
    exact = [drawn.error(drawn.exported(quantize=None, lowering=kind), fresh) for kind in sorted(_kinds(exported))]
    return ("right" if max(exact, default=0.0) < 1e-4 else "wrong"), f"{why}, of the same in float32 {exact}"


def _kinds(exported: export.TFLiteModel) -> set[str]:
    return {plan.lowering.kind for plan in exported.plan}


def describe(seed: int) -> str:
    drawn = Drawn(seed)
    settings = {name: value for name, value in drawn.settings.items() if name != "representative_data"}
    return f"{drawn.shape} -> {' -> '.join(type(layer).__name__ for layer in drawn.model.layers[1:])}, {settings}"


def _choice(draw, options):
    return options[draw.integers(len(options))]


@click.command()
@click.option("--models", default=300, show_default=True, type=click.IntRange(min=1))
@click.option("--first", default=0, show_default=True, type=click.IntRange(min=0), help="Number of the first model, its seed.")
def main(models, first):
    counts = {"right": 0, "refused": 0, "wrong": 0}
    for seed in track(range(first, first + models), description="models"):
        kind, why = check(seed)
        counts[kind] += 1
        if why:
            print(f"model {seed} {kind}: {why}\n  {describe(seed)}", flush=True)
        keras.backend.clear_session()
    print(f"{models} models: {counts}")
    sys.exit(1 if counts["wrong"] or counts["refused"] > MAX_REFUSED * models else 0)


if __name__ == "__main__":
    main()
