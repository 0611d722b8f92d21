"""Initial weights of a butterfly: FJLT, random orthogonal, identity, Hadamard.

Each draws one flat weight vector for a `Wiring`. All but `Identity` preserve the norm in the sense their docstrings state,
with the gain sqrt(N / outputs) where outputs are dropped, spread evenly over the stages so that no stage learns slower.
"""

import random
from typing import Any

import keras
import numpy as np

from ..structure.wiring import Wiring


class ButterflyInitializer(keras.initializers.Initializer):
    """Base: subclasses return the gadgets of one stage; this class gathers the effective weights of all stages.

    Args:
        seed: int or None. None draws a seed from Python's `random`, which `keras.utils.set_random_seed` fixes, at every
            call; an int gives the same weights at every call.
    """

    #: Whether two calls give different weights, without which several stacks would stay equal for ever.
    draws = True

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, wiring: Wiring, stacks: int = 1, dtype: Any = None, seed: int | None = None) -> np.ndarray:
        """Weights of a sum of `stacks` butterflies.

        Args:
            wiring: the butterfly's wiring.
            stacks: number of butterflies whose sum the layer computes; each is scaled by 1 / sqrt(stacks).
            dtype: of the result; float32 by default.
            seed: used where the initialiser has none of its own.

        Returns:
            (stacks, effective weights) array.
        """
        if stacks > 1 and not self.draws:
            raise ValueError(
                f"{type(self).__name__} gives every stack the same weights, which then learn the same. "
                f'Expected stacks=1 or a random initialiser ("fjlt", "orthogonal"). Received: stacks={stacks}'
            )
        seed = next((s for s in (self.seed, seed) if s is not None), None)
        rng = np.random.default_rng(random.randrange(2**31) if seed is None else seed)
        gain = self.gain(wiring) / np.sqrt(stacks)
        # Every path crosses each stage once, so the stages' gains multiply.
        gain **= 1 / max(len(wiring.strides), 1)
        return np.stack([gain * self._weights(wiring, rng) for _ in range(stacks)]).astype(dtype or "float32")

    def gain(self, wiring: Wiring) -> float:
        """sqrt(N / outputs): what keeps the expected norm when N - outputs nodes are dropped."""
        return float(np.sqrt(wiring.size / len(wiring.outputs)))

    def _weights(self, wiring: Wiring, rng: np.random.Generator) -> np.ndarray:
        weights = [np.zeros(0)]
        for t, (stage, stride) in enumerate(zip(wiring.stages, wiring.strides, strict=True)):
            gadgets = self.gadgets(wiring.size // (2 * stride), stride, rng)
            if t == 0:
                gadgets = gadgets * self.input_signs(wiring.size, rng).reshape(-1, 2, 1, stride)
            weights.append(gadgets.reshape(-1)[stage.edges])
        return np.concatenate(weights)

    def gadgets(self, blocks: int, stride: int, rng: np.random.Generator) -> np.ndarray:
        """All gadgets of one stage, (blocks, 2, 2, stride) in the order (h, i, o, l)."""
        raise NotImplementedError

    def input_signs(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """(N,) signs multiplied into the weights that leave the input nodes."""
        return np.ones(size)

    def get_config(self) -> dict:
        return {"seed": self.seed}


def _broadcast(gadget: list, blocks: int, stride: int) -> np.ndarray:
    return np.broadcast_to(np.array(gadget)[None, :, :, None], (blocks, 2, 2, stride))


@keras.saving.register_keras_serializable("keras_butterfly")
class Hadamard(ButterflyInitializer):
    """Every gadget [[1, 1], [1, -1]] / sqrt(2): together the normalised Walsh-Hadamard matrix, symmetric and orthogonal.

    Where outputs are dropped, its rows times sqrt(N / outputs).

    Deterministic; `seed` has no effect.
    """

    draws = False

    def gadgets(self, blocks, stride, rng):
        return _broadcast([[1.0, 1.0], [1.0, -1.0]], blocks, stride) / np.sqrt(2)


@keras.saving.register_keras_serializable("keras_butterfly")
class FJLT(Hadamard):
    """The fast Johnson-Lindenstrauss transform: sqrt(N / outputs) S H D.

    D is a random +-1 diagonal, absorbed into the first stage, H the normalised Hadamard matrix, S the choice of the kept
    outputs. E||Jx||^2 = ||x||^2 over the draw of D, for every x and every choice of inputs and outputs.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.1; Ailon, Chazelle, SIAM J. Comput. 2009.
    """

    draws = True

    def input_signs(self, size, rng):
        return rng.choice([-1.0, 1.0], size)


@keras.saving.register_keras_serializable("keras_butterfly")
class RandomOrthogonal(ButterflyInitializer):
    """Every gadget a rotation or a reflection, with equal chance, by an angle uniform in [0, 2 pi).

    The untruncated butterfly is orthogonal; truncated, E||Jx||^2 = ||x||^2.
    """

    def gadgets(self, blocks, stride, rng):
        angle = rng.uniform(0, 2 * np.pi, (blocks, stride))
        sign = rng.choice([-1.0, 1.0], (blocks, stride))
        rows = [[np.cos(angle), np.sin(angle)], [-sign * np.sin(angle), sign * np.cos(angle)]]
        return np.moveaxis(np.array(rows), (0, 1), (1, 2))


@keras.saving.register_keras_serializable("keras_butterfly")
class Identity(ButterflyInitializer):
    """Every gadget the identity: the layer copies each input node to the output of the same node, with no gain.

    Deterministic; `seed` has no effect.
    """

    draws = False

    def gain(self, wiring):
        return 1.0

    def gadgets(self, blocks, stride, rng):
        return _broadcast([[1.0, 0.0], [0.0, 1.0]], blocks, stride)


_NAMES: dict[str, type[ButterflyInitializer]] = {
    "fjlt": FJLT,
    "orthogonal": RandomOrthogonal,
    "identity": Identity,
    "hadamard": Hadamard,
}


def get(identifier):
    """An initialiser of butterfly weights from a name, a config, or an initialiser.

    Beside the four names ("fjlt", "orthogonal", "identity", "hadamard"), anything that `keras.initializers.get` takes is
    accepted and fills the flat weight vector without regard to its structure.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(identifier, str) and identifier.lower() in _NAMES:
        return _NAMES[identifier.lower()]()
    if isinstance(identifier, dict) and (identifier.get("registered_name") or "").startswith("keras_butterfly>"):
        return keras.saving.deserialize_keras_object(identifier)
    try:
        found = keras.initializers.get(identifier)
        if found is None:
            raise ValueError("None is no initialiser")
        return found
    except ValueError as error:
        raise ValueError(
            f"Expected one of {tuple(_NAMES)}, a ButterflyInitializer, or what keras.initializers.get accepts. "
            f"Received: {identifier!r}"
        ) from error
