"""A tagger: word and character features, a bidirectional LSTM, and a tag for each token. Its dense layers can be replaced.

The network follows the SequenceTagger of the library Flair, which the paper uses, but for its inputs: Flair's embeddings are
trained before, on other text. Here words and characters get embeddings that are trained with the network.

    words, characters -> embeddings, a convolution over the characters -> projection -> BiLSTM -> feed_forward -> tags

"projection" and "feed_forward" are the wide layers. "tags" is the final layer, which the paper replaces.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from pruning import PrunedDense
from tagged_sentences import Sentence

from keras_butterfly import replace_dense

PADDING, UNKNOWN = 0, 1
# Characters of a token that the network sees. Of longer tokens it sees the first half and the last half.
CHARACTERS = 12
WIDE, FINAL = ("projection", "feed_forward"), "tags"


@dataclass(frozen=True)
class Recipe:
    """A recipe is a size of the network, and how it is trained.

    Attributes:
        hidden: units of the LSTM in each direction. The wide layers have twice as many.
        word_units, character_units: sizes of the features of a word and of its characters.
        lengths: numbers of tokens to which sentences are padded. Longer sentences are cut into pieces of the largest.
        batch, epochs: sentences in a batch, and passes over the training data.
        optimizer: "adam", or "sgd", which has a momentum of 0.9. The rate follows a cosine to zero.
        rates: learning rates, rising, of which every kind gets its best. The search begins in the middle.
        dropout: part of the features that are dropped for a whole sentence, before and after the LSTM, while training.
        sentences: number of training sentences, the first of the data set. None: all.
    """

    hidden: int
    word_units: int
    character_units: int
    lengths: tuple[int, ...]
    batch: int
    epochs: int
    optimizer: str
    rates: tuple[float, ...]
    dropout: float
    sentences: int | None = None


RECIPES = {
    # The sizes and the optimizer of Flair, with a cosine in place of its annealing. The paper does not say how it trained.
    "paper": Recipe(256, 192, 64, (16, 32, 64), 32, 150, "sgd", (0.03, 0.1, 0.3), 0.5),
    "cpu": Recipe(128, 96, 32, (16, 32), 32, 6, "adam", (4e-3, 8e-3, 1.6e-2), 0.1, 4000),
    "quick": Recipe(16, 16, 16, (32,), 32, 4, "adam", (1e-2,), 0.0, 300),
}


class Vocabulary:
    """The words, characters and tags of training sentences, as numbers.

    Words are compared in lower case. Words that occur once are read as unknown, so that the network learns what to make of
    unknown words. 0 is padding, 1 an unknown word or character.

    Args:
        sentences: training sentences.
    """

    def __init__(self, sentences: Sequence[Sentence]):
        words = Counter(token.lower() for sentence in sentences for token in sentence.tokens)
        characters = {character for sentence in sentences for token in sentence.tokens for character in token}
        self.words = {word: 2 + index for index, word in enumerate(sorted(w for w, count in words.items() if count > 1))}
        self.characters = {character: 2 + index for index, character in enumerate(sorted(characters))}
        self.tags = tuple(sorted({tag for sentence in sentences for tag in sentence.tags}))

    def encode(self, sentences: Sequence[Sentence], length: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return sentences, none longer than `length`, as inputs, labels and weights of a network.

        Inputs: "words", int32 (sentences, length), and "characters", int32 (sentences, length, CHARACTERS).
        Labels: int32 (sentences, length). Weights: float32 (sentences, length), 1 for tokens and 0 for padding. A tag that no
        training sentence has gets the weight 0.
        """
        words = np.full((len(sentences), length), PADDING, np.int32)
        characters = np.full((len(sentences), length, CHARACTERS), PADDING, np.int32)
        labels, weights = np.zeros(words.shape, np.int32), np.zeros(words.shape, np.float32)
        numbers = {tag: index for index, tag in enumerate(self.tags)}
        for row, sentence in enumerate(sentences):
            for column, (token, tag) in enumerate(zip(*sentence, strict=True)):
                words[row, column] = self.words.get(token.lower(), UNKNOWN)
                found = [self.characters.get(character, UNKNOWN) for character in _shortened(token)]
                characters[row, column, : len(found)] = found
                if tag in numbers:
                    labels[row, column], weights[row, column] = numbers[tag], 1
        return {"words": words, "characters": characters}, labels, weights


def _shortened(token: str) -> str:
    half = CHARACTERS // 2
    return token if len(token) <= CHARACTERS else token[:half] + token[-half:]


