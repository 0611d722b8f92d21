"""Runs the notebooks of this folder and those below from top to bottom and saves their outputs.

    python examples/execute.py [NOTEBOOK ...] [--quick] [--check]

--quick sets KERAS_BUTTERFLY_QUICK=1, which the notebooks read to train briefly; --check runs without saving.
"""

import os
from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs. Raises nbclient's CellExecutionError at the first cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps would make every run a change
        # What TensorFlow logs of its own build and devices is of no use to a reader.
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


@click.command()
@click.argument("notebooks", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--quick", is_flag=True, help="Train briefly.")
@click.option("--check", is_flag=True, help="Do not save the outputs.")
def main(notebooks, quick, check):
    if quick:
        os.environ["KERAS_BUTTERFLY_QUICK"] = "1"
    for path in notebooks or sorted(FOLDER.rglob("*.ipynb")):
        notebook = execute(path)
        if not check:
            nbformat.write(notebook, path)
        click.echo(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
