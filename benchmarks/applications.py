"""Replace the dense layers of `keras.applications` models, and check that the results survive saving, loading and the export.

    python benchmarks/applications.py [--model NAME ...] [--steps 20] [--convolutions] [--json FILE]

The models have random weights, and no softmax, which would hide errors. Their heavy Dense layers become butterflies that are
fitted to the kernels. With --convolutions all layers of at least 50,000 weights become butterflies, 1x1 convolutions too. Each
new model is saved, loaded by a new process, exported, and compared with Keras.

Output: a table of the weights, the size before (4 bytes for each weight), the size of the .tflite file, and its error.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_butterfly import replace_dense
from keras_butterfly.export import files

MODELS = ("MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0", "ResNet50", "VGG16")
MIN_WEIGHTS, SHAPE = 50_000, (224, 224, 3)
# Run by a new process, as a user of the saved file would, so that nothing is left of the process that replaced the layers.
EXPORT = """
import json, sys
import keras, numpy as np
import keras_butterfly
from keras_butterfly import export
model = keras.models.load_model(sys.argv[1])
given = np.load(sys.argv[2])
same = float(np.abs(model.predict(given["x"], verbose=0) - given["y"]).max())
exported = export.to_tflite(model, progress=False)
print(json.dumps({
    "loaded_error": same, "size_bytes": exported.size_bytes, "error": exported.parity.relative_error,
    "butterflies": [f"{plan.layer}: {plan.lowering}" for plan in exported.plan],
    "operators": sorted(set(exported.operators)), "seconds": export.measure(exported, warmup=2, runs=5).median,
}))
"""


def round_trip(name: str, steps: int, convolutions: bool) -> dict:
    """Replace layers of a model, save, load, export and measure it, and return the figures."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=SHAPE, classifier_activation=None)
    new, report = replace_dense(model, min_weights=MIN_WEIGHTS if convolutions else None, steps=steps, seed=0)
    x = np.random.default_rng(0).uniform(0, 1, (2, *SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path, values = Path(folder) / "small.keras", Path(folder) / "values.npz"
        new.save(path)
        np.savez(values, x=x, y=new.predict(x, verbose=0))
        command = [sys.executable, "-c", EXPORT, str(path), str(values)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), **report.to_dict()}


@click.command()
@click.option("--model", "chosen", multiple=True, type=click.Choice(MODELS), help="Repeatable. Default: all.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(min=0), help="Of each fit.")
@click.option("--convolutions", is_flag=True, help="Replace 1x1 convolutions too.")
@click.option("--json", "path", type=click.Path(), help="Also write the figures to this new file.")
def main(chosen, steps, convolutions, path):
    if path:
        files.check_writable(path)
    console, report = Console(width=140), {}
    names = list(chosen or MODELS)
    table = Table("model", "replaced", title_justify="left")
    for column in ("weights", "after", "dense MiB", ".tflite MiB", "loaded", "exported, relative error"):
        table.add_column(column, justify="right")
    for name in track(names, "models", console=console, disable=not console.is_terminal):
        report[name] = result = round_trip(name, steps, convolutions)
        before, after = result["weights_before"], result["weights_after"]
        sizes = f"{4 * before / 2**20:,.1f}", f"{result['size_bytes'] / 2**20:,.1f}"
        errors = f"{result['loaded_error']:.1e}", f"{result['error']:.1e}"
        table.add_row(name, str(len(result["replacements"])), f"{before:,}", f"{after:,}", *sizes, *errors)
        console.print(f"{name}: {result['error']:.1e}")
    console.print(table)
    if path:
        files.write(path, json.dumps(report, indent=2).encode())


if __name__ == "__main__":
    main()
