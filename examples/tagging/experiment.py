"""Section 5.1 of the paper, language: a BiLSTM tagger whose dense layers are replaced, trained from scratch.

    python examples/tagging/experiment.py FOLDER [--task NAME ...] [--data DATA] [--recipe cpu] [--kind NAME ...] [--seeds 3]
        [--measure | --steps] [--quick]

Tasks: parts of speech ("pos", accuracy) and named entities ("ner", "wnut17", F1 of whole entities). See tagged_sentences.py.
Kinds of taggers: see `tagger` in tagger.py.
Recipes: "paper" has Flair's sizes, for a GPU. "cpu" has half the width, fewer sentences and epochs. See `RECIPES`.

Training: the best rate of a kind is the one with the best score on the development sentences after the last epoch, with seed 0.
The search begins in the middle of the recipe's rates. The other seeds are trained at the best rate. The test score is reported.

`--steps` measures a training step of each kind, in turn. `--measure` exports the taggers of seed 0, and measures their files:
size, latency for sentences of several lengths, and the score on the test sentences of 17 to 32 tokens. Taggers that have not
been trained get no score. Export on the TensorFlow backend.
`--quick` takes the small sample of the data and a tiny network.

Output: every run is kept in FOLDER/TASK.json, and the tagger of its last epoch in FOLDER/TASK. If the program is interrupted,
start it again: it goes on after the last whole epoch. tagging_page.py makes docs/tagging.md from the JSON files.

On CPUs, the JAX backend needs less processor time than TensorFlow, and one thread suffices:

    KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=CACHE python examples/tagging/experiment.py FOLDER
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import tagged_sentences
from pruning import MagnitudePruning, PrunedDense
from results import Results
from runs import Runs
from tagger import (
    BUTTERFLY,
    DENSE,
    KINDS,
    PAPER,
    PRUNED,
    RECIPES,
    WIDE,
    Batches,
    Vocabulary,
    load_tagger,
    of_length,
    score,
    tagger,
    weights_of,
)

from keras_butterfly import export

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
# Tokens of the sentences on which latencies are measured. Sizes, scores and the other precisions are those of `SCORED`.
LENGTHS, SCORED = (16, 32, 64), 32
CALIBRATION, STEPS = 256, 12


class Work(Runs):
    """The runs of one task with one recipe."""

    def __init__(self, folder: Path, task: str, sentences: dict, origin: str, recipe: str, say: Callable[[str], None]):
        self.task, self.recipe, self.metric = task, RECIPES[recipe], tagged_sentences.SETS[task].metric
        self.sentences = {**sentences, "train": sentences["train"][: self.recipe.sentences]}
        self.vocabulary = Vocabulary(self.sentences["train"])
        settings = {"recipe": recipe, "data": origin, **asdict(self.recipe)}
        super().__init__(folder / task, Results(folder / f"{task}.json", settings), self.recipe.rates, say)
        self.results.once(("data",), lambda: {split: len(found) for split, found in self.sentences.items()})

    @cached_property
    def batches(self) -> dict[str, Batches]:
        """The batches of each split."""
        recipe = self.recipe
        return {
            split: Batches(found, self.vocabulary, recipe.lengths, recipe.batch, 0 if split == "train" else None)
            for split, found in self.sentences.items()
        }

    def train(self, kind: str, rate: float, seed: int) -> tuple[keras.Model, dict]:
        """Train a tagger. Return it, and its losses and scores."""
        model = self.compiled(kind, rate, seed)
        epochs = self.fit(model, self.backup(kind, rate, seed), self.epochs(kind, rate, seed), seed)
        reached = {"test": self.score(model, "test"), "weights": weights_of(model)}
        return model, reached | {name: [epoch[name] for epoch in epochs] for name in ("dev", "loss")}

    def compiled(self, kind: str, rate: float, seed: int) -> keras.Model:
        """Return an untrained tagger that is ready for training."""
        model = tagger(kind, self.vocabulary, self.recipe, seed)
        schedule = keras.optimizers.schedules.CosineDecay(rate, self.recipe.epochs * len(self.batches["train"]))
        adam = self.recipe.optimizer == "adam"
        optimizer = keras.optimizers.Adam(schedule) if adam else keras.optimizers.SGD(schedule, 0.9)
        optimizer.global_clipnorm = 5.0
        # The mean over tokens, not over padding too.
        loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
        # On TensorFlow, XLA takes long to compile an LSTM and does not make it faster.
        model.compile(optimizer, loss, jit_compile=False if keras.backend.backend() == "tensorflow" else "auto")
        return model

    def fit(self, model: keras.Model, folder: Path, kept: Results, seed: int) -> list[dict[str, float]]:
        """Train `model`, or go on where its training was interrupted. Return loss and development score of each epoch.

        `folder` and `kept` keep the state of the training.
        """
        batches = self.batches["train"]
        batches.seed = seed

        def begin(epoch, logs=None):
            batches.start(epoch)

        def end(epoch, logs):
            kept.once((f"{epoch}",), lambda: {"loss": float(logs["loss"]), "dev": self.score(model, "dev")})

        shown = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
        backup = keras.callbacks.BackupAndRestore(str(folder))
        callbacks = [*self.pruning(model), shown, backup]
        model.fit(batches, epochs=self.recipe.epochs, shuffle=False, callbacks=callbacks, verbose=0)
        kept.path.unlink()
        return [kept.tree[f"{epoch}"] for epoch in range(self.recipe.epochs)]

    def pruning(self, model: keras.Model) -> list[keras.callbacks.Callback]:
        """Return the pruning of a tagger with pruned layers. It keeps as many weights as butterflies in their place have."""
        pruned = [layer for layer in model.layers if isinstance(layer, PrunedDense)]
        if not pruned:
            return []
        butterfly = tagger(BUTTERFLY, self.vocabulary, self.recipe, 0)
        kept = sum(butterfly.get_layer(name).count_params() - butterfly.get_layer(name).bias.shape[0] for name in WIDE)
        steps = self.recipe.epochs * len(self.batches["train"])
        return [MagnitudePruning(pruned, kept, steps, every=max(1, steps // 20))]

    def score(self, model: keras.Model, split: str) -> float:
        """Return the score of a tagger on a split, from 0 to 1."""
        predicted = self.batches[split].predict(lambda inputs: model.predict_on_batch(inputs), self.vocabulary.tags)
        return score(self.sentences[split], predicted, self.metric)

    def measure_steps(self, kinds: list[str]) -> None:
        """Measure a training step of each kind: the median of processor seconds of this process, all kinds in turn."""
        batch = self.longest_batch()
        models = {kind: self.compiled(kind, self.recipe.rates[0], 0) for kind in kinds}
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for step in range(STEPS + 2):
            for kind, model in models.items():
                start = time.process_time()
                model.train_on_batch(*batch)
                # The first two steps compile the network.
                if step > 1:
                    seconds[kind].append(time.process_time() - start)
        shape = batch[1].shape
        found = {"sentences": shape[0], "tokens": shape[1], "backend": keras.backend.backend()}
        found["seconds"] = {kind: float(np.median(some)) for kind, some in seconds.items()}
        self.results.once(("training step",), lambda: found)
        self.say(f"{self.task}, seconds of a training step: {found['seconds']}")

    def longest_batch(self) -> tuple:
        """Return a batch of the longest training sentences."""
        batches = self.batches["train"]
        return max((batches[index] for index in range(len(batches))), key=lambda batch: batch[1].shape[1])

    def measure(self, kinds: list[str], runs: int = 200) -> None:
        """Export the tagger of seed 0 of each kind, and measure the files of one precision and length in turn.

        A kind that has not been trained is exported untrained, because the values of the weights change neither size nor
        latency. It gets no score.
        """
        models = {kind: self.exported_tagger(kind) for kind in kinds}
        for precision, quantize in PRECISIONS.items():
            for length in LENGTHS if quantize is None else (SCORED,):
                names = "exports", precision, f"{length}"
                self.results.once(names, partial(self.files_of, models, quantize, length, runs))
                self.say(f"{self.task}, {precision}, {length} tokens: measured")

    def exported_tagger(self, kind: str) -> keras.Model:
        """Return the tagger of seed 0 of a kind: trained at the best rate, if it has been trained."""
        rate = self.known_rate(kind)
        return tagger(kind, self.vocabulary, self.recipe, 0) if rate is None else load_tagger(self.path(kind, rate, 0))

    def weights(self, kind: str) -> int:
        """Return the number of weights of an untrained tagger."""
        return weights_of(tagger(kind, self.vocabulary, self.recipe, 0))

    def files_of(self, models: dict[str, keras.Model], quantize: str | None, length: int, runs: int) -> dict[str, dict]:
        """Return size, latency, score and operators of the files of some taggers for sentences of `length` tokens."""
        calibration = self.real(self.sentences["train"], length)[:CALIBRATION]
        inputs = self.vocabulary.encode(calibration, length)[0]
        exported = {}
        for kind, model in models.items():
            settings = {"quantize": quantize, "representative_data": inputs, "progress": False}
            try:
                exported[kind] = export.to_tflite(of_length(model, length), **settings)
            except export.ParityError as error:
                # Left out of the results: a file that disagrees with Keras is not returned.
                self.say(f"{self.task}, {kind}, {quantize or 'float32'}, {length} tokens: refused. {error}")
        if not exported:
            return {}
        latencies = export.compare(exported, runs=runs, progress=False).latencies
        return {kind: self.figures(kind, file, latencies[kind].median, length) for kind, file in exported.items()}

    def figures(self, kind: str, file, seconds: float, length: int) -> dict:
        """Return the figures of one file. Those of trained taggers for `SCORED` tokens have a score."""
        found = {"bytes": file.size_bytes, "seconds": seconds, "operators": len(file.operators)}
        found["difference"] = max(output.relative_error for output in file.parity.outputs)
        found["weights"] = self.weights(kind)
        if length == SCORED and self.known_rate(kind) is not None:
            short = self.real(self.sentences["test"], length)
            batches = Batches(short, self.vocabulary, (length,), self.recipe.batch)
            found["score"] = score(short, batches.predict(file.predict, self.vocabulary.tags), self.metric)
            found["sentences"] = len(short)
        return found

    def real(self, sentences: list, length: int) -> list:
        """Return the sentences of at most `length` tokens, and more than half of that, or all where none is so long."""
        fitting = [sentence for sentence in sentences if length // 2 < len(sentence.tokens) <= length]
        return fitting or [sentence for sentence in sentences if len(sentence.tokens) <= length]


def sentences_of(task: str, data: Path | None, quick: bool) -> tuple[dict, str]:
    """Return the sentences of a task, and in words where they are from."""
    if quick and data is None and task in tagged_sentences.SAMPLE_COLUMNS:
        return tagged_sentences.load_sample(task), "the sample in examples/data"
    return tagged_sentences.load(task, data), "downloaded" if data is None else "a folder"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(list(tagged_sentences.SETS)), help="Repeatable. Default: pos, ner."
)
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="See tagged_sentences.py.")
@click.option("--recipe", default="cpu", show_default=True, type=click.Choice(list(RECIPES)))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Repeatable. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--measure", is_flag=True, help="Export the taggers and measure their files, instead of training.")
@click.option("--steps", is_flag=True, help="Measure a training step of each kind, instead of training.")
@click.option("--quick", is_flag=True, help="The sample of the data, a tiny network, one seed.")
def main(folder, tasks, data, recipe, kinds, seeds, measure, steps, quick):
    console = Console(width=150)
    if quick:
        recipe, seeds, kinds = "quick", 1, kinds or (DENSE, PAPER, BUTTERFLY, PRUNED)
    try:
        for task in tasks or ("pos", "ner"):
            sentences, origin = sentences_of(task, data, quick)
            work = Work(folder, task, sentences, origin, recipe, partial(console.print, highlight=False))
            chosen = list(kinds or KINDS)
            if measure:
                work.measure(chosen)
            elif steps:
                work.measure_steps(chosen)
            else:
                for kind in chosen:
                    work.all_seeds(kind, seeds)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
