"""Whether exports compute on Arm what they compute on this machine: the outputs of 41 exports of different kinds.

    keras-butterfly devices setup arm64
    python benchmarks/arm_parity.py [--json FILE]

Each export is run on the same inputs by the runtime of this machine and by the emulated one. The differences are relative to
the largest output. They must be within the tolerance of the precision, see docs/export.md. Exits with code 1 if one is not.
"""

import json
import sys

import click
import keras
import numpy as np
from rich.console import Console

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank, export
from keras_butterfly.export import files
from keras_butterfly.export.measurement.devices import find
from keras_butterfly.export.tflite.parity import compare_outputs
from keras_butterfly.export.tflite.quantize import Precision
from keras_butterfly.utils.text_table import TextTable

N = 64
LAYERS = {
    "Dense": lambda: keras.layers.Dense(N, "relu"),
    "Butterfly": lambda: Butterfly(N, "relu", seed=0),
    "ButterflyDense": lambda: ButterflyDense(N, "tanh", seed=0),
    "LowRank": lambda: LowRank(N, rank=8),
    "Butterfly, radix 2, decreasing": lambda: Butterfly(N, radix=2, order="decreasing", seed=0),
    "Butterfly, radices 8, 8, rank 4": lambda: Butterfly(N, radix=(8, 8), rank=4, seed=0),
    "Butterfly, 2 stacks, transposed, 40 units": lambda: Butterfly(40, stacks=2, transposed=True, seed=0),
    "Butterfly, random nodes, 100 units": lambda: Butterfly(100, truncation="random", seed=0),
    "Kaleidoscope": lambda: Kaleidoscope(N, seed=0),
}
# In these, each of the first four kinds of layers is exported; in float32 and int8 all of them.
PRECISIONS = (None, "int8", "float16", "dynamic")


def single(layer) -> keras.Model:
    """Return a network of one layer."""
    return keras.Sequential([keras.Input((N,)), layer])


def wide() -> keras.Model:
    """Return a butterfly that is planned with depthwise convolutions."""
    return keras.Sequential([keras.Input((1024,)), Butterfly(1024, seed=0)])


def convolutional() -> keras.Model:
    """Return a network with a convolution before a butterfly."""
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D(), keras.layers.Flatten()]
    return keras.Sequential(
        [keras.Input((12, 12, 1)), *layers, Butterfly(32, "relu", seed=0), keras.layers.Dense(10, "softmax")]
    )


def two_inputs() -> keras.Model:
    """Return a network with two inputs and two outputs."""
    a, b = keras.Input((N,), name="a"), keras.Input((N,), name="b")
    hidden = Butterfly(N, "relu", seed=0)(keras.layers.Concatenate()([a, b]))
    return keras.Model([a, b], [keras.layers.Dense(3, name="small")(hidden), keras.layers.Dense(5, name="large")(hidden)])


def sequence() -> keras.Model:
    """Return a network on sequences of six vectors."""
    return keras.Sequential(
        [keras.Input((6, N)), Butterfly(N, "relu", seed=0), keras.layers.LayerNormalization(), LowRank(8, rank=4)]
    )


def cases():
    """Yield the name of each case, a function that makes the model, the precision, and other settings of the export."""
    for number, (name, layer) in enumerate(LAYERS.items()):
        for quantize in PRECISIONS if number < 4 else PRECISIONS[:2]:
            yield f"{name}, {quantize or 'float32'}", lambda layer=layer: single(layer()), quantize, {}
    for lowering in ("gather", "slice", "fused", "dense"):
        yield f"Butterfly as {lowering}", lambda: single(Butterfly(N, seed=0)), None, {"lowering": lowering}
    yield "ButterflyDense as folded", lambda: single(ButterflyDense(N, seed=0)), None, {"lowering": "folded"}
    yield "Butterfly, batch of 4", lambda: single(Butterfly(N, seed=0)), None, {"batch_size": 4}
    yield "Butterfly, int8 in and out", lambda: single(Butterfly(N, seed=0)), "int8", {"integer_io": True}
    models = {"1024 units": wide, "convolutions": convolutional, "two inputs": two_inputs, "a sequence": sequence}
    for name, make in models.items():
        for quantize in (None, "int8"):
            yield f"{name}, {quantize or 'float32'}", make, quantize, {}


def exports() -> list[tuple[str, str | None, bytes, dict]]:
    """Return the name, the precision, the file and the inputs of each case."""
    found = []
    rng = np.random.default_rng(0)
    for name, make, quantize, settings in cases():
        keras.utils.set_random_seed(0)
        model = make()
        shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
        data = [rng.standard_normal((100, *shape)).astype("float32") for shape in shapes]
        # The tolerance is against Keras, which is not the question here: untrained layers may be far off in int8.
        settings = {"effort": "estimate", "tolerance": 1.0, "wisdom": export.Wisdom(), "progress": False, **settings}
        exported = export.to_tflite(
            model, quantize=quantize, representative_data=data if len(data) > 1 else data[0], **settings
        )
        count = settings.get("batch_size", 1)
        inputs = {key: array[:count] for key, array in zip(exported.input_names, data, strict=True)}
        found.append((name, quantize, exported.content, inputs))
        print(".", end="", flush=True, file=sys.stderr)
    return found


@click.command()
@click.option("--core", type=click.Choice(["a53", "a72", "a76"]), default="a76", show_default=True)
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the figures to this file too.")
def main(core, path):
    found = exports()
    host = [find("host").predict(content, inputs) for _, _, content, inputs in found]
    arm = find(f"arm64:{core}").predict_all([(content, inputs) for _, _, content, inputs in found])
    table = TextTable("export", title=f"Outputs on {find(f'arm64:{core}').machine}, relative to those of this machine")
    for column in ("difference", "permitted"):
        table.add_column(column, justify="right")
    differences, wrong = {}, []
    for (name, quantize, _, _), expected, actual in zip(found, host, arm, strict=True):
        names = list(expected)
        parity = compare_outputs([expected[each] for each in names], [actual[each] for each in names], names)
        differences[name], permitted = parity.relative_error, Precision(quantize).tolerance
        wrong += [name] if not parity.relative_error <= permitted else []
        table.add_row(name, f"{parity.relative_error:.2g}", f"{permitted:g}")
    Console(width=120).print(table)
    equal = sum(value == 0 for value in differences.values())
    print(f"{len(found)} exports, {equal} equal to the bit, {len(wrong)} wrong: {wrong}")
    if path is not None:
        files.write(path, json.dumps(differences, indent=1).encode(), overwrite=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
