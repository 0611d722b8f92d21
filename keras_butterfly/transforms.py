"""Models of `Butterfly` layers that compute the Fourier and the cosine transform exactly and can be trained further.

(The Hadamard transform is a single layer, `Butterfly(kernel_initializer="hadamard")`. The Fourier transform of real inputs is a
single layer too, with two stages and two stacks, `real_dft`.)

A complex vector of n entries is held in 2 n real nodes, each real part next to its imaginary part. Multiplying an entry by a
complex twiddle factor rotates the pair, which a gadget of stride 1 does. If the inputs are in bit-reversed order, step t of the
fast Fourier transform is a stage of stride 2^(t+1) and a stage of stride 1. Each step is therefore one butterfly of decreasing
strides, whose other stages copy their inputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from .layers.butterfly import Butterfly
from .utils.validation import positive_integer

__all__ = ["dct", "dft", "real_dft", "real_dft_order"]

_SUM_AND_DIFFERENCE = np.array([[1.0, 1.0], [1.0, -1.0]])


def dft(n: int, *, trainable: bool = True) -> keras.Sequential:
    """Return a model that computes the discrete Fourier transform of real vectors: `X[k] = sum_j x[j] exp(-2 pi i j k / n)`.

    The model is a product of log2 n butterflies on 2 n nodes. If the stages that copy are skipped, it takes 8 n log2 n
    multiply-adds.

    Args:
        n: number of inputs, a power of two, at least 4.
        trainable: whether the layers can be trained.

    Returns:
        A built model (batch, n) -> (batch, 2 n), in the global dtype policy. The outputs are Re X[0], Im X[0], Re X[1],
        Im X[1], ...

    Raises:
        ValueError: if n is not a power of two, or below 4.

    Reference: Cooley, Tukey, Math. Comp. 1965 (decimation in time).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(1, 8)).astype("float32")
        >>> y = keras.ops.convert_to_numpy(transforms.dft(8)(x))
        >>> bool(np.allclose(y[:, ::2] + 1j * y[:, 1::2], np.fft.fft(x), atol=1e-5))
        True
    """
    _check_size(n)
    return _fourier(
        n, inputs=range(n), last_step=lambda k: _rotation(0.0), outputs=range(2 * n), name="dft", trainable=trainable
    )


def dct(n: int, *, norm: str | None = "ortho", trainable: bool = True) -> keras.Sequential:
    """Return a model that computes the cosine transform DCT-II: `X[k] = 2 sum_j x[j] cos(pi k (2 j + 1) / (2 n))`.

    Let V be the Fourier transform of the inputs in another order: the even ones ascending, then the odd ones descending. Then
    `X[k] = 2 Re(exp(-pi i k / (2 n)) V[k])`. So the model is a product of log2 n butterflies on 2 n nodes, whose last stage
    rotates the entries of V.

    Args:
        n: number of inputs, a power of two, at least 4.
        norm: as in `scipy.fft.dct`. "ortho" (default) scales X[0] by sqrt(1 / (4 n)) and the other entries by
            sqrt(1 / (2 n)), so that the matrix is orthogonal. None and "backward" do not scale.
        trainable: whether the layers can be trained.

    Returns:
        A built model (batch, n) -> (batch, n), in the global dtype policy.

    Raises:
        ValueError: if n is not a power of two or below 4, or if `norm` is unknown.

    Reference: Makhoul, IEEE Trans. ASSP 28, 1980; as a butterfly: Dao et al., ICML 2019, appendix.

    Example:
        >>> y = keras.ops.convert_to_numpy(transforms.dct(4)(np.ones((1, 4), "float32")))
        >>> bool(np.allclose(y, [[2, 0, 0, 0]], atol=1e-6))
        True
    """
    _check_size(n)
    _check_norm(norm)

    def last_step(k):
        return (2.0 if norm != "ortho" else np.sqrt((1 if k == 0 else 2) / n)) * _rotation(np.pi * k / (2 * n))

    inputs = np.argsort([*range(0, n, 2), *range(n - 1, 0, -2)]).tolist()
    return _fourier(n, inputs=inputs, last_step=last_step, outputs=range(0, 2 * n, 2), name="dct", trainable=trainable)


def real_dft(n: int, *, norm: str | None = "ortho", window=None, trainable: bool = True, name: str | None = None) -> Butterfly:
    """Return a single layer that computes the discrete Fourier transform of real inputs: n inputs, n outputs.

    With n = r1 r2, j = r2 j1 + j2 and k = k1 + r1 k2, Cooley and Tukey's transform has two stages. Each path multiplies two
    unit complex numbers of angles a and b, and `cos(a + b) = cos(a) cos(b) - sin(a) sin(b)` is the sum of two paths of real
    numbers. So the layer is the sum of two butterflies (`stacks=2`) of two stages of radices r1 and r2.

    Weights: 2 n (r1 + r2), about 4 n sqrt(n). For n = 256 they are 16,384, a quarter of those of a dense matrix.

    Args:
        n: number of inputs, no prime number, at least 4. r1 and r2 are its divisors that are nearest to sqrt(n).
        norm: "ortho" (default) divides the transform by sqrt(n). None and "backward" do not scale. As in `numpy.fft.rfft`.
        window: None, or n numbers by which the inputs are multiplied before the transform. They become a part of the weights.
        trainable: whether the layer can be trained.
        name: name of the layer.

    Returns:
        A built layer without bias, (..., n) -> (..., n), in the global dtype policy. Output i is that part of the transform X
        which `real_dft_order(n)[i]` numbers: k from 0 to n / 2 means Re X[k], and k above n / 2 means Im X[n - k].

    Raises:
        ValueError: if n is prime or below 4, if `norm` is unknown, or if `window` does not hold n numbers.

    Reference: Cooley, Tukey, Math. Comp. 1965; the order of the parts is FFTW's "halfcomplex" format.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(1, 16)).astype("float32")
        >>> y = keras.ops.convert_to_numpy(transforms.real_dft(16, norm=None)(x))[:, np.argsort(transforms.real_dft_order(16))]
        >>> bool(np.allclose(y[:, :9], np.fft.rfft(x).real, atol=1e-5))
        True
    """
    columns = _two_factors(n)[1]
    _check_norm(norm)
    window = np.ones(n) if window is None else np.asarray(window, float)
    if window.shape != (n,):
        raise ValueError(f"`window` must be None or hold {n} numbers, one for each input. Received: shape {window.shape}")
    settings = {"order": "decreasing", "use_bias": False, "trainable": trainable, "name": name}
    layer = Butterfly(n, radix=_two_factors(n), stacks=2, **settings)
    layer.build((None, n))
    j, k = np.arange(n), real_dft_order(n)
    k1 = k[::columns]  # of each block of outputs
    first = np.exp(-2j * np.pi * np.outer(j, k1) / n) * (window / (np.sqrt(n) if norm == "ortho" else 1.0))[:, None]
    # A factor of i turns Re X[k] to -Im X[k], which is Im X[n - k].
    phase = np.where(k > n / 2, 1j, 1.0).reshape(-1, 1, columns)
    inner = np.exp(-2j * np.pi * np.outer(np.arange(columns), np.arange(columns)) / columns) * phase  # (k1, j2, k2)
    # The first stage still lacks the part of the angle j2 k2 / r2 that does not depend on j1: it is the second stage's.
    outer = first.reshape(-1, columns, len(k1)).transpose(0, 2, 1)  # (j1, k1, j2)
    stacks = [(outer.real, inner.real), (-outer.imag, inner.imag)]
    layer.set_gadget_weights(np.stack([np.concatenate([one.reshape(-1), two.reshape(-1)]) for one, two in stacks]))
    return layer


def real_dft_order(n: int) -> np.ndarray:
    """Return the number k of each output of `real_dft(n)`, an array (n,) that holds 0 .. n - 1 in another order.

    Re X[k] has the number k, from 0 to n / 2. Im X[k] has the number n - k.

    Raises:
        ValueError: if n is prime or below 4.

    Example:
        >>> transforms.real_dft_order(4).tolist()
        [0, 2, 1, 3]
    """
    rows, columns = _two_factors(n)
    return np.add.outer(np.arange(rows), rows * np.arange(columns)).reshape(-1)


def _two_factors(n: int) -> tuple[int, int]:
    """Return the two factors of n that are nearest to sqrt(n), the smaller one first. Raise ValueError if n is prime."""
    if positive_integer(n, "n") >= 4:
        smaller = max(divisor for divisor in range(1, math.isqrt(n) + 1) if n % divisor == 0)
        if smaller > 1:
            return smaller, n // smaller
    raise ValueError(f"`n` must be a product of two integers above 1. Received: n={n}. Pad the inputs with zeros.")


def _check_norm(norm: str | None) -> None:
    """Raise ValueError if `norm` is unknown."""
    if norm not in ("ortho", "backward", None):
        raise ValueError(f'`norm` must be "ortho", "backward" or None. Received: norm={norm!r}')


def _fourier(
    n: int,
    *,
    inputs: Sequence[int],
    last_step: Callable[[int], np.ndarray],
    outputs: Sequence[int],
    name: str,
    trainable: bool,
) -> keras.Sequential:
    """Return a model that Fourier-transforms a permuted vector and then multiplies each entry by a 2 x 2 matrix.

    Args:
        n: number of inputs.
        inputs: the vector v that is transformed has v[inputs[j]] = x[j].
        last_step: function of k that returns the matrix for the (Re, Im) of entry k of the transform.
        outputs: nodes of the last layer from which the outputs are read.
        name: name of the model, and of the layers with a number appended.
        trainable: whether the layers can be trained.
    """
    steps = n.bit_length() - 1
    input_nodes = [2 * int(f"{position:0{steps}b}"[::-1], 2) for position in inputs]
    layers: list[Butterfly] = []
    for step in range(steps):
        rotations = [last_step(k) if step == steps - 1 else _twiddle(k, step + 1) for k in range(n)]
        first_and_last = {0: (2 * n, input_nodes), steps - 1: (len(outputs), list(outputs))}
        units, truncation = first_and_last.get(step, (2 * n, "first"))
        settings = {"radix": 2, "truncation": truncation, "order": "decreasing", "use_bias": False, "trainable": trainable}
        # Weights are stored divided by the factor. A power of two divides them exactly, also the many that copy.
        layer = Butterfly(units, name=f"{name}_{step}", lr_multiplier=8, **settings)
        layer.build((None, 2 * n if layers else n))
        _set_stages(layer, {2 << step: np.broadcast_to(_SUM_AND_DIFFERENCE, (n, 2, 2)), 1: np.array(rotations)})
        layers.append(layer)
    return keras.Sequential([keras.Input((n,)), *layers], name=name)


def _set_stages(layer: Butterfly, matrices: Mapping[int, np.ndarray]) -> None:
    """Set the weights of `layer` so that the stages in `matrices` multiply by their matrices and the other stages copy.

    Args:
        layer: the layer.
        matrices: for a stride the matrices of the gadgets, `out = matrix @ in`: an array (N / 2, 2, 2) in the order (h, l).
    """
    wiring, weights = layer.wiring, []
    for stage in wiring.stages:
        gadgets = matrices.get(stage.stride, np.broadcast_to(np.eye(2), (wiring.size // 2, 2, 2)))
        by_edge = gadgets.reshape(-1, stage.stride, 2, 2).transpose(0, 3, 2, 1)  # (h, l, o, i) -> (h, i, o, l)
        weights.append(by_edge.reshape(-1)[stage.edges])
    layer.set_gadget_weights(np.concatenate(weights)[None])


def _rotation(angle: float) -> np.ndarray:
    """Return the 2 x 2 matrix that multiplies the pair (Re, Im) of a complex number by exp(-i angle)."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _twiddle(position: int, step: int) -> np.ndarray:
    """Return the 2 x 2 matrix of the twiddle factor by which `position` is multiplied before the sums of `step`."""
    stride = 1 << step
    return _rotation(np.pi * (position % stride) / stride if position & stride else 0.0)


def _check_size(n: int) -> None:
    """Raise ValueError unless `n` is a power of two, at least 4."""
    if positive_integer(n, "n") & (n - 1) or n < 4:
        raise ValueError(f"`n` must be a power of two, at least 4. Received: n={n}. Pad the inputs with zeros.")
