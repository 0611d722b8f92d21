"""Images for the notebooks of this folder, by one name each."""

import keras
import numpy as np

Images = tuple[np.ndarray, np.ndarray]


def load(name: str) -> tuple[Images, Images]:
    """(x_train, y_train), (x_test, y_test): images (examples, height, width, channels), float32 from 0 to 1, and their classes.

    Args:
        name: "fashion_mnist" or "cifar10", which Keras downloads once, or "digits", 1,797 images of 8 x 8 pixels that come with
            scikit-learn, a quarter of them for testing.
    """
    if name == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        images = x.reshape(-1, 8, 8, 1).astype("float32") / 16
        x_train, x_test, y_train, y_test = train_test_split(images, y, test_size=0.25, stratify=y, random_state=0)
        return (x_train, y_train), (x_test, y_test)
    if name not in ("fashion_mnist", "cifar10"):
        raise ValueError(f'Expected "fashion_mnist", "cifar10" or "digits". Received: name={name!r}')
    train, test = getattr(keras.datasets, name).load_data()
    return _scaled(*train), _scaled(*test)


def _scaled(images: np.ndarray, classes: np.ndarray) -> Images:
    images = images.astype("float32") / 255
    return images if images.ndim == 4 else images[..., None], classes.reshape(-1)
