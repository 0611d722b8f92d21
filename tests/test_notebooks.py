"""Every notebook of examples/ runs from top to bottom, and its saved outputs come from a whole run."""

import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

import keras_butterfly

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.rglob("*.ipynb"))
sys.path.insert(0, str(EXAMPLES))

from execute import execute  # noqa: E402

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# They train for longer than the others, and run among the long tests only, in a kernel.
TRAINS_LONG = ("compress", "image_classifier", "speech", "tagging", "vision")
QUICK = [path for path in NOTEBOOKS if path.stem not in TRAINS_LONG]


def code_of(path):
    """Return the code cells of a saved notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture
def brief(monkeypatch):
    """Let notebooks take their small data. Every training and every fit sees only the first examples of them."""
    fit, replace_dense = keras.Model.fit, keras_butterfly.replace_dense

    def first(data):
        return keras.tree.map_structure(lambda each: each[:128] if isinstance(each, np.ndarray) else each, data)

    def fit_first(model, x=None, y=None, *arguments, **settings):
        return fit(model, first(x), first(y), *arguments, **settings)

    def replace_by_first(model, *, data=None, **settings):
        return replace_dense(model, data=first(data), **{**settings, "steps": 2})

    monkeypatch.setattr(keras.Model, "fit", fit_first)
    monkeypatch.setattr(keras_butterfly, "replace_dense", replace_by_first)
    monkeypatch.setenv("KERAS_BUTTERFLY_QUICK", "1")


@pytest.mark.parametrize("path", QUICK, ids=lambda path: path.stem)
@pytest.mark.usefixtures("brief")
def test_notebook_runs(path, monkeypatch, capsys):
    """Run the cells in this process. A kernel would first import TensorFlow."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    plt.switch_backend("agg")
    names = {"__name__": "__main__"}
    for number, cell in enumerate(code_of(path), 1):
        exec(compile(cell.source, f"{path.name}, cell {number}", "exec"), names)
    plt.close("all")
    assert capsys.readouterr().out


@pytest.mark.long
@each
def test_notebook_runs_in_a_kernel(path, monkeypatch):
    monkeypatch.setenv("KERAS_BUTTERFLY_QUICK", "1")
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "quick")
    notebook = execute(path)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@each
def test_saved_outputs_are_there_and_name_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = code_of(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert "/home/" not in path.read_text()
    assert "/tmp/" not in path.read_text()


def test_there_is_a_notebook():
    assert EXAMPLES / "quickstart.ipynb" in NOTEBOOKS
