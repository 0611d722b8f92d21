"""The command line as its user sees it: a process with arguments, output, exit code and files."""

import configparser
import hashlib
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from keras_butterfly_cli import demonstration as demo
from keras_butterfly_cli import main

from keras_butterfly.export import measure


def run(*arguments, folder):
    command = [Path(sys.executable).with_name("keras-butterfly"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def call(*arguments, capsys):
    """Run the command in this process, and return its exit code and what it has printed."""
    with pytest.raises(SystemExit) as stopped:
        main(["--verbose", *arguments] if arguments else [])  # else it would silence this process for good
    return stopped.value.code or 0, *capsys.readouterr()


DEMO_FILES = ["butterfly.tflite", "dense.tflite", "narrow_dense.tflite", "report.json", "report.png"]


@pytest.mark.long
def test_demo_trains_exports_compares_and_writes_five_files(tmp_path):
    result = run("demo", "--epochs", "1", "--output", "out", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == DEMO_FILES
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["dataset"] == "fashion_mnist_sample"
    dense, butterfly, narrow = (report["outcomes"][kind] for kind in ("dense", "butterfly", "narrow dense"))
    assert min(each["accuracy"] for each in (dense, butterfly, narrow)) > 0.75
    assert max(each["max_error"] for each in (dense, butterfly, narrow)) < 1e-4
    assert (dense["weights"], butterfly["weights"]) == (1_863_690, 49_610)
    for word in ("accuracy", "weights", "speed-up", "max error", "dense", "butterfly", "narrow dense"):
        assert word in result.stdout
    assert "━" not in result.stdout.split("Test accuracy")[0] + result.stderr  # no progress bars in a pipe
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert measure(tmp_path / "out" / "butterfly.tflite", runs=1).median > 0


@pytest.mark.usefixtures("eager")
def test_demo_on_the_digits_learns_and_overwrites_when_told_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "WIDTH", 128)
    (tmp_path / "report.json").write_text("an earlier run")
    monkeypatch.chdir(tmp_path)
    arguments = ("--dataset", "digits", "--epochs", "1", "--seed", "3", "--output", ".", "--overwrite")
    code, output, error = call("demo", *arguments, capsys=capsys)
    assert code == 0, error
    assert sorted(entry.name for entry in tmp_path.iterdir()) == DEMO_FILES
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert min(outcome["accuracy"] for outcome in outcomes.values()) > 0.5
    assert max(outcome["max_error"] for outcome in outcomes.values()) < 1e-4
    for word in ("accuracy", "weights", "speed-up", "max error", "dense", "butterfly", "narrow dense"):
        assert word in output


@pytest.mark.usefixtures("eager")
def test_each_network_is_repeated_exactly_by_its_seed_whatever_was_trained_before():
    data = demo.load("digits")
    few = demo.Data(data.x_train[:64], data.y_train[:64], data.x_test, data.y_test)
    losses = []
    for _ in range(2):
        model = demo.build("butterfly", 64, seed=5)
        losses.append(demo.train(model, 1e-3, few, 2, lambda: None))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("features", [64, 784])
def test_the_narrow_network_has_as_many_weights_as_the_butterfly_network(features):
    butterfly, narrow = (demo.build(kind, features).count_params() for kind in ("butterfly", "narrow dense"))
    assert narrow == pytest.approx(butterfly, rel=0.02)


def test_the_sample_is_the_first_images_of_fashion_mnist():
    path = resources.files("keras_butterfly_cli") / "data" / "fashion_mnist_sample.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        shapes = {name: (arrays[name].shape, arrays[name].dtype) for name in arrays.files}
        counts = [np.bincount(arrays[name]).tolist() for name in ("y_train", "y_test")]
        checksums = {name: hashlib.sha256(arrays[name].tobytes()).hexdigest()[:16] for name in arrays.files}
    assert shapes == {
        "x_train": ((10_000, 28, 28), np.uint8),
        "y_train": ((10_000,), np.uint8),
        "x_test": ((2_000, 28, 28), np.uint8),
        "y_test": ((2_000,), np.uint8),
    }
    assert counts == [
        [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000],
        [200, 203, 214, 190, 219, 195, 197, 200, 194, 188],
    ]
    assert checksums == {
        "x_train": "2929ae1c7b89e0ee",
        "y_train": "1022e4632874e71b",
        "x_test": "09bbac78738f0229",
        "y_test": "a86243d2b2400909",
    }


def test_the_sample_is_loaded_flattened_and_scaled():
    data = demo.load("fashion_mnist_sample")
    assert data.x_train.shape == (10_000, 784)
    assert data.x_test.shape == (2_000, 784)
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)
    assert data.x_train.dtype == np.float32


def test_wheels_hold_the_sample_and_its_licence():
    root = Path(__file__).parents[3]
    configuration = configparser.ConfigParser()
    configuration.read(root / "setup.cfg")
    patterns = configuration["options.package_data"]["keras_butterfly_cli"].replace(" ", "").split(",")
    packed = {
        path.relative_to(root / "export/cli").as_posix() for pattern in patterns for path in (root / "export/cli").glob(pattern)
    }
    assert {"data/fashion_mnist_sample.npz", "data/LICENSE", "data/README.md"} <= packed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--output", "taken"), "Expected an output folder. Received a file: 'taken'"),
        (("demo", "--output", "taken/below"), "Expected an output folder that can be made. Received: 'taken/below'"),
        (("demo", "--output", "earlier"), "'earlier' already holds report.json"),
        (("demo", "--dataset", "letters"), "'letters' is not one of 'fashion_mnist_sample', 'fashion_mnist'"),
        (("demo", "--epochs", "0"), "0 is not in the range"),
        (("demo", "--seed", "-1"), "'--seed': -1 is not in the range"),
        (("fly",), "No such command 'fly'"),
        ((), "Expected a command"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "report.json").write_text("mine")
    code, _, error = call(*arguments, capsys=capsys)
    assert code == 2
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    assert message in lines[0]
    assert (tmp_path / "taken").read_text() == "mine"
    assert (tmp_path / "earlier" / "report.json").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["earlier", "taken"]


def test_help_names_the_options(tmp_path):
    result = run("demo", "--help", folder=tmp_path)
    assert result.returncode == 0
    for option in ("--dataset", "--epochs", "--seed", "--output", "--overwrite"):
        assert option in result.stdout


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_keras_datasets_are_flattened_and_scaled(dataset, monkeypatch):
    import keras

    images = np.full((4, 28, 28), 255, np.uint8)
    labels = np.arange(4)
    monkeypatch.setattr(getattr(keras.datasets, dataset), "load_data", lambda: ((images, labels), (images[:2], labels[:2])))
    data = demo.load(dataset)
    assert data.x_train.shape == (4, 784)
    assert data.x_test.shape == (2, 784)
    assert data.x_train.max() == 1.0
