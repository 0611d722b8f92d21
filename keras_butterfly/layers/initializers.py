"""Initializers of a butterfly's weights: Glorot, FJLT, random orthogonal, identity, Hadamard.

Each returns the flat weight vector of a `Wiring`, times a gain. Glorot's gain gives the outputs the variance that Keras's
`Dense` gives them. The gain of FJLT, random orthogonal and Hadamard weights is sqrt(N / outputs), which keeps the norm of the
inputs if only some of the N nodes are outputs. Every stage gets the same part of the gain, because a stage with larger weights
would learn more slowly.
"""

import random
from functools import reduce
from typing import Any

import keras
import numpy as np

from ..structure.wiring import Wiring

__all__ = ["FJLT", "ButterflyInitializer", "Glorot", "Hadamard", "Identity", "RandomOrthogonal", "get"]


class ButterflyInitializer(keras.initializers.Initializer):
    """Base class of initializers that set a butterfly's weights stage by stage.

    A subclass implements `gadgets`, which returns all gadgets of one stage. This class picks the effective weights from them.

    Args:
        seed: int or None. An int gives the same weights at every call. None draws another seed at every call, from Python's
            `random`, which `keras.utils.set_random_seed` fixes.

    Example:
        >>> class Means(initializers.ButterflyInitializer):
        ...     draws = False
        ...     def gadgets(self, blocks, radix, stride, rng):
        ...         return np.full((blocks, radix, radix, stride), 1 / radix)
        >>> layer = Butterfly(kernel_initializer=Means())
        >>> layer.build((None, 16))
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.kernel), 1 / 16))
        True
    """

    # Whether the weights are random. Stacks with equal initial weights would get equal gradients and stay equal.
    draws = True

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, wiring: Wiring, stacks: int = 1, dtype: Any = None, seed: int | None = None) -> np.ndarray:
        """Return the initial weights of `stacks` butterflies, an array (stacks, effective weights).

        Args:
            wiring: the structure of each butterfly.
            stacks: number of butterflies whose sum the layer computes. Each is scaled by 1 / sqrt(stacks).
            dtype: dtype of the result. Default: float32.
            seed: seed that is used if the initializer was made without one.

        Raises:
            ValueError: for more than one stack if the weights are not random.
        """
        if stacks > 1 and not self.draws:
            raise ValueError(
                f"{type(self).__name__} gives every stack the same weights, so the stacks would stay equal in training. "
                f'Expected stacks=1 or a random initializer ("glorot", "fjlt", "orthogonal"). Received: stacks={stacks}'
            )
        seed = seed if self.seed is None else self.seed
        rng = np.random.default_rng(random.randrange(2**31) if seed is None else seed)
        gain = self.gain(wiring) / np.sqrt(stacks)
        # The gains of the stages multiply, because every path crosses each stage once.
        gain **= 1 / max(len(wiring.strides), 1)
        return np.stack([gain * self._weights(wiring, rng) for _ in range(stacks)]).astype(dtype or "float32")

    def gain(self, wiring: Wiring) -> float:
        """Return sqrt(N / outputs), the factor that keeps the expected norm if only some of the N nodes are outputs."""
        return float(np.sqrt(wiring.size / len(wiring.outputs)))

    def _weights(self, wiring: Wiring, rng: np.random.Generator) -> np.ndarray:
        """Return the effective weights of one butterfly, (effective weights,), without the gain."""
        weights = [np.zeros(0)]
        for t, stage in enumerate(wiring.stages):
            gadgets = self.gadgets(wiring.size // (stage.radix * stage.stride), stage.radix, stage.stride, rng)
            if t == 0:
                gadgets = gadgets * self.input_signs(wiring.size, rng).reshape(-1, stage.radix, 1, stage.stride)
            weights.append(gadgets.reshape(-1)[stage.edges])
        return np.concatenate(weights)

    def gadgets(self, blocks: int, radix: int, stride: int, rng: np.random.Generator) -> np.ndarray:
        """Return all gadgets of one stage, (blocks, radix, radix, stride) in the order (h, i, o, l)."""
        raise NotImplementedError

    def input_signs(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return a factor for each input node, (N,), by which the first stage's weights from that node are multiplied."""
        return np.ones(size)

    def get_config(self) -> dict:
        return {"seed": self.seed}


def _broadcast(gadget: np.ndarray, blocks: int, stride: int) -> np.ndarray:
    """Return the gadgets of one stage, (blocks, r, r, stride), that all equal the r x r matrix `gadget`."""
    return np.broadcast_to(gadget[None, :, :, None], (blocks, *gadget.shape, stride))


@keras.saving.register_keras_serializable("keras_butterfly")
class Hadamard(ButterflyInitializer):
    """An initializer that makes the butterfly the normalized Walsh-Hadamard matrix, which is symmetric and orthogonal.

    Every gadget is the normalized Walsh-Hadamard matrix of its radix, [[1, 1], [1, -1]] / sqrt(2) for radix 2. If only some
    nodes are outputs, the map is their rows of the matrix, times sqrt(N / outputs). The weights are not random, so `seed` has
    no effect.

    Raises:
        ValueError: if a radix is not a power of two.

    Example:
        >>> layer = Butterfly(radix=2, kernel_initializer=initializers.Hadamard())
        >>> layer.build((None, 4))
        >>> np.rint(2 * keras.ops.convert_to_numpy(layer.kernel)).astype(int).tolist()
        [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """

    draws = False

    def gadgets(self, blocks, radix, stride, rng):
        if radix & (radix - 1):
            raise ValueError(
                f"{type(self).__name__} expects radices that are powers of two. Received: a stage of radix {radix}. Take "
                'kernel_initializer="glorot".'
            )
        return _broadcast(_hadamard(radix) / np.sqrt(radix), blocks, stride)


@keras.saving.register_keras_serializable("keras_butterfly")
class FJLT(Hadamard):
    """An initializer that makes the butterfly a fast Johnson-Lindenstrauss transform J = sqrt(N / outputs) S H D.

    D is a random +-1 diagonal, multiplied into the first stage, H the normalized Hadamard matrix, S the selection of the
    outputs. E||Jx||^2 = ||x||^2 over the draw of D, for every x and every choice of inputs and outputs.

    A stage whose radix is not a power of two has random orthogonal gadgets instead. The expectation stays the same.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.1; Ailon, Chazelle, SIAM J. Comput. 2009.

    Example:
        >>> layer = Butterfly(4, kernel_initializer=initializers.FJLT(seed=0))
        >>> layer.build((None, 16))
        >>> bool(np.allclose(np.abs(keras.ops.convert_to_numpy(layer.kernel)), 0.5))
        True
    """

    draws = True

    def gadgets(self, blocks, radix, stride, rng):
        if radix & (radix - 1):
            return _random_gadgets(blocks, radix, stride, rng)
        return super().gadgets(blocks, radix, stride, rng)

    def input_signs(self, size, rng):
        return rng.choice([-1.0, 1.0], size)


@keras.saving.register_keras_serializable("keras_butterfly")
class RandomOrthogonal(ButterflyInitializer):
    """An initializer that makes every gadget a random orthogonal matrix, so that a full butterfly J is orthogonal.

    The matrices are uniform (Haar measure) up to the signs of their columns, which make the diagonal positive: every node keeps
    a part of its own value. With radix 4, networks that started so were more accurate. The page Design of the documentation has
    the figures. For a truncated butterfly E||Jx||^2 = ||x||^2.

    Example:
        >>> layer = Butterfly(kernel_initializer=initializers.RandomOrthogonal(seed=0))
        >>> layer.build((None, 16))
        >>> kernel = keras.ops.convert_to_numpy(layer.kernel)
        >>> bool(np.allclose(kernel.T @ kernel, np.eye(16), atol=1e-6))
        True
    """

    def gadgets(self, blocks, radix, stride, rng):
        return _random_gadgets(blocks, radix, stride, rng)


@keras.saving.register_keras_serializable("keras_butterfly")
class Glorot(RandomOrthogonal):
    """The default initializer of `Butterfly`: random orthogonal gadgets, scaled as the kernel of Keras's `Dense` is.

    The outputs start with the variance that a `Dense` layer with "glorot_uniform" gives them: for n inputs and m outputs
    E||Jx||^2 = 2 m / (n + m) ||x||^2. So a final layer with few outputs starts with small logits. With as many outputs as
    inputs J keeps the norm, and with N of each it is orthogonal.

    Reference: Glorot, Bengio, AISTATS 2010, equation 12.

    Example:
        >>> layer = Butterfly(4, kernel_initializer=initializers.Glorot(seed=0))
        >>> layer.build((None, 16))
        >>> kernel = keras.ops.convert_to_numpy(layer.kernel)  # four orthogonal columns of squared norm 2 * 16 / (16 + 4)
        >>> bool(np.allclose(kernel.T @ kernel, 1.6 * np.eye(4), atol=1e-6))
        True
    """

    def gain(self, wiring):
        return float(np.sqrt(2 * wiring.size / (len(wiring.inputs) + len(wiring.outputs))))


@keras.saving.register_keras_serializable("keras_butterfly")
class Identity(ButterflyInitializer):
    """An initializer that makes every gadget the identity, so that the layer copies each input to the output at its node.

    The gain is 1. The weights are not random, so `seed` has no effect.

    Example:
        >>> layer = Butterfly(kernel_initializer=initializers.Identity())
        >>> layer.build((None, 16))
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.kernel), np.eye(16)))
        True
    """

    draws = False

    def gain(self, wiring):
        return 1.0

    def gadgets(self, blocks, radix, stride, rng):
        return _broadcast(np.eye(radix), blocks, stride)


def _hadamard(size: int) -> np.ndarray:
    """Return the Walsh-Hadamard matrix of a power of two, with entries 1 and -1 (Sylvester's construction)."""
    return reduce(np.kron, [np.array([[1.0, 1.0], [1.0, -1.0]])] * (size.bit_length() - 1))


def _random_gadgets(blocks: int, radix: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Return random orthogonal gadgets with positive diagonals, (blocks, r, r, stride) in the order (h, i, o, l)."""
    q, _ = np.linalg.qr(rng.standard_normal((blocks, stride, radix, radix)))
    diagonal = np.diagonal(q, axis1=2, axis2=3)
    # A column's sign is that of an output, which no norm depends on.
    return np.moveaxis(q * np.where(diagonal < 0, -1.0, 1.0)[:, :, None, :], 1, 3)


_NAMES: dict[str, type[ButterflyInitializer]] = {
    "glorot": Glorot,
    "fjlt": FJLT,
    "orthogonal": RandomOrthogonal,
    "identity": Identity,
    "hadamard": Hadamard,
}


def get(identifier):
    """Return the initializer of butterfly weights for a name, a config or an initializer.

    Args:
        identifier: "glorot", "fjlt", "orthogonal", "identity", "hadamard", the config of a `ButterflyInitializer`, or
            anything that `keras.initializers.get` takes. Initializers of Keras fill the flat weight vector as any other vector.

    Raises:
        ValueError: for anything else.

    Example:
        >>> type(initializers.get("fjlt")).__name__
        'FJLT'
    """
    if isinstance(identifier, str) and identifier.lower() in _NAMES:
        return _NAMES[identifier.lower()]()
    if isinstance(identifier, dict) and (identifier.get("registered_name") or "").startswith("keras_butterfly>"):
        return keras.saving.deserialize_keras_object(identifier)
    try:
        found = keras.initializers.get(identifier)
        if found is None:
            raise ValueError("None is not an initializer.")
        return found
    except ValueError as error:
        raise ValueError(
            f"Expected one of {tuple(_NAMES)}, a ButterflyInitializer, or what keras.initializers.get accepts. "
            f"Received: {identifier!r}"
        ) from error
