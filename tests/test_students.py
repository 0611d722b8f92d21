"""The benchmark of trainings of students: it trains, exports in int8 and goes on after a stop; the tables of docs/design.md."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import students
from fronts import Task
from fronts import trained as teacher
from keras_butterfly_cli.datasets import Data
from results import Results
from students_page import NAMES, difference, variants_table, with_tables

ROOT = Path(__file__).parent.parent
PATHS = {name: ROOT / "docs" / "students" / f"{name}.json" for name in NAMES}
TREES = {name: json.loads(path.read_text()) for name, path in PATHS.items() if path.exists()}
TASK = Task("tiny", 64, 3, 32, 1e-3)


@pytest.fixture(scope="module")
def data():
    """Three classes of 48 features, told apart by their means."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 256)
    x = (rng.normal(size=(3, 48))[y] + rng.normal(size=(256, 48))).astype("float32")
    return Data(x[:192], y[:192], x[192:], y[192:])


@pytest.fixture(scope="module")
def original(data, tmp_path_factory):
    return teacher(tmp_path_factory.mktemp("teacher") / "teacher.keras", TASK, data, 0)


def test_the_tables_of_the_page_are_those_of_the_results():
    page = (ROOT / "docs" / "design.md").read_text()
    assert "<!-- students variants -->\n| training |" in page
    assert "<!-- students int8 -->\n| layers |" in page
    assert with_tables(page, TREES) == page


def test_each_variant_is_compared_with_the_same_seeds_of_its_reference():
    runs = {"teacher": [0.8, 0.9], "plain": [0.5, 0.7], "hint 1": [0.6, 0.82]}
    tree = {"float32": {name: dict(enumerate(values)) for name, values in runs.items()}}
    lines = variants_table({"hapt": tree}).split("\n")
    assert lines[2:] == ["| teacher | 85.00 |  | |", "| plain | 60.00 |  | |", "| hint 1 | 71.00 | +11.00 ± 1.00 | plain |"]
    assert difference(np.array([1.0, 2.0, 3.0]), np.zeros(3)) == "+2.00 ± 0.58"


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "name",
    [
        "plain",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("hint 1", "product of two, alternating", "all rounded")),
    ],
)
def test_a_student_learns(name, data, original):
    (model,) = students.trained([original], [0], data, TASK, students.VARIANTS[name])
    assert students.accuracy(model, data) > 0.6


@pytest.mark.usefixtures("eager")
def test_layer_after_layer_trains_all_layers(data, original):
    variant = students.VARIANTS["layer after layer"]
    start = students.student(original, variant.structure, 0)
    (model,) = students.trained([original], [0], data, TASK, variant)
    for before, after in zip(start.weights, model.weights, strict=True):
        assert not np.allclose(before, after)


@pytest.mark.parametrize("places", [students.OUTPUTS, students.PLACES, ("weights",), ()], ids=str)
def test_rounded_outputs_are_off_by_a_few_steps(places, data, original):
    model = students.student(original, "radix 4", 0)
    rounded = students.rounded_outputs(model, data.x_test, places)
    error = np.abs(np.asarray(rounded["class"]) - np.asarray(model(data.x_test))).max()
    assert 1e-5 < error < 0.05 if places else error < 1e-5
    if "hidden_0" not in places:
        return
    levels = np.unique(np.asarray(rounded["hidden_0"]))
    assert len(levels) <= 256
    np.testing.assert_allclose(levels / levels[1], np.round(levels / levels[1]), atol=1e-2)


@pytest.mark.usefixtures("eager")
def test_results_are_kept(data, original, tmp_path, capsys):
    results = Results(tmp_path / "tiny.json", {})
    variant = students.VARIANTS["rounded outputs"]
    for _ in range(2):  # the second time nothing is left to do
        students.all_seeds(results, variant, TASK, data, [original], tmp_path)
    tree = json.loads(results.path.read_text())
    trained = tree["float32"][variant.name]["seed 0"]
    for precision in students.PRECISIONS:
        assert tree[precision][variant.name]["seed 0"]["accuracy"] == pytest.approx(trained, abs=0.1)
    assert capsys.readouterr().out.count("rounded outputs, seed 0: ") == 1
    keras.models.load_model(tmp_path / "tiny-rounded outputs-0.keras")
