"""The search for the best value of a grid, such as that of learning rates."""

from collections.abc import Callable


def climb(grid: tuple[float, ...], start: float, accuracy: Callable[[float], float]) -> float:
    """Return the value of `grid` where `accuracy(value)` has its first maximum, going up or down from `start`."""
    best = grid.index(start)
    for step in (1, -1):
        while 0 <= best + step < len(grid) and accuracy(grid[best + step]) > accuracy(grid[best]):
            best += step
    return grid[best]
