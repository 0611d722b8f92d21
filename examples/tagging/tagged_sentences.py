"""Sentences whose tokens have tags: the data of the tagging experiment.

`SETS` has the data sets:
    pos     part-of-speech tags of the Penn Treebank set (column XPOS), Universal Dependencies, English Web Treebank
    ner     people, organizations and locations on the same sentences, Universal NER
    wnut17  six kinds of entities in posts of social networks, WNUT-17

`load(name)` downloads the files once. `load(name, folder)` reads the same files from `folder`, packed by xz or not:

    ud_ewt/en_ewt-ud-{train,dev,test}.conllu
    uner_ewt/en_ewt-ud-{train,dev,test}.iob2, or uner_ewt/en_ewt-{train,dev,test}.iob2
    wnut17/wnut17train.conll, wnut17/emerging.dev.conll, wnut17/emerging.test.annotated

`load_sample(name)` reads a small part of "pos" and "ner" that lies in examples/data. Sources and licences: data/README.md.

    python examples/tagging/tagged_sentences.py FOLDER FILE

writes that part from the files in FOLDER.
"""

import lzma
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "dev", "test")
SAMPLE = Path(__file__).parent.parent / "data" / "ewt_sample.conll.xz"
# How many sentences of each split the sample has, and the most tokens of a sentence in it.
SAMPLE_SENTENCES, SAMPLE_TOKENS = {"train": 900, "dev": 150, "test": 300}, 32
UD = "https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT/15d613d8447b3478787d4c278730a1e48a945efb/"
UNER = "https://raw.githubusercontent.com/UniversalNER/UNER_English-EWT/master/"
WNUT = "https://raw.githubusercontent.com/leondz/emerging_entities_17/master/"


class Sentence(NamedTuple):
    """A sentence is a tuple of tokens, with a tag for each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set has a file for each split.

    Attributes:
        folder: name of the folder of the files.
        url: address of the folder from which the files are downloaded.
        names: split -> possible names of its file. The first is the one to download.
        sentences: split -> number of sentences, by which truncated files and other data sets are recognized.
        columns: columns of the token and of the tag in a line, counted from 0.
        tags: some tags that the training split must hold.
        entities: kinds of entities, if the tags are of the form B-PER, I-PER and O. Other kinds are read as O, because the
            first version of "ner" has auxiliary ones. None: the tags are parts of speech.
        hashes: split -> SHA-256 of the file, as far as it is known.
    """

    folder: str
    url: str
    names: dict[str, tuple[str, ...]]
    sentences: dict[str, int]
    columns: tuple[int, int]
    tags: frozenset[str]
    entities: frozenset[str] | None = None
    hashes: dict[str, str] | None = None

    @property
    def metric(self) -> str:
        """The measure of a tagger on this data set."""
        return "accuracy" if self.entities is None else "F1"


def _per_split(train, dev, test) -> dict:
    return dict(zip(SPLITS, (train, dev, test), strict=True))


SETS = {
    "pos": DataSet(
        "ud_ewt",
        UD,
        {split: (f"en_ewt-ud-{split}.conllu",) for split in SPLITS},
        _per_split(12544, 2001, 2077),
        (1, 4),
        frozenset({"NN", "VBD", "IN"}),
        hashes=_per_split(
            "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
            "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
            "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd",
        ),
    ),
    "ner": DataSet(
        "uner_ewt",
        UNER,
        {split: (f"en_ewt-ud-{split}.iob2", f"en_ewt-{split}.iob2") for split in SPLITS},
        _per_split(12543, 2001, 2077),
        (1, 2),
        frozenset({"O", "B-PER", "I-ORG", "B-LOC"}),
        frozenset({"PER", "ORG", "LOC"}),
    ),
    "wnut17": DataSet(
        "wnut17",
        WNUT,
        _per_split(("wnut17train.conll",), ("emerging.dev.conll",), ("emerging.test.annotated",)),
        _per_split(3394, 1009, 1287),
        (0, 1),
        frozenset({"O", "B-person", "B-product"}),
        frozenset({"person", "location", "group", "corporation", "product", "creative-work"}),
    ),
}
# The sample has the tokens, their parts of speech and their entities.
SAMPLE_COLUMNS = {"pos": (0, 1), "ner": (0, 2)}


def load(name: str, folder: Path | str | None = None) -> dict[str, list[Sentence]]:
    """Return the sentences of a data set: "train", "dev" and "test" -> list of sentences.

    Args:
        name: name in `SETS`.
        folder: folder that holds the data set's folder. None: the files are downloaded once, and kept by Keras.

    Raises:
        ValueError: if the name is unknown, or if a file is missing, truncated, or holds other data.
    """
    data_set = known(name)
    if folder is None:
        return {split: _checked(data_set, split, _downloaded(data_set, split)) for split in SPLITS}
    return {split: _checked(data_set, split, _existing(data_set, split, Path(folder))) for split in SPLITS}


