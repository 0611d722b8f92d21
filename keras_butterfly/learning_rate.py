"""The learning rate of butterfly weights, relative to the rate at which the optimizer trains everything else.

A butterfly has few weights and each lies on many paths, so a step of the usual size moves its matrix too little. Keras has no
learning rate per variable. A layer therefore stores `used / adaptive` and computes with `used`, so that a step of Adam, which is as
long as the learning rate whatever the gradient, moves `used` `adaptive` times as far. The gradient of the stored values is
scaled on its own, so that a step of SGD, which is proportional to the gradient, moves `used` `sgd` times as far.
"""

from dataclasses import dataclass

from keras import ops

# Found by experiment at widths from 64 to 1024; docs/learning_rate.md has the figures.
ADAPTIVE = 10.0
SGD = 1.0


@dataclass(frozen=True)
class Multipliers:
    """Two factors on the learning rate of a butterfly's weights.

    Attributes:
        adaptive: the factor for optimizers that normalise gradients, such as Adam, AdamW and RMSprop.
        sgd: the factor for optimizers whose step is proportional to the gradient: SGD, with or without momentum.
    """

    adaptive: float
    sgd: float


def multipliers(stacks: int, fixed: float | None = None) -> Multipliers:
    """Return the learning rate multipliers of the weights of a sum of `stacks` butterflies.

    Args:
        stacks: number of butterflies whose sum the layer computes. Their steps add up, so each takes 1 / sqrt(stacks) of the rate.
        fixed: the user's `lr_multiplier`. A number is used for every optimizer as it is; None means the rule.
    """
    if fixed is not None:
        return Multipliers(fixed, fixed)
    return Multipliers(ADAPTIVE / stacks**0.5, SGD / stacks**0.5)


def used(stored, factors: Multipliers):
    """Return `factors.adaptive * stored`, with a gradient that is `factors.sgd / factors.adaptive` times that of the result."""
    stored, slope = ops.convert_to_tensor(stored), factors.sgd / factors.adaptive
    if factors.adaptive == slope:
        return slope * stored if slope != 1 else stored
    return slope * stored + ops.stop_gradient((factors.adaptive - slope) * stored)