class Batches(keras.utils.PyDataset):
    """Batches of sentences of about the same length, each padded to one of a few lengths.

    Every batch has the same number of sentences, so that a network is compiled once for each length. Missing ones are empty.

    Args:
        sentences: the sentences. Those longer than the largest of `lengths` are cut into pieces.
        vocabulary: vocabulary of the network.
        lengths: numbers of tokens to which sentences are padded, ascending.
        batch: number of sentences in a batch.
        seed: seed of the order, which differs between epochs. None: the sentences keep their order within a length.
    """

    def __init__(self, sentences, vocabulary: Vocabulary, lengths: tuple[int, ...], batch: int, seed: int | None = None):
        super().__init__()
        self.batch, self.seed = batch, seed
        self.pieces = [piece for sentence in sentences for piece in cut(sentence, lengths[-1])]
        chosen = np.searchsorted(lengths, [len(piece.tokens) for piece in self.pieces])
        # Of each length: the numbers of its pieces, and the pieces.
        self.groups = []
        for index, length in enumerate(lengths):
            rows = np.flatnonzero(chosen == index)
            padded = [self.pieces[row] for row in rows] + [Sentence((), ())] * (-len(rows) % batch)
            if len(rows):
                self.groups.append((rows, vocabulary.encode(padded, length)))
        self.start(0)

    def start(self, epoch: int) -> None:
        """Put the sentences in the order of an epoch. The order depends on the seed and the epoch alone."""
        rng = None if self.seed is None else np.random.default_rng((self.seed, epoch))
        self.order = []
        for group, (_, (_, labels, _)) in enumerate(self.groups):
            rows = np.arange(len(labels)) if rng is None else rng.permutation(len(labels))
            self.order += [(group, rows[start : start + self.batch]) for start in range(0, len(rows), self.batch)]
        if rng is not None:
            rng.shuffle(self.order)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        group, rows = self.order[index]
        inputs, labels, weights = self.groups[group][1]
        return {name: values[rows] for name, values in inputs.items()}, labels[rows], weights[rows]

    def predict(self, predict_batch: Callable[[dict], np.ndarray], tags: tuple[str, ...]) -> list[str]:
        """Return the tags of all tokens, sentence after sentence. `predict_batch` maps inputs to probabilities of the tags."""
        found: list = [()] * len(self.pieces)
        for rows, (inputs, _, _) in self.groups:
            for start in range(0, len(rows), self.batch):
                some = rows[start : start + self.batch]
                values = predict_batch({name: array[start : start + self.batch] for name, array in inputs.items()})
                for row, best in zip(some, np.asarray(values).argmax(-1), strict=False):
                    found[row] = tuple(tags[number] for number in best[: len(self.pieces[row].tokens)])
        return [tag for piece in found for tag in piece]


def cut(sentence: Sentence, most: int) -> list[Sentence]:
    """Return a sentence in pieces of at most `most` tokens."""
    starts = range(0, len(sentence.tokens), most)
    return [Sentence(sentence.tokens[start : start + most], sentence.tags[start : start + most]) for start in starts]


def network(vocabulary: Vocabulary, recipe: Recipe, width: int | None = None, layer=layers.Dense) -> keras.Model:
    """Return an untrained tagger for sentences of any length.

    Args:
        vocabulary: vocabulary of the network.
        recipe: sizes of its layers.
        width: units of the wide layers. None: twice `recipe.hidden`.
        layer: class of the wide layers.

    Inputs: as `Vocabulary.encode` returns. Output: probabilities of the tags, float32 (sentences, length, tags).
    """
    width = width or 2 * recipe.hidden
    words = keras.Input((None,), dtype="int32", name="words")
    characters = keras.Input((None, CHARACTERS), dtype="int32", name="characters")
    word_features = layers.Embedding(2 + len(vocabulary.words), recipe.word_units, name="word_embedding")(words)
    x = layers.Embedding(2 + len(vocabulary.characters), 16, name="character_embedding")(characters)
    x = layers.Conv2D(recipe.character_units, (1, 3), padding="same", activation="relu", name="character_convolution")(x)
    x = layers.Concatenate(name="features")([word_features, ops.max(x, axis=2)])
    x = layers.SpatialDropout1D(recipe.dropout, name="dropped_features")(x)
    x = layer(width, activation=None, name=WIDE[0])(x)
    lstm = layers.LSTM(recipe.hidden, return_sequences=True, name="lstm")
    # The mask keeps padding out of the states, so that the tags of a sentence do not depend on the length it is padded to.
    x = layers.Bidirectional(lstm, name="bilstm")(x, mask=ops.not_equal(words, PADDING))
    x = layers.SpatialDropout1D(recipe.dropout, name="dropped_states")(x)
    x = layer(width, activation="relu", name=WIDE[1])(x)
    tags = layers.Dense(len(vocabulary.tags), activation="softmax", name=FINAL)(x)
    return keras.Model([words, characters], tags, name="tagger")


DENSE, PAPER, PAPER_LARGER, LOW_RANK_FINAL = "dense", "J2^T W' J1, final", "J2^T W' J1, k = 24, final", "low rank, final"
BUTTERFLY, LOW_RANK, NARROW, PRUNED = "butterfly, wide", "low rank, wide", "dense, narrow", "dense, pruned"
KINDS = (DENSE, PAPER, LOW_RANK_FINAL, PAPER_LARGER, BUTTERFLY, NARROW, LOW_RANK, PRUNED)
# The largest rank of the larger J2^T W' J1. The default is the logarithm of the smaller side, 6 for 49 tags.
LARGER = 24


