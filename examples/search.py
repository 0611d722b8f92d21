"""The search for the best value of a grid, such as that of learning rates."""

from collections.abc import Callable


def climb(grid: tuple[float, ...], start: float, accuracy: Callable[[float], float], margin: float = 0.0) -> float:
    """Try values of `grid`, going up and then down from `start`, and return the one with the highest accuracy.

    The search in a direction ends at a value that is worse than the best by at least `margin`, or no better if it is 0.
    """
    best = grid.index(start)
    for step in (1, -1):
        place = best + step
        while 0 <= place < len(grid) and accuracy(grid[place]) > accuracy(grid[best]) - margin:
            best = place if accuracy(grid[place]) > accuracy(grid[best]) else best
            place += step
    return grid[best]
