"""Every notebook of examples/ runs from top to bottom, and its saved outputs come from a whole run."""

import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.rglob("*.ipynb"))
sys.path.insert(0, str(EXAMPLES))

from execute import execute  # noqa: E402


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("KERAS_BUTTERFLY_QUICK", "1")
    notebook = execute(path)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_outputs_are_there_and_name_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert "/home/" not in path.read_text()
    assert "/tmp/" not in path.read_text()


def test_there_is_a_notebook():
    assert EXAMPLES / "quickstart.ipynb" in NOTEBOOKS
