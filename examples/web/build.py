"""Build the page on which a person draws a digit and three networks read it.

    keras-butterfly devices setup browser
    python examples/web/build.py digits-page
    python -m http.server --directory digits-page

Then open http://localhost:8000. The folder works on any web server for static files, and without a network.

The networks are a dense one, the same with butterfly layers, and the latter in int8. They learn MNIST, which keras.datasets
downloads once. --data FILE takes another copy of mnist.npz, and --digits the 1,797 small images that come with scikit-learn.
"""

import json
import shutil
from pathlib import Path

import click
import keras
import numpy as np
import tensorflow as tf

from keras_butterfly import Butterfly, export
from keras_butterfly.export import files
from keras_butterfly.export.measurement.devices.browser_packages import litert_version, packages_folder
from keras_butterfly.utils.npz import read_npz

FOLDER = Path(__file__).parent
PAGE = ("index.html", "style.css", "app.js", "drawing.js", "classifier.js")
# The file of LiteRT.js -> its name in the output folder. The page needs one of both builds: "compat" is for older browsers.
LITERT = {
    "@litertjs/core/dist/index.js": "litert/core.js",
    "@litertjs/wasm-utils/dist/index.js": "litert/wasm-utils.js",
    **{
        f"@litertjs/core/wasm/litert_wasm_{build}.{suffix}": f"litert/wasm/litert_wasm_{build}.{suffix}"
        for build in ("internal", "compat_internal")
        for suffix in ("js", "wasm")
    },
}
SIDE, CLASSES = 28, 10
LEARNING_RATES = {"dense": 1e-3, "butterfly": 2e-3}
# The models of the page: name of the file -> the network, the title on the page, and the precision.
MODELS = {
    "dense": ("dense", "Dense", None),
    "butterfly": ("butterfly", "Butterfly", None),
    "butterfly_int8": ("butterfly", "Butterfly int8", "int8"),
}
# How many training images int8 takes its ranges from.
REPRESENTATIVE = 1000


def network(kind: str, width: int) -> keras.Model:
    """Return a network of two hidden ReLU layers and a softmax: from 784 pixels, 0 to 1, to the scores of ten digits."""
    layer = Butterfly if kind == "butterfly" else keras.layers.Dense
    image = keras.Input((SIDE * SIDE,), name="image")
    hidden = layer(width, activation="relu", name="hidden_1")(image)
    hidden = layer(width, activation="relu", name="hidden_2")(hidden)
    scores = keras.layers.Dense(CLASSES, activation="softmax", name="scores")(hidden)
    return keras.Model(image, {"scores": scores})


def load_data(data: str | None, digits: bool):
    """Return x_train, y_train, x_test, y_test: images (examples, 28, 28), float32 from 0 to 1, and digits (examples,).

    Args:
        data: the path of a .npz file with these four arrays, bytes from 0 to 255. None: keras.datasets reads or downloads it.
        digits: whether to take the images of scikit-learn instead, enlarged from 8 x 8 pixels.
    """
    if digits:
        return _scikit_learn_digits()
    if data is not None:
        arrays = read_npz(data)
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    else:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    return x_train.astype("float32") / 255, y_train, x_test.astype("float32") / 255, y_test


def _scikit_learn_digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    small = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    # MNIST's digits fill 20 x 20 pixels in the middle of 28 x 28.
    images = np.pad(tf.image.resize(small, (20, 20)).numpy()[..., 0], ((0, 0), (4, 4), (4, 4)))
    x_train, x_test, y_train, y_test = train_test_split(images, y, test_size=0.25, stratify=y, random_state=0)
    return x_train, y_train, x_test, y_test


