"""The learning rate of butterfly weights, relative to the rate at which the optimizer trains everything else.

A butterfly has few weights and each lies on many paths, so a step of the usual size changes its matrix too little. Keras has no
learning rate per variable. A layer therefore stores `used / adaptive`, and computes with `used`. The length of a step of Adam
is the learning rate, whatever the gradient, so such a step changes `used` `adaptive` times as much. The step of SGD is
proportional to the gradient. The gradient of the stored values is scaled too, so that such a step changes `used` `sgd` times as
much.
"""

from dataclasses import dataclass

from keras import ops

from ..structure.wiring import Wiring, padded_size

# Found by experiment at widths from 64 to 4096. docs/layers.md and docs/design.md have the figures.
ADAPTIVE = 2.7
SGD = 0.5


@dataclass(frozen=True)
class Multipliers:
    """Multipliers are the two factors on the learning rate of a butterfly's weights.

    Attributes:
        adaptive: the factor for optimizers that normalize gradients, such as Adam, AdamW and RMSprop.
        sgd: the factor for optimizers whose step is proportional to the gradient: SGD, with or without momentum.
    """

    adaptive: float
    sgd: float


def multipliers(wiring: Wiring, stacks: int = 1, fixed: float | None = None) -> Multipliers:
    """Return the two factors on the learning rate of a butterfly's weights: for optimizers like Adam, and for SGD.

    The rule is `adaptive = 2.7 (N / f)^(1/3) / sqrt(spread)` and `sgd = 0.5 (ell / f)^(1/3)`. N is the number of nodes, ell the
    smaller of inputs and outputs, and f the sum of the radices, 2 m for m stages of radix 2. For 1024 nodes `adaptive` is 10 if
    the radix is 2 or 4, and 6.8 for radices 32, 32. `spread` is N divided by the next power of two of the number of inputs. It
    is 1 unless the layer widens its input beyond that power of two. The first stages of such a layer have few weights, and
    each of them moves many outputs.

    Without the cube roots a step would move an output as far as it does in Dense: all N inputs of an output of Dense move by
    one step of Adam, and the r inputs of a node in each stage of radix r, which are f in sum. The best rates in experiments
    grow more slowly, about as the cube root. With SGD training is stable up to a factor that grows so too. Both factors are
    divided by sqrt(stacks), because the steps of the stacks add up.

    Args:
        wiring: the structure of each butterfly.
        stacks: number of butterflies whose sum the layer computes.
        fixed: the user's `lr_multiplier`. A number is used for every optimizer as it is. None means the rule.
    """
    if fixed is not None:
        return Multipliers(fixed, fixed)
    n, ell = len(wiring.inputs), min(len(wiring.inputs), len(wiring.outputs))
    fan_ins = max(sum(wiring.radices), 2)
    spread = max(1.0, wiring.size / padded_size(n))
    adaptive, sgd = ADAPTIVE * (wiring.size / fan_ins) ** (1 / 3), SGD * (ell / fan_ins) ** (1 / 3)
    return Multipliers(adaptive / (spread * stacks) ** 0.5, sgd / stacks**0.5)


def used_weights(stored, factors: Multipliers):
    """Return `adaptive * stored`, whose gradient in `stored` is `sgd / adaptive` times the gradient of the result."""
    stored, slope = ops.convert_to_tensor(stored), factors.sgd / factors.adaptive
    # The first term has the value and no gradient. The second term is exactly zero and has the gradient.
    return ops.stop_gradient(factors.adaptive * stored) + slope * (stored - ops.stop_gradient(stored))
