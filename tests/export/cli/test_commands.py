"""The commands on models: arguments, output, exit codes and files. Some as processes, most in this one, to save their start."""

import contextlib
import errno
import inspect
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers
from keras_butterfly_cli import cli, main

import keras_butterfly.export.compression.finalists as finalists
import keras_butterfly.export.compression.harm as harm
import keras_butterfly.export.compression.narrower as narrower
import keras_butterfly.export.compression.structured as structured
import keras_butterfly.export.compression.trials as trials
from keras_butterfly import Butterfly, export

pytestmark = pytest.mark.usefixtures("eager")
COMPRESS = ("compress", "model.keras", "-o", "new.tflite")


def run(*arguments, folder, limit=None):
    """The command's process; `limit`: no file may become larger, in bytes, as on a full disk."""
    command = [Path(sys.executable).with_name("keras-butterfly"), *map(str, arguments)]
    before = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, preexec_fn=before)


MADE_SMALL = ("--data", "data.npz", "--initialize", "fit", "--steps", "5")


class Outcome(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """The command within this process, in the folder."""
    monkeypatch.chdir(folder)

    def outcome(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["--verbose", *map(str, arguments)])  # else it would silence this process for good
        return Outcome(stopped.value.code or 0, *capsys.readouterr())

    return outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained model, a small one that the command has made of it, and data."""
    where, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    x = rng.standard_normal((400, 64)).astype("float32")
    y = (x @ rng.standard_normal((64, 4))).argmax(-1)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, "relu", name="hidden"),
            layers.Dense(128, "relu", name="next"),
            layers.Dense(4, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x[:350], y[:350], epochs=5, verbose=0)
    model.save(where / "model.keras")
    np.savez(where / "data.npz", x=x[:350], y=y[:350], x_test=x[350:], y_test=y[350:])
    np.savez(where / "nan.npz", x=np.full((5, 64), np.nan, "float32"))
    np.savez(where / "narrow.npz", x=np.ones((5, 63), "float32"))
    np.savez(where / "empty.npz", x=np.ones((0, 64), "float32"))
    (where / "corrupt.keras").write_bytes((where / "model.keras").read_bytes()[:5000])
    (where / "text.keras").write_text("no model")
    with contextlib.chdir(where), pytest.raises(SystemExit) as stopped:
        main(["--verbose", "replace", "model.keras", "-o", "small.keras", *MADE_SMALL, "--epochs", "1"])
    assert not stopped.value.code
    return where


@pytest.mark.long
def test_a_process_that_replaces_layers_prints_what_it_does(folder):
    done = run("replace", "model.keras", "-o", "again.keras", *MADE_SMALL, "--epochs", "2", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "128 -> 128" in done.stdout and "wrote again.keras" in done.stdout
    stages = done.stderr.splitlines()  # lines, no bars, in a pipe
    assert "fit hidden" in stages and any(line.startswith("distill, epoch 2 of 2, loss") for line in stages)
    assert all(line.isprintable() for line in stages)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        pytest.param(("--radix", "2"), lambda layer: layer.radix == 2, marks=pytest.mark.long),
        pytest.param((), lambda layer: layer.radix == 4, marks=pytest.mark.long),
        (("--radix", "16,8"), lambda layer: layer.wiring.radices == (16, 8)),
        pytest.param(("--radix", "auto", "--k", 5), lambda layer: layer.radix == "auto", marks=pytest.mark.long),
        (("--kind", "low_rank", "--rank", 5), lambda layer: layer.rank == 5),
    ],
    ids=["power of two", "default", "one for each stage", "auto", "low rank"],
)
def test_replace_takes_radices_and_ranks(folder, call, options, found, tmp_path):
    done = call("replace", "model.keras", "-o", tmp_path / "new.keras", "--where", "next", "--steps", 1, *options)
    assert done.returncode == 0, done.stderr
    assert found(keras.models.load_model(tmp_path / "new.keras").get_layer("next"))


def test_replaced_file_loads_and_is_smaller(folder):
    small = keras.models.load_model(folder / "small.keras")
    assert [type(layer) for layer in small.layers] == [Butterfly, Butterfly, layers.Dense]
    assert small.count_params() * 4 < keras.models.load_model(folder / "model.keras").count_params()


def test_from_keras_to_int8_to_comparison(folder, call):
    done = call("export", "small.keras", "-o", "small.tflite", "--quantize", "int8", "--data", "data.npz", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["precision"] == "int8"
    assert report["size_bytes"] == (folder / "small.tflite").stat().st_size
    assert [plan["layer"] for plan in report["plan"]] == ["hidden", "next"]
    assert report["parity"]["relative_error"] < 0.25
    done = call("compare", "model.keras", "small.tflite", "--data", "data.npz", "--runs", 5, "--plot", "bars.png")
    assert done.returncode == 0, done.stderr
    for word in ("model.keras", "small.tflite", "speed-up", "accuracy", "difference"):
        assert word in done.stdout
    assert (folder / "bars.png").read_bytes()[:4] == b"\x89PNG"
    done = call("measure", "small.tflite", "--runs", 5, "--json")
    assert json.loads(done.stdout)["median"] > 0
    assert "median us" in call("measure", "small.tflite", "--runs", 5).stdout


def test_compare_judges_by_the_data(folder, call):
    done = call("compare", "model.keras", "--data", "data.npz", "--runs", 2, "--json")
    assert done.returncode == 0, done.stderr
    with np.load(folder / "data.npz") as data:
        outputs = keras.models.load_model(folder / "model.keras").predict(data["x_test"], verbose=0)
        expected = np.mean(outputs.argmax(-1) == data["y_test"])
    model = json.loads(done.stdout)["models"]["model.keras"]
    assert model["accuracy"] == pytest.approx(expected)
    assert model["difference"] == 0


def test_logits_of_two_classes_are_judged_as_the_loss_says(folder, call, tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64), layers.Dense(1)])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(200, 64)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=(model(x).numpy() > 0).astype(int))
    model.save(tmp_path / "model.keras")
    export.to_tflite(model).save(tmp_path / "model.tflite")
    paths = [str(tmp_path / name) for name in ("model.tflite", "model.keras")]
    done = call("compare", *paths, "--data", tmp_path / "data.npz", "--runs", 1, "--json")
    assert all(json.loads(done.stdout)["models"][path]["accuracy"] > 0.99 for path in paths)
    options = ("--data", tmp_path / "data.npz", "--steps", 1, "--epochs", 1, "--json")
    done = call("replace", paths[1], "-o", tmp_path / "new.keras", *options)
    assert json.loads(done.stdout)["accuracies"]["original"] > 0.99


@pytest.mark.parametrize(("labels", "loss", "part"), [(2, "mse", 3), (4, "categorical_crossentropy", 1)])
def test_replace_trains_on_labels_that_are_not_integers(labels, loss, part, call, tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64), layers.Dense(labels, None if loss == "mse" else "softmax")])
    model.compile("sgd", loss)
    model.save(tmp_path / "model.keras")
    np.savez(
        tmp_path / "data.npz", x=np.ones((8, 64), "float32"), y=np.eye(labels, dtype="float32")[np.arange(8) % labels] / part
    )
    options = ("--data", tmp_path / "data.npz", "--steps", 1, "--epochs", 1, "--json")
    done = call("replace", tmp_path / "model.keras", "-o", tmp_path / "new.keras", *options)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["accuracies"]) == (3 if part == 1 else 0)


def test_summary(folder, call):
    done = call("summary", "small.keras", "--json")
    assert done.returncode == 0, done.stderr
    small = keras.models.load_model(folder / "small.keras")
    assert json.loads(done.stdout)["total"]["weights"] == small.count_params()
    text = call("summary", "small.keras").stdout
    for word in ("hidden", "Butterfly", "multiply-", "total", "int8"):
        assert word in text


def test_models_of_other_tasks_are_not_compared(folder, call):
    inputs = keras.Input((64,), name="x")
    several = keras.Model(inputs, [layers.Dense(10, name="first")(inputs), layers.Dense(10, name="second")(inputs)])
    several.save(folder / "several.keras")
    done = call("compare", "model.keras", "several.keras", "--data", "data.npz", "--runs", 2)
    assert done.returncode == 2
    assert "'several.keras' has 2 outputs, the first model has 1" in done.stderr


@pytest.fixture
def quick(monkeypatch):
    """A search among few structures, with short trainings, whose lowerings are chosen by estimates."""
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")
    monkeypatch.setattr(trials, "MOST_STRUCTURES", 2)
    monkeypatch.setattr(finalists, "MOST", 2)
    monkeypatch.setattr(narrower, "FACTORS", (1 / 4,))
    for family, kind in structured.KINDS.items():
        monkeypatch.setitem(structured.KINDS, family, kind._replace(factors=(1 / 2,), choices=kind.choices[:1]))
    monkeypatch.setattr(harm, "STEPS", 5)
    monkeypatch.setattr(finalists, "COMPILED", False)


@pytest.mark.usefixtures("quick")
def test_compress_writes_the_pick(folder, call):
    done = call(
        *("compress", "model.keras", "-o", "pick.tflite", "--data", "data.npz", "--target-size-kib", 40, "--epochs", 1),
        *("--keras", "pick.keras", "--where", "hidden", "--json", "--plot", "tried.png"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["points"][0]["name"] == "original"
    assert report["pick"]["size_bytes"] <= 40 * 1024
    assert (folder / "pick.tflite").stat().st_size == report["pick"]["size_bytes"]
    assert keras.models.load_model(folder / "pick.keras").count_params() == report["pick"]["weights"]
    assert (folder / "tried.png").read_bytes()[:4] == b"\x89PNG"
    assert "try a layer" in done.stderr


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_a_target_that_nothing_meets_is_exit_code_1(folder, call):
    before = sorted(entry.name for entry in folder.iterdir())
    done = call(
        *("compress", "model.keras", "-o", "new.tflite", "--data", "data.npz", "--where", "hidden", "--epochs", 1),
        *("--target-latency-us", 0.001),
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert "No model found meets the targets (at most 0.001 us). The nearest is '" in message
    assert " KiB, score 0." in message
    assert sorted(entry.name for entry in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("summary", "nowhere.keras"), "Expected a .keras file. Received: 'nowhere.keras'"),
        (("summary", "corrupt.keras"), "'corrupt.keras' could not be loaded"),
        (("summary", "text.keras"), "'text.keras' could not be loaded"),
        (("summary", "data.npz"), "'data.npz' could not be loaded"),
        (("replace", "model.keras", "-o", "new.keras", "--where", "nobody"), "Expected names of dense layers"),
        (("replace", "model.keras", "-o", "new.keras", "--where", "no.*body"), "Expected a layer to replace"),
        (("replace", "model.keras", "-o", "new.keras", "--where", "(*"), "Expected a name or a regular expression"),
        (("replace", "model.keras", "-o", "new.keras", "--where", "hidden", "--k", 500), "fewer than k=500"),
        (("replace", "model.keras", "-o", "new.keras", "--radix", "3"), "`radix` must be a power of two"),
        (("replace", "model.keras", "-o", "new.keras", "--radix", "8,x"), "Expected a power of two"),
        (("replace", "model.keras", "-o", "new.keras", "--kind", "low_rank"), "needs a `rank`"),
        (("replace", "model.keras", "-o", "new.keras", "--data", "nan.npz"), "Expected finite numbers"),
        (("replace", "model.keras", "-o", "new.keras", "--data", "narrow.npz"), "Received: [(5, 63)]"),
        (("replace", "model.keras", "-o", "new.keras", "--data", "text.keras"), "'text.keras' could not be read"),
        (("replace", "model.keras", "-o", "new.keras", "--epochs", 1), "Expected --data to train on"),
        (("replace", "model.keras", "-o", "new.keras", "--target-size-kib", 9), "No such option"),
        (("compress", "model.keras", "-o", "new.tflite", "--target-size-kib", 9), "Missing option '--data'"),
        ((*COMPRESS, "--data", "data.npz"), "Expected at least one target"),
        ((*COMPRESS, "--data", "nan.npz", "--target-size-kib", 9), "Expected finite numbers"),
        ((*COMPRESS, "--data", "narrow.npz", "--target-size-kib", 9), "Received: [(5, 63)]"),
        ((*COMPRESS, "--data", "empty.npz", "--target-size-kib", 9), "Expected at least one example"),
        (
            (*COMPRESS, "--data", "data.npz", "--target-size-kib", 9, "--keras", "new.h5"),
            "Expected a --keras that ends in .keras",
        ),
        ((*COMPRESS, "--data", "data.npz", "--target-size-kib", 9, "--folder", "small.keras"), "Expected a folder to keep"),
        (("replace", "model.keras", "-o", "small.keras"), "'small.keras' exists"),
        (("replace", "model.keras", "-o", "new.h5"), "ends in .keras"),
        (("replace", "model.keras", "-o", "nowhere/new.keras"), "Expected an existing folder"),
        (("export", "small.keras", "-o", "new.tflite", "--quantize", "int8"), "Expected `representative_data`"),
        (("export", "small.keras", "-o", "new.tflite", "--quantize", "int8", "--data", "nan.npz"), "Expected finite numbers"),
        (("export", "small.keras", "-o", "new.tflite", "--data", "narrow.npz"), "Received: [(5, 63)]"),
        (("measure", "data.npz"), "Expected a TFLite model that the stock runtime loads"),
        (("compare", "model.keras", "model.keras"), "Expected different models"),
        (("compare",), "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, folder, call):
    before = sorted(entry.name for entry in folder.iterdir())
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert done.stdout == ""
    assert sorted(entry.name for entry in folder.iterdir()) == before


@pytest.mark.long
def test_a_full_disk_leaves_no_part_of_a_file(folder):
    before = sorted(entry.name for entry in folder.iterdir())
    done = run("replace", "model.keras", "-o", "new.keras", "--initialize", "fresh", folder=folder, limit=9000)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("keras-butterfly: ")
    assert sorted(entry.name for entry in folder.iterdir()) == before


def test_a_disk_that_fills_up_leaves_no_part_of_a_tflite_file(folder, call, monkeypatch):
    """The converter has files of its own, which a limit on this process would hit first."""

    def full(self, content):
        self.open("wb").write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(entry.name for entry in folder.iterdir())
    monkeypatch.setattr(Path, "write_bytes", full)
    done = call("export", "small.keras", "-o", "new.tflite", "--effort", "estimate")
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert sorted(entry.name for entry in folder.iterdir()) == before


def test_an_export_off_by_more_than_the_tolerance_is_exit_code_1(folder, call):
    done = call("export", "small.keras", "-o", "new.tflite", "--lowering", "dense", "--tolerance", 1e-30)
    assert done.returncode == 1, done.stderr
    assert not (folder / "new.tflite").exists()
    assert export.ParityError.exit_code == 1


@pytest.mark.parametrize("command", ["summary", "replace", "export", "measure", "compare"])
def test_help(command, call):
    done = call(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_compress_has_the_defaults_of_the_function():
    of_function = inspect.signature(export.compress).parameters
    of_command = {option.name: option.default for option in cli.commands["compress"].params}
    for name in ("epochs", "batch_size", "learning_rate", "seed"):
        assert of_command[name] == of_function[name].default
