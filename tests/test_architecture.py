"""The map in CONTRIBUTING names every module, and a folder imports only the folders below it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top floor to the ground floor. What stands left of another may import it, never the reverse.
FLOORS = {
    "keras_butterfly": (
        "autoencoder",
        "sketching",
        "model_summary",
        "compression",
        "transforms",
        "layers",
        "structure",
        "utils",
    ),
    "export": (
        "compression",
        "convert",
        "diagnosis",
        "model",
        "card",
        "explanation",
        "planning",
        "preparation",
        "measurement",
        "tflite",
        "lowering",
        "files",
    ),
}


def mapped() -> set[str]:
    """The modules that the map names, as paths from the root."""
    block = re.search(r"## What each file is for\n\n((?:    .*\n|\n)+)", (ROOT / "CONTRIBUTING.md").read_text()).group(1)
    paths, folders = set(), {}
    for line in block.splitlines():
        match = re.match(r"( +)([a-z0-9_]+(?:/|\.py))(?:\s|$)", line)
        if match:
            depth, name = len(match[1]), match[2]
            above = max((each for each in folders if each < depth), default=None)
            path = (folders[above] if above is not None else "") + name
            folders = {each: folder for each, folder in folders.items() if each < depth}
            if name.endswith("/"):
                folders[depth] = path
            else:
                paths.add(path)
    return paths


def modules(top: str) -> list[Path]:
    return [path for path in (ROOT / top).rglob("*.py") if not path.name.startswith("_")]


@cache
def imported(path: Path) -> set[str]:
    """The modules of this repository that a file imports anywhere in it, by dotted names from the root."""
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join([*start, alias.name]) for alias in node.names}
    return {re.sub(r"^keras_butterfly\.export\b", "export", name) for name in names}


@pytest.mark.parametrize("top", FLOORS)
def test_the_map_names_every_module(top):
    found = {path.relative_to(ROOT).as_posix() for path in modules(top)}
    assert {path for path in mapped() if path.startswith(f"{top}/")} == found


@pytest.mark.parametrize("top", FLOORS)
def test_folders_import_only_those_below_them(top):
    floors = FLOORS[top]
    for path in modules(top):
        floor = path.relative_to(ROOT / top).with_suffix("").parts[0]
        if floor == "cli":
            continue
        above = floors[: floors.index(floor)]
        wrong = [name for name in imported(path) if name.startswith(tuple(f"{top}.{each}." for each in above))]
        assert not wrong, f"{path} imports {wrong}"


def test_the_layers_import_no_export():
    wrong = [
        (path, name)
        for path in modules("keras_butterfly")
        for name in imported(path)
        if name.startswith(("export.", "tensorflow"))
    ]
    assert not wrong


def test_no_two_modules_import_each_other():
    """See that imports form no cycle, those inside functions counted too."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for top in FLOORS for path in modules(top)}
    needs = {
        name: {other for other in names if any(f"{each}.".startswith(f"{other}.") for each in imported(path))} - {name}
        for name, path in names.items()
    }
    while ready := {name for name, others in needs.items() if not others}:
        needs = {name: others - ready for name, others in needs.items() if name not in ready}
    assert not needs, f"these import each other in a circle: {sorted(needs)}"
