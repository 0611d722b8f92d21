"""The matrices of the paper's experiments, by one name each: columns are examples.

Real data come from their own loaders (Keras, scikit-learn), which download once, or from a folder that holds

    mnist/mnist.npz, olivetti/olivetti_faces.npz, abu_hsi/*.npz, cifar10/cifar10_residual.npz, newsgroup_pairs/PCMAC.mat,
    HS-SOD's *.mat, TechTC's vectors.dat

where one is given. What needs neither: the Gaussian matrices, "digits", which come with scikit-learn, and a sample of a
hyperspectral scene in data/.

    python examples/matrices.py abu_hsi/abu-urban-1.npz FILE

writes that sample from the whole scene. Source and licence: data/README.md.
"""

import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cifar import from_residual

SAMPLE = Path(__file__).parent / "data" / "abu_sample.npz"
SIDE, MNIST_IMAGES = 32, 1024


class Matrix(NamedTuple):
    """`X` is (n, d), float64; `origin` says in words what it is."""

    X: np.ndarray
    origin: str


def gaussian(rank: int, n: int = 1024, d: int = 1024, seed: int = 0) -> Matrix:
    """`rank` random orthonormal directions, coefficients N(0, 0.01): the paper's Gaussian 1 and 2 are of rank 32 and 64."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((n, rank)))[0]
    return Matrix(directions @ rng.normal(0, 0.1, (rank, d)), f"{rank} orthonormal directions, coefficients N(0, 0.01)")


def digits() -> Matrix:
    from sklearn.datasets import load_digits

    return Matrix(load_digits().data.T / 16, "1,797 digits of 8 x 8 pixels (scikit-learn), 0 to 1")


def mnist(folder: Path | None = None) -> Matrix:
    """The first 1,024 training images, padded from 28 x 28 to 32 x 32 with zeros."""
    if folder is None:
        import keras

        images = keras.datasets.mnist.load_data()[0][0]
    else:
        with np.load(_existing(folder / "mnist" / "mnist.npz")) as file:
            images = file["x_train"]
    padded = np.pad(images[:MNIST_IMAGES], ((0, 0), (2, 2), (2, 2))) / 255
    return Matrix(padded.reshape(MNIST_IMAGES, -1).T, "the first 1,024 training images of MNIST, padded to 32 x 32, 0 to 1")


def olivetti(folder: Path | None = None) -> Matrix:
    if folder is None:
        from sklearn.datasets import fetch_olivetti_faces

        faces = fetch_olivetti_faces().data
    else:
        with np.load(_existing(folder / "olivetti" / "olivetti_faces.npz")) as file:
            faces = file["images"].reshape(len(file["images"]), -1) / 242
    return Matrix(faces.T.astype(float), "the 400 Olivetti faces of 64 x 64 pixels, 0 to 1")


def cube(path: Path) -> np.ndarray:
    """A hyperspectral image, (bands, rows, columns) as stored: .npz of this project's data, or HS-SOD's .mat.

    Raises:
        ValueError: for a file that holds no cube.
    """
    path = _existing(Path(path))
    if path.suffix == ".npz":
        with np.load(path) as file:
            if "band_delta" in file:
                return file["band_delta"].cumsum(0, dtype=np.int16)
    else:
        import h5py

        if h5py.is_hdf5(path):  # MATLAB 7.3; its axes come reversed: 1024 x 768 x bands is stored as bands x 1024 x 768
            with h5py.File(path) as file:
                if "hypercube" in file:
                    return file["hypercube"][:]
        else:
            from scipy.io import loadmat

            variables = loadmat(path)
            if "hypercube" in variables:
                return np.moveaxis(variables["hypercube"], -1, 0)
    raise ValueError(
        f"Expected a hyperspectral cube: `hypercube` in a .mat file, `band_delta` in an .npz file. Received: {path}"
    )


def scene(folder: Path | None = None) -> tuple[np.ndarray, str]:
    """One cube scaled to a largest value of 1, and its name: the folder's first .mat file or its Texas coast, or the sample."""
    if folder is None:
        path, name = SAMPLE, "a sample of the Texas coast (AVIRIS)"
    else:
        mats = sorted(folder.glob("*.mat"))
        path = mats[0] if mats else folder / "abu_hsi" / "abu-urban-1.npz"
        name = path.stem if mats else "the Texas coast (AVIRIS, ABU urban 1)"
    values = cube(path).astype(float)
    return values / values.max(), name


def spectra(folder: Path | None = None) -> Matrix:
    """Every pixel's spectrum: bands x pixels."""
    values, name = scene(folder)
    bands, rows, columns = values.shape
    return Matrix(values.reshape(bands, -1), f"the spectra of {rows} x {columns} pixels in {bands} bands, {name}")


def band(folder: Path | None = None) -> Matrix:
    """The middle band as an image, rows x columns: what the paper takes of HS-SOD, 1024 x 768."""
    values, name = scene(folder)
    middle = len(values) // 2
    return Matrix(values[middle], f"band {middle} as an image, {name}")


class Stack(NamedTuple):
    """`matrices` is (matrices, n, d), float32, of which the first `training` are to train on; see `load_stack`."""

    matrices: np.ndarray
    training: int
    origin: str


def bands(folder: Path | None = None) -> tuple[np.ndarray, str]:
    """Every band of every scene as an image: of HS-SOD's .mat files where the folder has some, else of the ABU scenes."""
    if folder is None:
        paths, name = [SAMPLE], "the sample of the Texas coast (AVIRIS)"
    else:
        paths = sorted(folder.glob("*.mat")) or sorted((folder / "abu_hsi").glob("*.npz"))
        name = ", ".join(path.stem for path in paths)
    if not paths:
        raise ValueError(f"Expected HS-SOD's .mat files or abu_hsi/*.npz in {folder}. There are none.")
    images = np.concatenate([cube(path).astype(float) for path in paths])
    return images, f"{images.shape[1]} x {images.shape[2]} bands of {name}"


