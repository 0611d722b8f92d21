"""Random crops and flips of images, made anew for each epoch."""

import keras
import numpy as np

PADDING = 4


class Crops(keras.utils.PyDataset):
    """Batches of randomly cropped and flipped images.

    An image is padded with 4 black pixels on each side. A square of its former size is cut out at a random place, and half of
    the squares are mirrored. Every batch is full: the images that are left over in an epoch are not seen in it.

    Args:
        images: uint8 (images, side, side, channels).
        classes: int (images,).
        batch: number of images in a batch, at most the number of images.
        seed: seed of the order, the places and the flips. With the number of the epoch it decides all of them.
    """

    def __init__(self, images: np.ndarray, classes: np.ndarray, batch: int, seed: int):
        super().__init__()
        if not 0 < batch <= len(images):
            raise ValueError(f"Expected a batch of 1 to {len(images)} images, which is all there are. Received: batch={batch}")
        self.classes, self.batch, self.seed = classes, batch, seed
        side, channels = images.shape[1], images.shape[3]
        margin = (PADDING, PADDING)
        padded = np.pad(images, ((0, 0), margin, margin, (0, 0)))
        # Whole rows of a square, (pixels x channels), are copied at once, which is fast.
        rows = padded.reshape(*padded.shape[:2], -1)
        self.squares = np.lib.stride_tricks.sliding_window_view(rows, (side, side * channels), axis=(1, 2))[:, :, ::channels]
        self.shape = side, side, channels
        self.start(0)

    def start(self, epoch: int) -> None:
        """Draw the order of the images, the places and the flips of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        count = len(self.squares)
        self.order = rng.permutation(count)
        self.places = rng.integers(0, 2 * PADDING + 1, (count, 2))
        self.flipped = rng.random(count) < 0.5

    def __len__(self):
        return len(self.order) // self.batch

    def __getitem__(self, index):
        part = slice(index * self.batch, (index + 1) * self.batch)
        rows = self.order[part]
        images = self.squares[rows, self.places[part, 0], self.places[part, 1]].reshape(-1, *self.shape)
        flipped = self.flipped[part]
        images[flipped] = images[flipped, :, ::-1]
        return images, self.classes[rows]