def varied(x: np.ndarray, y: np.ndarray, batch: int) -> tf.data.Dataset:
    """Return batches of the images, turned, scaled and shifted a little, so that what people draw is covered."""
    vary = keras.Sequential(
        [
            keras.layers.RandomRotation(0.04, fill_mode="constant"),
            keras.layers.RandomZoom(0.12, 0.12, fill_mode="constant"),
            keras.layers.RandomTranslation(0.06, 0.06, fill_mode="constant"),
        ]
    )

    def change(images, labels):
        return tf.reshape(vary(images[..., None], training=True), (-1, SIDE * SIDE)), labels

    examples = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(batch)
    return examples.map(change, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def train(kind: str, width: int, x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    """Return a trained network. The learning rate decays along a cosine."""
    keras.utils.set_random_seed(0)
    model, batch = network(kind, width), 128 if len(x) > 10_000 else 32
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATES[kind], epochs * -(-len(x) // batch))
    model.compile(keras.optimizers.Adam(schedule), {"scores": "sparse_categorical_crossentropy"})
    model.fit(varied(x, y, batch), epochs=epochs, verbose=2, shuffle=False)
    return model


def export_model(model: keras.Model, quantize: str | None, x: np.ndarray, device: str):
    """Return the export of a network, planned for a device."""
    data = x[:REPRESENTATIVE].reshape(-1, SIDE * SIDE) if quantize else None
    return export.to_tflite(model, quantize=quantize, representative_data=data, device=device)


def empty_model():
    """Return a model that does nothing but copy one number. Its latency is that of a call."""
    image = keras.Input((1,), name="image")
    return export.to_tflite(keras.Model(image, {"scores": keras.layers.ReLU()(image)}), effort="estimate")


@click.command(help=__doc__)
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(exists=True, dir_okay=False), help="A copy of mnist.npz.")
@click.option("--digits", is_flag=True, help="Learn scikit-learn's digits instead of MNIST.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True, help="Passes over the training images.")
@click.option("--width", type=click.IntRange(1), default=1024, show_default=True, help="Units of each hidden layer.")
@click.option("--device", default="browser", show_default=True, help="The device that the exports are planned for.")
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier build.")
def main(output: Path, **options):
    try:
        build(output, **options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def build(output: Path, *, data: str | None, digits: bool, epochs: int, width: int, device: str, overwrite: bool) -> None:
    """Train and export the networks, and write the page with all that it needs to the folder `output`.

    Raises:
        ValueError: before any work, if LiteRT.js is not set up, or a file is there and `overwrite` is False.
    """
    packages = packages_folder() / "node_modules"
    copied = {FOLDER / name: output / name for name in PAGE}
    copied |= {packages / source: output / target for source, target in LITERT.items()}
    written = [*copied.values(), *(output / f"{name}.tflite" for name in (*MODELS, "empty")), output / "models.json"]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.check_writable(path, overwrite)
    x_train, y_train, x_test, y_test = load_data(data, digits)
    networks = {kind: train(kind, width, x_train, y_train, epochs) for kind in LEARNING_RATES}
    facts = []
    for name, (kind, title, quantize) in MODELS.items():
        exported = export_model(networks[kind], quantize, x_train, device)
        exported.save(output / f"{name}.tflite", overwrite)
        accuracy = float(np.mean(exported.predict(x_test.reshape(-1, SIDE * SIDE)).argmax(-1) == y_test))
        facts.append({"file": f"{name}.tflite", "title": title, "bytes": exported.size_bytes, "accuracy": accuracy})
        click.echo(f"{title}: {exported.size_bytes / 1024:,.0f} KiB, {accuracy:.2%} of {len(y_test):,} test images")
    empty_model().save(output / "empty.tflite", overwrite)
    report = {"models": facts, "empty": "empty.tflite", "images": len(y_test), "litert": litert_version()}
    files.write(output / "models.json", json.dumps(report, indent=2).encode(), overwrite)
    for source, target in copied.items():
        files.write(target, lambda temporary, source=source: shutil.copyfile(source, temporary), overwrite)
    click.echo(f"wrote {output}. To see it: python -m http.server --directory {output}, then open http://localhost:8000")


if __name__ == "__main__":
    main()
