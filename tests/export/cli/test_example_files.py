"""The examples command, and the files of the packages that no import needs: the notebooks and their data."""

import configparser
import errno
import re
from pathlib import Path

import pytest
from keras_butterfly_cli import main
from keras_butterfly_cli.example_files import SOURCE, example_paths

import keras_butterfly

ROOT = Path(__file__).parents[3]
FILES = [path.as_posix() for path in example_paths()]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """A function that runs the command in an empty folder, and returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def outcome(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["--verbose", "examples", *map(str, arguments)])  # else it would silence this process for good
        return stopped.value.code, *capsys.readouterr()

    return outcome


def held(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("folder", ["new", "empty", "."])
def test_examples_are_copied(folder, call, tmp_path):
    where = tmp_path / "empty" if folder == "empty" else tmp_path / folder
    if folder == "empty":
        where.mkdir()
    code, output, _ = call(folder)
    assert code == 0
    assert held(where) == FILES
    assert output.splitlines() == [f"wrote {Path(folder) / path}" for path in example_paths()]
    for path in FILES:
        if not path.endswith(".ipynb"):
            assert (where / path).read_bytes() == (SOURCE / path).read_bytes()


def test_the_copies_are_what_the_notebooks_need(call, tmp_path):
    call("new")
    expected = {"quickstart.ipynb", "image_data.py", "data/hapt_sample.npz", "data/README.md", "sketching/sketching.ipynb"}
    expected |= {"tagging/tagger.py", "data/ewt_sample.conll.xz", "vision/classifier.py", "data/cifar10_sample.npz"}
    assert expected <= {*FILES}
    assert not [path for path in FILES if "__" in path or "/." in path]
    for path in FILES:
        if path.endswith((".ipynb", ".py")):
            assert not re.search(r"\]\([^)h][^)]*docs/", (tmp_path / "new" / path).read_text(encoding="utf-8"))


def test_overwrite_replaces_the_examples_and_nothing_else(call, tmp_path):
    call("new")
    (tmp_path / "new" / "quickstart.ipynb").write_text("changed")
    (tmp_path / "new" / "data" / "hapt_sample.npz").unlink()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    assert call("new", "--overwrite")[0] == 0
    assert held(tmp_path / "new") == sorted([*FILES, "mine.txt"])
    assert (tmp_path / "new" / "quickstart.ipynb").read_bytes() == (SOURCE / "quickstart.ipynb").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("taken",), "'taken' holds files. Choose another DIR, or pass --overwrite."),
        (("taken/mine.txt",), "Received a file: 'taken/mine.txt'"),
        (("taken/mine.txt", "--overwrite"), "Received a file: 'taken/mine.txt'"),
        (("link", "--overwrite"), "Received a file: 'link'"),
        (("taken", "--overwrite"), "a file in place of a folder: 'taken/data'"),
        (("other", "--overwrite"), "Received a folder in place of a file, or a file in place of a folder: 'other/execute.py'"),
        (("nowhere/new",), "Expected a DIR in an existing folder that can be written to. Received 'nowhere/new': No such file"),
        (("taken/mine.txt/new",), "Received 'taken/mine.txt/new': Not a directory"),
        (("",), "Expected a path"),
        ((), "Missing argument 'DIR'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, call, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "taken" / "data").write_text("mine")
    (tmp_path / "other" / "execute.py").mkdir(parents=True)
    (tmp_path / "link").symlink_to("nowhere")
    code, output, error = call(*arguments)
    assert (code, output) == (2, "")
    assert len(error.splitlines()) == 1
    assert message in error
    assert held(tmp_path) == ["taken/data", "taken/mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other", "taken"]


@pytest.mark.parametrize("arguments", [("new",), ("taken", "--overwrite")], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "could not write the examples: No space left on device: '"),
        (KeyboardInterrupt(), "keras-butterfly: interrupted"),
    ],
    ids=["full disk", "interrupt"],
)
def test_a_copy_that_stops_leaves_nothing(raised, message, arguments, call, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "quickstart.ipynb").write_text("mine")
    whole = Path.write_bytes

    def stopped(self, content):
        if self.name == "results.py":
            raise raised
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", stopped)
    code, _, error = call(*arguments)
    assert code == 1
    assert len(error.strip().splitlines()) == 1
    assert message in error
    assert held(tmp_path) == ["taken/quickstart.ipynb"]
    assert (tmp_path / "taken" / "quickstart.ipynb").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def packaged(package, folder):
    """Return the paths that setup.cfg puts into the wheel for a package in `folder`, beside the modules."""
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    patterns = re.split(r"[,\s]+", configuration["options.package_data"][package].strip())
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}


def test_the_wheel_holds_what_the_command_copies():
    modules = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert {*FILES} <= packaged("keras_butterfly_examples", ROOT / "examples") | modules


def test_the_citation_names_this_version_and_the_paper():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {keras_butterfly.__version__}\n" in citation
    assert "Sparse Linear Networks with a Fixed Butterfly Structure: Theory and Practice" in citation
