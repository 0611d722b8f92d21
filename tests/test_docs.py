"""The documentation: its examples run, every public name has a page, and no page repeats another."""

import doctest
import inspect
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from keras_butterfly_cli import datasets

pytestmark = pytest.mark.usefixtures("eager")

ROOT = Path(__file__).parent.parent
NAMES = runpy.run_path(str(ROOT / "docs" / "_extensions" / "public_names.py"))
PUBLIC = NAMES["public_objects"]()
# Their examples would repeat that of the function that returns or raises them.
WITHOUT_EXAMPLE = {
    "keras_butterfly.export.Compression",
    "keras_butterfly.export.ParityError",
    "keras_butterfly.export.TargetError",
}
CALLABLE = sorted(name for name, value in PUBLIC.items() if inspect.isclass(value) or inspect.isfunction(value))
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def _example(name):
    docstring = inspect.getdoc(PUBLIC[name])
    return doctest.DocTestParser().get_doctest(docstring, NAMES["namespace"](), name, name, 0)


@pytest.mark.parametrize("name", CALLABLE)
def test_example_of_the_docstring_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = _example(name)
    assert bool(example.examples) == (name not in WITHOUT_EXAMPLE)
    output: list[str] = []
    results = doctest.DocTestRunner().run(example, out=output.append)
    assert results.failed == 0, "".join(output)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_is_on_a_page_of_the_api_reference(name):
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    assert re.search(rf"^\.\. auto(class|function|exception|data):: {re.escape(name)}$", reference, re.MULTILINE)


def test_readme_fits_on_a_screen_or_two():
    assert len((ROOT / "README.md").read_bytes()) <= 6144


def test_readme_links_work_outside_the_repository():
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    files = [link.split("/blob/main/")[1] for link in links if "/blob/main/" in link]
    assert all(link.startswith("https://") for link in links)
    assert files and all((ROOT / file).exists() for file in files)


def test_python_of_the_readme_runs_in_order(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(48, 784)).astype("float32"), rng.integers(0, 10, 48)
    monkeypatch.setattr(datasets, "load", lambda dataset: datasets.Data(x, y, x[:8], y[:8]))
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(blocks) >= 3
    assert {path.name for path in tmp_path.iterdir()} >= {"model.tflite", "small.tflite", "dense.keras", "train.npz"}


def test_no_page_repeats_a_paragraph_of_another():
    seen: dict[str, Path] = {}
    for page in PAGES:
        if "notebooks" in page.parts:
            continue
        for paragraph in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")):
            text = " ".join(paragraph.split())
            if len(text) > 200:
                assert seen.setdefault(text, page) == page, f"{page} repeats a paragraph of {seen[text]}: {text}"
