"""Copy the notebooks of examples/ into the documentation, so that git holds each of them once."""

import re
from pathlib import Path

FOLDER = "notebooks"


def copy(docs: Path) -> None:
    """Copy every notebook of the folder examples/ beside `docs` to `docs`/notebooks, which git ignores.

    Links to a page of docs/ are adapted to the new place. A copy that has not changed is not written again, so that Sphinx
    does not read it again.
    """
    target = docs / FOLDER
    target.mkdir(exist_ok=True)
    sources = sorted((docs.parent / "examples").rglob("*.ipynb"))
    sources = [source for source in sources if ".ipynb_checkpoints" not in source.parts]
    for stale in set(target.glob("*.ipynb")) - {target / source.name for source in sources}:
        stale.unlink()
    for source in sources:
        content = re.sub(r"\]\((?:\.\./)+docs/", "](../", source.read_text(encoding="utf-8"))
        copied = target / source.name
        if not copied.exists() or copied.read_text(encoding="utf-8") != content:
            copied.write_text(content, encoding="utf-8")
