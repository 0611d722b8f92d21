"""What a compressed model has to meet: a latency, a size, an accuracy, or several of them."""

from dataclasses import dataclass

from keras_butterfly.utils.validation import positive_number

# The largest round-off of the difference of two scores: 1 - 0.99 is a little more than 0.01.
ROUND_OFF = 1e-9


class TargetError(ValueError):
    """The error that no model found meets the targets. The message names the nearest model and its figures.

    Attributes:
        compression: the `Compression` with all models that were tried. Its pick is the nearest.
    """

    exit_code = 1

    def __init__(self, message: str, compression=None):
        super().__init__(message)
        self.compression = compression


@dataclass(frozen=True)
class Targets:
    """The limits that a compressed model has to keep. A limit that is None does not count.

    Attributes:
        latency: largest median latency, in seconds.
        size: largest file, in bytes.
        drop: largest difference of the original's score and the model's.

    Raises:
        ValueError: if a limit is out of range, or all are None.
    """

    latency: float | None = None
    size: float | None = None
    drop: float | None = None

    def __post_init__(self):
        if self.latency is None and self.size is None and self.drop is None:
            raise ValueError("Expected at least one target: a latency, a size or an accuracy drop. Received: none")
        for name, value in (("target_latency", self.latency), ("target_size", self.size)):
            if value is not None:
                positive_number(value, name)
        if self.drop is not None and self.drop != 0:
            positive_number(self.drop, "max_accuracy_drop", "0 or ")

    @property
    def limits_cost(self) -> bool:
        """Whether the latency or the size is limited. If only the score is, the fastest model is wanted."""
        return self.latency is not None or self.size is not None

    @property
    def only_size(self) -> bool:
        """Whether the size counts, and the latency does not."""
        return self.size is not None and self.latency is None

    def load(self, seconds: float, size_bytes: float) -> float:
        """Return how much of its limits a model uses: 1 if it just keeps them. If no cost is limited, it is the seconds."""
        if not self.limits_cost:
            return seconds
        parts = [cost / limit for cost, limit in ((seconds, self.latency), (size_bytes, self.size)) if limit is not None]
        return max(parts)

    def costs(self, seconds: float, size_bytes: float) -> tuple[float, ...]:
        """Return those of the two costs that count: the limited ones, or else the seconds."""
        if not self.limits_cost:
            return (seconds,)
        return tuple(cost for cost, limit in ((seconds, self.latency), (size_bytes, self.size)) if limit is not None)

    def excess(self, seconds: float, size_bytes: float, drop: float) -> float:
        """Return by how much a model misses the targets: 0 if it meets all of them.

        It is the larger of two numbers: the load above 1, and the drop of the score beyond the limit.
        """
        beyond_cost = max(0.0, self.load(seconds, size_bytes) - 1) if self.limits_cost else 0.0
        beyond_drop = 0.0 if self.drop is None else drop - self.drop
        return max(beyond_cost, beyond_drop if beyond_drop > ROUND_OFF else 0.0)

    def __str__(self) -> str:
        parts = []
        if self.latency is not None:
            parts.append(f"at most {_shown(self.latency * 1e6)} us")
        if self.size is not None:
            parts.append(f"at most {_shown(self.size / 1024)} KiB")
        if self.drop is not None:
            parts.append(f"at most {self.drop:g} below the original")
        return ", ".join(parts)


def _shown(limit: float) -> str:
    """Return a limit as a text: with one decimal, or below 0.1 with two digits."""
    return f"{limit:,.1f}" if limit >= 0.1 else f"{limit:.2g}"
