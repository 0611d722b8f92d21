"""The model card: what it says of the file is true, and its code loads the file."""

import hashlib
import re

import keras
import numpy as np
import pytest
from keras_butterfly_cli import main

from keras_butterfly import Butterfly, export
from keras_butterfly.export.tflite import runtime


@pytest.fixture(scope="module")
def exported():
    """An int8 model of two inputs and two outputs, with names that are no identifiers, that takes and gives int8."""
    left, right = keras.Input((8,), name="left-hand"), keras.Input((4,), name="right")
    hidden = Butterfly(16, "relu", seed=0, name="hidden")(keras.layers.Concatenate()([left, right]))
    heads = {"class": keras.layers.Dense(3, "softmax")(hidden), "size": keras.layers.Dense(1)(hidden)}
    rng = np.random.default_rng(0)
    data = {"left-hand": rng.standard_normal((64, 8)), "right": rng.standard_normal((64, 4))}
    model = keras.Model([left, right], heads)
    return export.to_tflite(model, quantize="int8", integer_io=True, representative_data=data, effort="estimate", tolerance=0.5)


def rows(card: str) -> dict[str, list[str]]:
    """The cells of all tables of a card, by the first two cells of a row joined."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    return {" ".join(row[:2]).strip(): row[2:] for row in cells} | {row[0]: row[1:] for row in cells if row[0]}


def test_card_states_the_facts_of_the_file(exported):
    card = exported.card("small.tflite")
    table = rows(card)
    scale, zero = runtime.load(exported.content).get_signature_runner().get_input_details()["left-hand"]["quantization"]
    assert table["input `left-hand`"] == ["(1, 8)", "int8", f"scale {scale:.9g}, zero point {zero}"]
    assert table["output `class`"][:2] == ["(1, 3)", "int8"]
    assert table["file"] == [f"{exported.size_bytes:,} bytes ({exported.size_bytes / 1024:,.1f} KiB)"]
    assert table["precision"] == ["int8: weights and activations in int8"]
    error = exported.parity.outputs[0]
    assert table[f"`{error.name}`"][:2] == [f"{error.max_error:.3g}", f"{error.relative_error:.3g}"]
    assert hashlib.sha256(exported.content).hexdigest() in card
    assert "# small.tflite\n" in card and "Not measured." in card and exported.parity.inputs in card


def test_card_states_what_was_measured_where_and_when(exported):
    latency = export.measure(exported, runs=3)
    table = rows(exported.card("small.tflite", latency))
    assert table["device"] == [latency.title] and table["measured"] == [latency.when]
    assert table["median us"] == [f"{latency.median * 1e6:,.2f}"]
    counts = export.Counts(53_000, 44_000, core="cortex-a76", runtime="litert", machine="qemu")
    assert rows(exported.card("small.tflite", counts))["instructions"] == ["53,000"]


def test_command_writes_the_card_beside_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keras.Sequential([keras.Input((8,), name="x"), Butterfly(8, seed=0)]).save("model.keras")

    def call(*options):
        with pytest.raises(SystemExit) as stopped:
            main(["--verbose", "export", "model.keras", "-o", "small.tflite", "--effort", "estimate", "--card", *options])
        return stopped.value.code, capsys.readouterr()

    (tmp_path / "small.md").write_text("mine")
    code, shown = call()
    assert code == 2 and "'small.md' exists" in shown.err and not (tmp_path / "small.tflite").exists()
    assert (tmp_path / "small.md").read_text() == "mine"
    code, shown = call("--overwrite")
    assert code == 0 and "wrote small.tflite" in shown.out and "wrote small.md" in shown.out
    card = (tmp_path / "small.md").read_text()
    assert card.startswith("# small.tflite\n") and "median us" in card
    assert hashlib.sha256((tmp_path / "small.tflite").read_bytes()).hexdigest() in card


def test_the_code_of_the_card_loads_the_file(exported, tmp_path, monkeypatch, capsys):
    exported.save(tmp_path / "small.tflite")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", exported.card("small.tflite"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert {name: array.dtype for name, array in names["outputs"].items()} == {"class": np.int8, "size": np.int8}
    assert capsys.readouterr().out
