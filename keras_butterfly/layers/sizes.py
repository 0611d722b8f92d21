"""The largest sizes of layers. A larger number is most likely a mistake, and would take hours or all memory before it fails."""

from ..utils.validation import integer_up_to

MAX_UNITS = 2**24
# The most butterflies, or pairs of them, in one layer. Long before, they have more weights than a dense kernel.
MAX_BUTTERFLIES = 1024


def check_size(value, name: str, most: int = MAX_UNITS) -> int:
    """Return `value` as an int.

    Raises:
        ValueError: if it is not an integer from 1 to `most`. The message calls it `name`.
    """
    return integer_up_to(value, name, most)


def check_stacks(value) -> int:
    """Return the number of butterflies that a `Butterfly` sums, as an int.

    Raises:
        ValueError: as `check_size`.
    """
    return check_size(value, "stacks", MAX_BUTTERFLIES)
