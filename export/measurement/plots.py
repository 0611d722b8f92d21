"""What all plots share: the file formats, the colors, and labels that show names as they are."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp", ".eps", ".ps")
# The palette of Okabe and Ito, which color-blind readers can tell apart. Its yellow is left out, because it is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def colors(names: Iterable[str]) -> dict[str, str]:
    """Return the color of each name. If there are more names than colors, the colors repeat."""
    return dict(zip(names, cycle(COLORS), strict=False))


def check_picture(path) -> None:
    """Check that `path` ends in one of the picture formats.

    Raises:
        ValueError: if it does not. The message lists the formats.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"Expected a path that ends in a picture format: {', '.join(FORMATS)}. Received: '{path}'")


def literal(text: str) -> str:
    """Return `text` so changed that matplotlib shows it: dollar signs escaped, question marks for what is no UTF-8."""
    return text.encode(errors="replace").decode().replace("$", r"\$")