def cifar10(folder: Path | None = None) -> tuple[np.ndarray, str]:
    """The red channel of the first 500 training images."""
    if folder is None:
        import keras

        images = keras.datasets.cifar10.load_data()[0][0][:500, :, :, 0]
    else:
        with np.load(_existing(folder / "cifar10" / "cifar10_residual.npz")) as file:
            images = from_residual(file["x_train_residual"][:500])[..., 0]
    return images.astype(float), "the red channel of the first 500 training images of CIFAR-10, 32 x 32"


def patches(folder: Path | None = None) -> tuple[np.ndarray, str]:
    """Grey tiles of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    tiles = []
    for photograph in load_sample_images().images:
        grey = photograph.mean(-1)[:416, :640]
        tiles.append(grey.reshape(13, SIDE, 20, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE))
    return np.concatenate(tiles), "grey tiles of scikit-learn's two photographs, 32 x 32"


def text(folder: Path | None = None, documents: int = 100) -> tuple[np.ndarray, str]:
    """Terms x documents: of TechTC or the newsgroup pair PCMAC in the folder, else of two newsgroups by scikit-learn."""
    if folder is None:
        from sklearn.datasets import fetch_20newsgroups
        from sklearn.feature_extraction.text import CountVectorizer

        pair = ["comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"]
        articles = fetch_20newsgroups(subset="all", categories=pair, shuffle=True, random_state=0).data
        counts, name = CountVectorizer(max_features=4096, stop_words="english").fit_transform(articles), "two newsgroups"
    elif tech := sorted(folder.glob("**/vectors.dat")):
        return techtc(tech), f"{len(tech)} collections of TechTC"
    else:
        from scipy.io import loadmat

        file = loadmat(_existing(folder / "newsgroup_pairs" / "PCMAC.mat"))
        counts, name = file["X"], "the newsgroup pair PCMAC"
    dense = np.asarray(counts.todense() if hasattr(counts, "todense") else counts, dtype=float)
    dense = dense[np.random.default_rng(0).permutation(len(dense))]
    whole = len(dense) // documents * documents
    stack = dense[:whole].reshape(-1, documents, dense.shape[1]).swapaxes(1, 2)
    return stack, f"{stack.shape[1]} terms x {documents} documents, counts, of {name}"


def techtc(paths: list[Path]) -> np.ndarray:
    """Collections of TechTC-300, (collections, terms, documents): `vectors.dat` files, SVMlight lines `label term:weight ...`.

    Terms are numbered across all collections; each is cut to the fewest documents of any.
    """
    from sklearn.datasets import load_svmlight_files

    loaded = load_svmlight_files([str(path) for path in paths])[::2]
    documents = min(matrix.shape[0] for matrix in loaded)
    return np.stack([matrix[:documents].toarray().T for matrix in loaded])


STACKS = {"bands": bands, "cifar10": cifar10, "patches": patches, "text": text}


def load_stack(name: str, folder=None, seed: int = 0, most: int = 500) -> Stack:
    """Matrices to learn a sketch from: four in five for training.

    At most `most` of them, in random order; each is scaled to a largest singular value of 10, and one random permutation of the
    rows is applied to all, as in the paper.

    Raises:
        ValueError: for an unknown name, or a folder that lacks the data.
    """
    matrices, origin = _read(_known(name, STACKS), None if folder is None else Path(folder))
    rng = np.random.default_rng(seed)
    matrices = matrices[rng.permutation(len(matrices))[:most]]
    matrices = matrices[:, rng.permutation(matrices.shape[1])]
    norms = np.linalg.norm(matrices, 2, axis=(1, 2), keepdims=True)
    matrices = (10 * matrices / np.where(norms > 0, norms, 1)).astype("float32")
    return Stack(matrices, len(matrices) * 4 // 5, origin)


MATRICES = {
    "gaussian1": lambda folder: gaussian(32),
    "gaussian2": lambda folder: gaussian(64),
    "digits": lambda folder: digits(),
    "mnist": mnist,
    "olivetti": olivetti,
    "spectra": spectra,
    "band": band,
}


def load(name: str, folder=None) -> Matrix:
    """The matrix of that name; `folder` holds the real data, see above.

    Raises:
        ValueError: for an unknown name, or a folder that lacks the data.
    """
    return _known(name, MATRICES)(None if folder is None else Path(folder))


@cache
def _read(loader, folder: Path | None):
    """Read once for all seeds; nobody writes into it."""
    return loader(folder)


def _known(name: str, loaders: dict):
    if name not in loaders:
        raise ValueError(f"Expected one of {tuple(loaders)}. Received: name={name!r}")
    return loaders[name]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"Expected the file {path}. There is none; without a folder the data are downloaded.")
    return path


def write_sample(source: Path, target: Path) -> None:
    """A quarter of the bands and 64 x 64 pixels of a scene in one file: differences between bands, packed by bzip2."""
    part = cube(source)[::4, :64, :64]
    with zipfile.ZipFile(target, "x", zipfile.ZIP_BZIP2) as archive, archive.open("band_delta.npy", "w") as file:
        np.save(file, np.diff(part, axis=0, prepend=part.dtype.type(0)).astype(np.int16))


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]), Path(sys.argv[2]))