def tagger(kind: str, vocabulary: Vocabulary, recipe: Recipe, seed: int) -> keras.Model:
    """Return an untrained tagger of a kind. The rivals have at most as many weights as the network they are compared with.

    "dense": the original.
    "J2^T W' J1, final": the paper's, `ButterflyDense` in the final layer. "low rank, final" has as many weights.
    "J2^T W' J1, k = 24, final": the same with a larger rank, at most the number of tags.
    "butterfly, wide": `Butterfly` of radix 4 in the wide layers. "low rank, wide", "dense, narrow" and "dense, pruned" have as
    many weights: two thin matrices in the wide layers, wide layers of fewer units, and `PrunedDense`, which must be trained
    with `MagnitudePruning`.
    """
    keras.utils.set_random_seed(seed)
    if kind == PRUNED:
        return network(vocabulary, recipe, layer=PrunedDense)
    model = network(vocabulary, recipe)
    if kind == BUTTERFLY:
        model = _replaced(model, WIDE, seed, radix=4)
    if kind == PAPER:
        model = _replaced(model, (FINAL,), seed, kind="butterfly_dense")
    if kind == PAPER_LARGER:
        model = _replaced(model, (FINAL,), seed, k=min(LARGER, len(vocabulary.tags)))
    if kind == LOW_RANK_FINAL:
        model = _with_low_rank(model, (FINAL,), tagger(PAPER, vocabulary, recipe, seed).count_params(), seed)
    if kind == LOW_RANK:
        model = _with_low_rank(model, WIDE, tagger(BUTTERFLY, vocabulary, recipe, seed).count_params(), seed)
    if kind == NARROW:
        model = _narrowed(vocabulary, recipe, tagger(BUTTERFLY, vocabulary, recipe, seed).count_params())
    return model


def _replaced(model: keras.Model, names: Sequence[str], seed: int, **settings) -> keras.Model:
    return replace_dense(model, where=list(names), initialize="fresh", seed=seed, progress=False, **settings)[0]


def _with_low_rank(model: keras.Model, names: Sequence[str], weights: int, seed: int) -> keras.Model:
    """Return a copy of `model` whose layers `names` have the largest rank with which it has at most `weights` weights."""
    sides = [model.get_layer(name).kernel.shape for name in names]
    others = model.count_params() - sum(map(prod, sides))
    rank = max(1, (weights - others) // sum(map(sum, sides)))
    return _replaced(model, names, seed, kind="low_rank", rank=rank)


def _narrowed(vocabulary: Vocabulary, recipe: Recipe, weights: int) -> keras.Model:
    """Return a dense tagger with the widest wide layers with which it has at most `weights` weights."""
    # The number of weights is linear in the width.
    one, two = (network(vocabulary, recipe, width).count_params() for width in (1, 2))
    return network(vocabulary, recipe, max(1, 1 + (weights - one) // (two - one)))


def weights_of(model: keras.Model) -> int:
    """Return the number of weights, of pruned layers those that are left."""
    masks = [ops.convert_to_numpy(layer.mask) for layer in model.layers if isinstance(layer, PrunedDense)]
    return model.count_params() - sum(2 * mask.size - int(mask.sum()) for mask in masks)


def of_length(model: keras.Model, length: int) -> keras.Model:
    """Return a trained tagger for sentences of one length, which TFLite needs. It shares the weights of `model`."""
    inputs = {
        "words": keras.Input((length,), dtype="int32", name="words"),
        "characters": keras.Input((length, CHARACTERS), dtype="int32", name="characters"),
    }
    return keras.Model(list(inputs.values()), model(list(inputs.values())), name=f"tagger_{length}")


def load_tagger(path: Path) -> keras.Model:
    """Return a tagger that was saved."""
    return keras.models.load_model(path, custom_objects={"PrunedDense": PrunedDense})


def score(true: Sequence[Sentence], predicted: Sequence[str], metric: str) -> float:
    """Return how good predicted tags are, from 0 to 1.

    Args:
        true: the sentences with their tags.
        predicted: the predicted tags of all tokens, sentence after sentence.
        metric: "accuracy", the part of the tokens with the right tag, or "F1" of whole entities, by seqeval.

    Raises:
        ValueError: if seqeval is needed and not installed.
    """
    if metric == "accuracy":
        return float(np.mean([tag == other for tag, other in zip(tags_of(true), predicted, strict=True)]))
    try:
        from seqeval.metrics import f1_score
    except ImportError as error:
        raise ValueError("Expected the package seqeval, which computes F1. Install it: pip install seqeval") from error
    ends = np.cumsum([len(sentence.tokens) for sentence in true])[:-1]
    found = [list(part) for part in np.split(np.array(predicted, dtype=object), ends)]
    return float(f1_score([list(sentence.tags) for sentence in true], found, zero_division=0))


def tags_of(sentences: Sequence[Sentence]) -> list[str]:
    """Return the tags of all tokens, sentence after sentence."""
    return [tag for sentence in sentences for tag in sentence.tags]
