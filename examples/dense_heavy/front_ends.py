"""Front ends of a speech recognizer: a linear map of each frame of samples, and how its outputs are gathered to bands.

All but the fixed one are trained. Those that "start at the transform" compute at first the Fourier transform of the frame times
a Hann window, and the bands are those of a log-mel spectrum: a band is a weighted sum of squared magnitudes. "butterfly, all
frequencies" has a band for each frequency.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from pruning import PrunedDense
from speech_data import RATE

from keras_butterfly import Butterfly, LowRank, transforms

FRAME = 256  # samples, 32 ms
BANDS = 32
LOWEST, HIGHEST = 60.0, 3900.0  # Hz, the edges of the bands


class FrontEnd(NamedTuple):
    """A linear map of frames, and how the squares of its outputs are summed in bands.

    Attributes:
        layer: maps frames, (..., FRAME), to outputs, (..., outputs).
        bands: the weights with which the sums start, (outputs, bands).
    """

    layer: keras.layers.Layer
    bands: np.ndarray


def window() -> np.ndarray:
    """Return a Hann window of one frame."""
    return np.hanning(FRAME + 1)[:-1]


def transform() -> np.ndarray:
    """Return the windowed Fourier transform as a matrix (FRAME, FRAME), the outputs in the order of `real_dft_order`."""
    return keras.ops.convert_to_numpy(transforms.real_dft(FRAME, window=window()).kernel)


def frequencies() -> np.ndarray:
    """Return the frequency in Hz of each output of the transform."""
    k = transforms.real_dft_order(FRAME)
    return np.minimum(k, FRAME - k) * RATE / FRAME


def mel(hertz):
    """Return the pitch in mel, on which the bands lie at equal distances, of frequencies in Hz."""
    return 1127 * np.log1p(np.asarray(hertz) / 700)


def edges() -> np.ndarray:
    """Return the limits of the bands in mel. Band i is a triangle from entry i over entry i + 1 to entry i + 2."""
    return np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)


def mel_bands() -> np.ndarray:
    """Return the weights of the transform's outputs in each band, (FRAME, BANDS)."""
    pitch, low, center, high = mel(frequencies())[:, None], edges()[:-2], edges()[1:-1], edges()[2:]
    return np.maximum(0, np.minimum((pitch - low) / (center - low), (high - pitch) / (high - center)))


def single_bands() -> np.ndarray:
    """Return the weights of the transform's outputs in bands of one frequency each, (FRAME, FRAME / 2), from 0 Hz on.

    The highest frequency, half the sampling rate, is in no band.
    """
    steps = np.round(frequencies() * FRAME / RATE).astype(int)
    return (steps[:, None] == np.arange(FRAME // 2)).astype("float32")


def dense(trainable: bool = True, layer=keras.layers.Dense) -> FrontEnd:
    """Return a dense front end that starts at the transform, or with `trainable` False a log-mel spectrum that stays fixed."""
    made = layer(FRAME, use_bias=layer is not keras.layers.Dense, trainable=trainable, name="front_end")
    made.build((None, FRAME))
    made.kernel.assign(transform())
    return FrontEnd(made, mel_bands())


def butterfly() -> FrontEnd:
    """Return a butterfly that starts at the transform."""
    return FrontEnd(transforms.real_dft(FRAME, window=window(), name="front_end"), mel_bands())


def butterfly_of_all_frequencies() -> FrontEnd:
    """Return a butterfly that starts at the transform, with a band for each frequency."""
    return butterfly()._replace(bands=single_bands())


def random_butterfly() -> FrontEnd:
    """Return a butterfly of the same stages, stacks and number of weights that starts as a random orthogonal matrix."""
    layer = Butterfly(FRAME, radix="auto", stacks=2, order="decreasing", use_bias=False, name="front_end")
    layer.build((None, FRAME))
    return FrontEnd(layer, mel_bands())


def low_rank(outputs: np.ndarray | None = None) -> FrontEnd:
    """Return two thin matrices, as many weights as the butterfly, that start at the nearest to the transform of their rank.

    Args:
        outputs: (rows, FRAME), outputs of the transform on data, to which the result is the nearest. None: the nearest to the
            transform itself, by its singular value decomposition.
    """
    kernel = transform()
    layer = LowRank(FRAME, rank=butterfly_weights() // (2 * FRAME), use_bias=False, name="front_end")
    layer.build((None, FRAME))
    layer.approximate(kernel, kernel if outputs is None else outputs)
    return FrontEnd(layer, mel_bands())


def narrow() -> FrontEnd:
    """Return a dense front end of as many weights as the butterfly: the real and imaginary part at the center of each band."""
    bins = np.arange(FRAME // 2)
    centers = [np.argmin(np.abs(mel(bins * RATE / FRAME) - center)) for center in edges()[1:-1]]
    place = np.argsort(transforms.real_dft_order(FRAME))
    layer = keras.layers.Dense(2 * BANDS, use_bias=False, name="front_end")
    layer.build((None, FRAME))
    layer.kernel.assign(transform()[:, place[[*centers, *(FRAME - k for k in centers)]]])
    return FrontEnd(layer, np.concatenate([np.eye(BANDS)] * 2))


def pruned() -> FrontEnd:
    """Return a dense front end that starts at the transform, and whose smallest weights are to be pruned in training."""
    return dense(layer=PrunedDense)


def butterfly_weights() -> int:
    """Return the number of weights of the butterfly, which is that of its rivals."""
    return butterfly().layer.effective_parameters


FIXED, DENSE, BUTTERFLY, RANDOM = "fixed log-mel", "dense", "butterfly", "butterfly, random start"
ALL_FREQUENCIES = "butterfly, all frequencies"
LOW_RANK, LOW_RANK_DATA, NARROW, PRUNED = "low rank", "low rank, nearest on data", "narrow dense", "pruned dense"
# kind -> a function of outputs of the transform on data, (rows, FRAME), that makes the front end
KINDS: dict[str, Callable[[np.ndarray], FrontEnd]] = {
    FIXED: lambda outputs: dense(trainable=False),
    DENSE: lambda outputs: dense(),
    BUTTERFLY: lambda outputs: butterfly(),
    RANDOM: lambda outputs: random_butterfly(),
    ALL_FREQUENCIES: lambda outputs: butterfly_of_all_frequencies(),
    LOW_RANK: lambda outputs: low_rank(),
    LOW_RANK_DATA: low_rank,
    NARROW: lambda outputs: narrow(),
    PRUNED: lambda outputs: pruned(),
}
