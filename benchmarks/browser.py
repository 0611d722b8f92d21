"""Run many exports in a browser and on this machine: whether the outputs are equal, and how long each takes.

    keras-butterfly devices setup browser
    python benchmarks/browser.py [--runs 30] [--json FILE]

The exports are of all layers, lowerings and precisions. An empty model is among them: its latency is that of a call.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
from keras import layers

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank, export
from keras_butterfly.export.measurement.devices import find
from keras_butterfly.export.tflite import runtime
from keras_butterfly.utils.text_table import TextTable

SIZE, EXAMPLES = 256, 8
PRECISIONS = {
    "float32": {},
    "float16": {"quantize": "float16"},
    "dynamic": {"quantize": "dynamic"},
    "int8": {"quantize": "int8"},
    "int8 throughout": {"quantize": "int8", "integer_io": True},
}
# Largest difference that passes, relative to the largest output. In float32 sums are taken in another order. A quantized output
# may fall on the other side of a step, and a step inside an int8 network may move a few more.
TOLERANCES = {"float32": 1e-5, "float16": 1e-5, "dynamic": 0.02, "int8": 0.02, "int8 throughout": 0.02}


def single(layer) -> keras.Model:
    """Return a network of one layer."""
    return keras.Sequential([keras.Input((SIZE,), name="x"), layer])


def networks() -> dict[str, keras.Model]:
    """Return the Keras models by name: single layers, and networks that hold other layers too."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2), name="image")
    convolved = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(image))
    tokens, extra = keras.Input((6,), dtype="int32", name="tokens"), keras.Input((4,), name="extra")
    embedded = layers.Flatten()(layers.Embedding(20, 8)(tokens))
    joined = Butterfly(64, "relu", seed=0)(layers.Concatenate()([embedded, extra]))
    return {
        "empty": single(layers.ReLU()),
        "Dense": single(layers.Dense(SIZE)),
        "Butterfly": single(Butterfly(SIZE, seed=0)),
        "Butterfly radix 2": single(Butterfly(SIZE, radix=2, seed=0)),
        "Butterfly rank 4": single(Butterfly(SIZE, rank=4, seed=0)),
        "Butterfly wide": single(Butterfly(300, "relu", seed=0)),
        "ButterflyDense": single(ButterflyDense(SIZE, seed=0)),
        "Kaleidoscope": single(Kaleidoscope(SIZE, seed=0)),
        "LowRank": single(LowRank(SIZE, rank=8)),
        "convolution": keras.Model(image, layers.Dense(10, "softmax")(Butterfly(128, "relu", seed=0)(convolved))),
        "two inputs, two outputs": keras.Model(
            [tokens, extra], {"kind": layers.Dense(3, "softmax")(joined), "amount": layers.Dense(1)(joined)}
        ),
    }


def example_inputs(model: keras.Model, count: int) -> dict[str, np.ndarray]:
    """Return random inputs of a model by name: whole numbers from 0 to 19 where it takes integers."""
    rng = np.random.default_rng(0)
    inputs = {}
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        integers = tensor.dtype.startswith("int")
        inputs[tensor.name] = rng.integers(0, 20, shape).astype("int32") if integers else rng.standard_normal(shape, "float32")
    return inputs


def exports() -> dict[tuple[str, str], export.TFLiteModel]:
    """Return all exports, by the name of the network and the precision, or the lowering."""
    made = {}
    for name, model in networks().items():
        data = example_inputs(model, 64)
        for precision, options in PRECISIONS.items():
            given = {**options, "representative_data": data} if precision.startswith("int8") else options
            made[name, precision] = export.to_tflite(model, effort="estimate", tolerance=1.0, **given)
        if name == "Butterfly":
            for lowering in ("gather", "slice", "fused", "folded", "dense"):
                made[f"{name} {lowering}", "float32"] = export.to_tflite(model, lowering=lowering, effort="estimate")
    return made


def difference(content: bytes, device, inputs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of an output in the browser to the host's, relative to the host's largest output."""
    interpreter, worst = runtime.load(content), 0.0
    for index in range(EXAMPLES):
        example = {name: array[index : index + 1] for name, array in inputs.items()}
        expected, actual = runtime.run(interpreter, example), device.predict(content, example)
        for name, value in expected.items():
            worst = max(worst, float(np.max(np.abs(actual[name] - value)) / max(np.max(np.abs(value)), 1e-12)))
    return worst


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(1), default=30, show_default=True, help="Timed blocks of each export.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(runs: int, path: Path | None):
    device = find("browser")
    made = exports()
    inputs = {name: example_inputs(model, EXAMPLES) for name, model in networks().items()}
    contents = {f"{name}, {precision}": exported.content for (name, precision), exported in made.items()}
    browser = export.compare(contents, device=device, runs=runs).latencies
    host = export.compare(contents, runs=runs).latencies
    first = next(iter(browser.values()))
    table = TextTable(title=f"{first.title}; {len(made)} exports, size {SIZE}, batch 1", title_justify="left")
    for column in ("export", "precision", "difference", "browser us", "host us"):
        table.add_column(column, justify="left" if column in ("export", "precision") else "right")
    figures, wrong = [], []
    for (name, precision), exported in made.items():
        key = f"{name}, {precision}"
        source = next(each for each in sorted(inputs, key=len, reverse=True) if name.startswith(each))
        given = dict(zip(exported.input_names, inputs[source].values(), strict=True))
        error = difference(exported.content, device, given)
        figures.append({"export": key, "difference": error, "browser": browser[key].median, "host": host[key].median})
        table.add_row(name, precision, f"{error:.1e}", f"{browser[key].median * 1e6:,.1f}", f"{host[key].median * 1e6:,.1f}")
        if not error <= TOLERANCES[precision]:
            wrong.append(f"{key}: {error:.2g}")
    click.echo(table)
    if path is not None:
        path.write_text(json.dumps({"runtime": first.runtime, "machine": first.machine, "figures": figures}, indent=2))
    if wrong:
        raise click.ClickException(f"The browser's outputs differ from the host's: {'; '.join(wrong)}")
    click.echo(f"All {len(made)} exports: the browser's outputs equal the host's.")


if __name__ == "__main__":
    main()