def load_sample(name: str) -> dict[str, list[Sentence]]:
    """Return 900 sentences for training, 150 to choose rates by, and 300 for testing, as `load` does. "wnut17" has no sample.

    Raises:
        ValueError: if the data set has no sample.
    """
    if name not in SAMPLE_COLUMNS:
        raise ValueError(f"Expected one of {list(SAMPLE_COLUMNS)}, which have a sample. Received: name={name!r}")
    sentences, found = iter(read(SAMPLE, SAMPLE_COLUMNS[name], SETS[name].entities)), {}
    for split, count in SAMPLE_SENTENCES.items():
        found[split] = [next(sentences) for _ in range(count)]
    return found


def known(name: str) -> DataSet:
    """Return the data set `name`, or raise a ValueError."""
    if name not in SETS:
        raise ValueError(f"Expected one of {list(SETS)}. Received: name={name!r}")
    return SETS[name]


def read(path: Path, columns: tuple[int, int], entities: frozenset[str] | None) -> list[Sentence]:
    """Return the sentences of a file: a line for each token, its columns separated by tabs, an empty line between sentences.

    If the token is not in the first column, the first column counts the tokens, and lines without a whole number are skipped:
    comments, and the empty nodes and multiword tokens of CoNLL-U.

    Args:
        path: path of the file, packed by xz if it ends in ".xz".
        columns: columns of the token and of the tag.
        entities: kinds of entities, see `DataSet`.

    Raises:
        ValueError: if the file cannot be read, or a line lacks a column.
    """
    sentences: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(_lines(path), 1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip():
            sentences.append([])
        elif not columns[0] or cells[0].isdigit():
            if len(cells) <= max(columns):
                raise ValueError(f"Expected {max(columns) + 1} columns in '{path}'. Line {number} has {len(cells)}.")
            sentences[-1].append((cells[columns[0]], _known_tag(cells[columns[1]].strip(), entities)))
    return [Sentence(*zip(*rows, strict=True)) for rows in sentences if rows]


def _lines(path: Path) -> Iterator[str]:
    """Return the lines of a text file. A file that is damaged is an error of one line."""
    try:
        content = path.read_bytes()
        text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a whole text file, or one packed by xz. Received '{path}': {error}") from error
    # `splitlines` would also split at characters that stand within tokens.
    return iter(text.split("\n"))


def _known_tag(tag: str, entities: frozenset[str] | None) -> str:
    return tag if entities is None or tag[2:] in entities else "O"


def _existing(data_set: DataSet, split: str, folder: Path) -> Path:
    """Return the path of a split's file in `folder`."""
    names = data_set.names[split]
    for name in names:
        for path in (folder / data_set.folder / name, folder / data_set.folder / f"{name}.xz"):
            if path.is_file():
                return path
    wanted = folder / data_set.folder / names[0]
    raise ValueError(f"Expected the file '{wanted}', or '{wanted.name}.xz'. It is missing. {_remedy(data_set, split)}")


def _downloaded(data_set: DataSet, split: str) -> Path:
    import keras

    name, hashes = data_set.names[split][0], data_set.hashes or {}
    where = {"cache_subdir": f"datasets/{data_set.folder}", "file_hash": hashes.get(split)}
    return Path(keras.utils.get_file(name, data_set.url + name, **where))


def _checked(data_set: DataSet, split: str, path: Path) -> list[Sentence]:
    """Return the sentences of a split's file, if they are those of the data set."""
    try:
        sentences = read(path, data_set.columns, data_set.entities)
    except ValueError as error:
        raise ValueError(f"{error} {_remedy(data_set, split)}") from error
    tags = {tag for sentence in sentences for tag in sentence.tags}
    expected = data_set.sentences[split]
    if len(sentences) != expected or (split == "train" and not data_set.tags <= tags):
        found = f"{len(sentences)} with tags such as {', '.join(sorted(tags)[:5])}" if sentences else "none"
        kind = "the part of speech" if data_set.entities is None else "the entities"
        raise ValueError(
            f"Expected {expected} sentences with {kind} in '{path}'. Found {found}: the file is truncated, or of another data "
            f"set. {_remedy(data_set, split)}"
        )
    return sentences


def _remedy(data_set: DataSet, split: str) -> str:
    url = data_set.url + data_set.names[split][0]
    return f"Download it from {url}, or leave out --data to have it downloaded."


def write_sample(folder: Path, path: Path) -> None:
    """Write the first short sentences of the development splits of "pos" and "ner", which are the same sentences, to one file.

    Raises:
        ValueError: as `load`.
    """
    both = [_checked(SETS[name], "dev", _existing(SETS[name], "dev", folder)) for name in SAMPLE_COLUMNS]
    parts_of_speech = {sentence.tokens: sentence.tags for sentence in both[0]}
    blocks = []
    for tokens, entities in dict.fromkeys(both[1]):
        if len(tokens) <= SAMPLE_TOKENS and tokens in parts_of_speech:
            rows = zip(tokens, parts_of_speech[tokens], entities, strict=True)
            blocks.append("\n".join("\t".join(row) for row in rows) + "\n")
    count = sum(SAMPLE_SENTENCES.values())
    path.write_bytes(lzma.compress("\n".join(blocks[:count]).encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]), Path(sys.argv[2]))
