"""Transforms that are products of butterflies, as models of `Butterfly` layers with exact weights, ready to be trained on.

The Hadamard transform is one butterfly: `Butterfly(kernel_initializer="hadamard")`. The Fourier transform mixes complex
values; here a complex vector of n entries is 2 n real nodes, real and imaginary part side by side, and a complex twiddle
factor is a gadget of stride 1 that rotates the two. With the inputs in bit-reversed order each step of the fast Fourier
transform is a stage of stride 2^(t+1) and one of stride 1, so a butterfly with decreasing strides that elsewhere copies.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from .layers.butterfly import Butterfly
from .utils.validation import positive_integer

_SUM_AND_DIFFERENCE = np.array([[1.0, 1.0], [1.0, -1.0]])


def dft(n: int, *, trainable: bool = True) -> keras.Sequential:
    """The discrete Fourier transform of a real vector: `X[k] = sum_j x[j] exp(-2 pi i j k / n)`.

    A product of log2 n butterflies on 2 n nodes; multiply-adds 8 n log2 n if identity stages are skipped.

    Args:
        n: the number of inputs, a power of two, at least 4.
        trainable: of the layers.

    Returns:
        A built model (batch, n) -> (batch, 2 n): Re X[0], Im X[0], Re X[1], Im X[1], ..., in the global dtype policy.

    Raises:
        ValueError: if n is no power of two, or below 4.

    Reference: Cooley, Tukey, Math. Comp. 1965 (decimation in time).
    """
    _check_size(n)
    return _fourier(n, inputs=range(n), last=lambda k: _turn(0.0), outputs=range(2 * n), name="dft", trainable=trainable)


def dct(n: int, *, norm: str | None = "ortho", trainable: bool = True) -> keras.Sequential:
    """The cosine transform DCT-II: `X[k] = 2 sum_j x[j] cos(pi k (2 j + 1) / (2 n))`.

    The Fourier transform V of the inputs, even ones ascending and then odd ones descending, gives
    `X[k] = 2 Re(exp(-pi i k / (2 n)) V[k])`: a product of log2 n butterflies on 2 n nodes whose last stage turns V.

    Args:
        n: the number of inputs, a power of two, at least 4.
        norm: "ortho" (default): scaled to an orthogonal matrix, X[0] by sqrt(1 / (4 n)), the others by sqrt(1 / (2 n)).
            None or "backward": unscaled. As in `scipy.fft.dct`.
        trainable: of the layers.

    Returns:
        A built model (batch, n) -> (batch, n), in the global dtype policy.

    Raises:
        ValueError: if n is no power of two or below 4, or for another `norm`.

    Reference: Makhoul, IEEE Trans. ASSP 28, 1980; as a butterfly: Dao et al., ICML 2019, appendix.
    """
    _check_size(n)
    if norm not in ("ortho", "backward", None):
        raise ValueError(f'`norm` must be "ortho", "backward" or None. Received: norm={norm!r}')

    def last(k):
        return (2.0 if norm != "ortho" else np.sqrt((1 if k == 0 else 2) / n)) * _turn(np.pi * k / (2 * n))

    inputs = np.argsort([*range(0, n, 2), *range(n - 1, 0, -2)]).tolist()
    return _fourier(n, inputs=inputs, last=last, outputs=range(0, 2 * n, 2), name="dct", trainable=trainable)


def _fourier(
    n: int,
    *,
    inputs: Sequence[int],
    last: Callable[[int], np.ndarray],
    outputs: Sequence[int],
    name: str,
    trainable: bool,
) -> keras.Sequential:
    """The transform of the vector v with v[inputs[j]] = x[j], then the 2 x 2 matrix `last(k)` on (Re, Im) of entry k."""
    steps = n.bit_length() - 1
    entry = [2 * int(f"{position:0{steps}b}"[::-1], 2) for position in inputs]
    layers: list[Butterfly] = []
    for step in range(steps):
        turns = [last(k) if step == steps - 1 else _twiddle(k, step + 1) for k in range(n)]
        ends = {0: (2 * n, entry), steps - 1: (len(outputs), list(outputs))}
        units, truncation = ends.get(step, (2 * n, "first"))
        settings = {"truncation": truncation, "order": "decreasing", "use_bias": False, "trainable": trainable}
        layer = Butterfly(units, name=f"{name}_{step}", **settings)
        layer.build((None, 2 * n if layers else n))
        _assign(layer, {2 << step: np.broadcast_to(_SUM_AND_DIFFERENCE, (n, 2, 2)), 1: np.array(turns)})
        layers.append(layer)
    return keras.Sequential([keras.Input((n,)), *layers], name=name)


def _assign(layer: Butterfly, matrices: Mapping[int, np.ndarray]) -> None:
    """Sets the gadgets of the strides given, (N / 2, 2, 2) in the order (h, l) of matrices `out = matrix @ in`; others copy."""
    wiring, weights = layer.wiring, []
    for stage in wiring.stages:
        gadgets = matrices.get(stage.stride, np.broadcast_to(np.eye(2), (wiring.size // 2, 2, 2)))
        by_edge = gadgets.reshape(-1, stage.stride, 2, 2).transpose(0, 3, 2, 1)  # (h, l, o, i) -> (h, i, o, l)
        weights.append(by_edge.reshape(-1)[stage.edges])
    layer.set_gadget_weights(np.concatenate(weights)[None])


def _turn(angle: float) -> np.ndarray:
    """Multiplies by exp(-i angle), on (Re, Im)."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _twiddle(position: int, step: int) -> np.ndarray:
    """What `position` is multiplied by before `step` sums it with the entry 2^step below, or differs it."""
    stride = 1 << step
    return _turn(np.pi * (position % stride) / stride if position & stride else 0.0)


def _check_size(n: int) -> None:
    if positive_integer(n, "n") & (n - 1) or n < 4:
        raise ValueError(f"`n` must be a power of two, at least 4. Received: n={n}. Pad the input.")
