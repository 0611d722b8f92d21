"""The command line as its user sees it: a process with arguments, output, exit code and files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_butterfly.export import measure


def run(*arguments, folder):
    command = [Path(sys.executable).with_name("keras-butterfly"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_demo_trains_exports_compares_and_writes_four_files(tmp_path):
    result = run("demo", "--epochs", "12", "--output", "out", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "butterfly.tflite",
        "dense.tflite",
        "report.json",
        "report.png",
    ]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    dense, butterfly = (report["outcomes"][kind] for kind in ("dense", "butterfly"))
    assert dense["accuracy"] > 0.95
    assert butterfly["accuracy"] > dense["accuracy"] - 0.02
    assert butterfly["weights"] * 20 < dense["weights"]
    assert max(dense["max_error"], butterfly["max_error"]) < 1e-4
    for word in ("accuracy", "weights", "speed-up", "max error", "dense", "butterfly"):
        assert word in result.stdout
    assert "━" not in result.stdout.split("Test accuracy")[0]  # no progress bars in a pipe
    assert measure(tmp_path / "out" / "butterfly.tflite", runs=1).median > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--output", "taken"), "Expected an output folder. Received a file: 'taken'"),
        (("demo", "--output", "taken/below"), "Expected an output folder that can be made. Received: 'taken/below'"),
        (("demo", "--output", "earlier"), "'earlier' already holds report.json"),
        (("demo", "--dataset", "letters"), "'letters' is not one of 'digits', 'mnist', 'fashion_mnist'"),
        (("demo", "--epochs", "0"), "0 is not in the range"),
        (("demo", "--seed", "-1"), "'--seed': -1 is not in the range"),
        (("fly",), "No such command 'fly'"),
        ((), "Expected a command"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(arguments, message, tmp_path):
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "report.json").write_text("mine")
    result = run(*arguments, folder=tmp_path)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
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

    from keras_butterfly.export import demo

    images = np.full((4, 28, 28), 255, np.uint8)
    labels = np.arange(4)
    monkeypatch.setattr(getattr(keras.datasets, dataset), "load_data", lambda: ((images, labels), (images[:2], labels[:2])))
    data = demo.load(dataset)
    assert data.x_train.shape == (4, 784)
    assert data.x_test.shape == (2, 784)
    assert data.x_train.max() == 1.0
