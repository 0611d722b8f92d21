"""What is common to all plots: the formats they are written in, and labels that show names as they are."""

from pathlib import Path

FORMATS = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp", ".eps", ".ps")


def check_picture(path) -> None:
    """Check that `path` ends in a format of pictures.

    Raises:
        ValueError: naming the formats.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"Expected a path that ends in a picture format, {', '.join(FORMATS)}. Received: '{path}'")


def literal(text: str) -> str:
    """Return `text` as matplotlib shows it letter by letter: a pair of dollar signs would start a formula."""
    return text.replace("$", r"\$")
