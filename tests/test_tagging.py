"""The tagging experiment trains, stops and goes on, exports, and says what is wrong with its data. On the sample, briefly."""

import json
import lzma
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from experiments import load, run

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
sys.path.insert(0, str(EXAMPLES / "tagging"))

import tagged_sentences  # noqa: E402
import tagger as taggers  # noqa: E402
import tagging_page as page  # noqa: E402
from tagged_sentences import SETS, Sentence  # noqa: E402
from tagger import BUTTERFLY, DENSE, KINDS, LOW_RANK, LOW_RANK_FINAL, NARROW, PAPER, PRUNED, RECIPES  # noqa: E402

TINY = replace(RECIPES["quick"], sentences=120, epochs=3, lengths=(16,), batch=8)
TINY_SENTENCES = [sentence for sentence in tagged_sentences.load_sample("pos")["train"] if len(sentence.tokens) <= 16][:120]


@pytest.fixture(scope="module")
def experiment():
    """The module of the experiment. Its quick recipe is smaller still."""
    module = load("tagging")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(taggers.RECIPES, "quick", TINY)
        yield module


QUICK = "--quick", "--task", "pos", "--kind", PAPER


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    """The folder of a quick run on parts of speech."""
    folder = tmp_path_factory.mktemp("tagging")
    code, output = run(experiment, folder, *QUICK)
    assert code == 0, output
    return folder


def results(folder):
    """Return the results of a run on parts of speech."""
    return json.loads((folder / "pos.json").read_text())


def test_quick_mode_trains(experiment, trained):
    first = results(trained)
    found = first[PAPER]["rate 0.01"]["seed 0"]
    assert len(found["loss"]) == TINY.epochs
    assert found["loss"][-1] < 0.9 * found["loss"][0]
    assert found["dev"][-1] > 0.15  # The most frequent tag is right for 12 % of the tokens.
    assert list((trained / "pos").glob("*.json")) == []
    run(experiment, trained, *QUICK)
    assert results(trained) == first  # nothing is trained again


@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an LSTM is exported on TensorFlow")
def test_trained_taggers_are_exported_and_measured(experiment, trained, monkeypatch):
    monkeypatch.setattr(experiment, "LENGTHS", (8,))
    monkeypatch.setattr(experiment, "SCORED", 8)
    monkeypatch.setattr(experiment, "PRECISIONS", {"float32": None})
    code, output = run(experiment, trained, *QUICK, "--kind", DENSE, "--measure")
    assert code == 0, output
    measured = results(trained)["exports"]["float32"]["8"]
    assert measured[PAPER]["difference"] < 1e-4
    assert measured[PAPER]["score"] > 0.1
    assert "score" not in measured[DENSE]  # It has not been trained.


@pytest.mark.long
def test_named_entities_train(experiment, tmp_path):
    code, output = run(experiment, tmp_path, "--quick", "--task", "ner", "--kind", PRUNED)
    assert code == 0, output
    found = json.loads((tmp_path / "ner.json").read_text())[PRUNED]["rate 0.01"]["seed 0"]
    assert found["loss"][-1] < found["loss"][0]
    assert found["weights"] < taggers.weights_of(tiny(PRUNED, "ner"))


@pytest.mark.long
def test_an_interrupted_training_ends_as_an_uninterrupted_one(experiment, trained, tmp_path, monkeypatch):
    score, calls = experiment.Work.score, []

    def interrupted(self, model, split):
        calls.append(split)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, model, split)

    monkeypatch.setattr(experiment.Work, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.main.callback(tmp_path, ("pos",), None, "quick", (PAPER,), 1, False, False, True)
    assert PAPER not in results(tmp_path) or not results(tmp_path)[PAPER]["rate 0.01"]
    assert run(experiment, tmp_path, *QUICK)[0] == 0
    assert calls.count("dev") == TINY.epochs + 1  # The interrupted epoch is trained again, the one before is not.
    resumed, whole = (results(folder)[PAPER]["rate 0.01"]["seed 0"] for folder in (tmp_path, trained))
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert resumed["test"] == pytest.approx(whole["test"], abs=1e-3)


def tiny(kind, task="pos", recipe=TINY):
    """Return an untrained tagger."""
    sentences = tagged_sentences.load_sample(task)["train"]
    return taggers.tagger(kind, taggers.Vocabulary(sentences), recipe, 0)


def test_rivals_have_as_many_weights():
    recipe = replace(RECIPES["cpu"], hidden=64)
    counts = {kind: taggers.weights_of(tiny(kind, recipe=recipe)) for kind in KINDS}
    assert counts[PRUNED] == counts[DENSE]  # Before the training.
    for butterfly, rivals in ((PAPER, (LOW_RANK_FINAL,)), (BUTTERFLY, (NARROW, LOW_RANK))):
        assert counts[butterfly] < counts[DENSE]
        for rival in rivals:
            assert 0.97 * counts[butterfly] < counts[rival] <= counts[butterfly]


def test_the_papers_recipe_has_the_papers_final_layer():
    sentences = tagged_sentences.load_sample("pos")["train"]
    vocabulary = taggers.Vocabulary(sentences)
    model = taggers.network(vocabulary, RECIPES["paper"])
    assert tuple(model.get_layer("tags").kernel.shape) == (512, len(vocabulary.tags))
    assert {tuple(model.get_layer(name).kernel.shape) for name in taggers.WIDE} == {(256, 512), (512, 512)}


def test_tags_do_not_depend_on_the_padding():
    vocabulary, model = taggers.Vocabulary(TINY_SENTENCES), tiny(BUTTERFLY)
    inputs = [vocabulary.encode(TINY_SENTENCES[:4], length)[0] for length in (16, 24)]
    short, long = (keras.ops.convert_to_numpy(model(list(each.values()))) for each in inputs)
    for row, sentence in enumerate(TINY_SENTENCES[:4]):
        tokens = len(sentence.tokens)
        np.testing.assert_allclose(long[row, :tokens], short[row, :tokens], atol=1e-5)


def test_predictions_are_in_the_order_of_the_sentences():
    vocabulary = taggers.Vocabulary(TINY_SENTENCES)
    batches = taggers.Batches(TINY_SENTENCES, vocabulary, (4, 8), 7)
    labels = {}
    for inputs, numbers, _ in (batches[index] for index in range(len(batches))):
        assert len(numbers) == 7
        labels |= {inputs["words"][row].tobytes(): numbers[row] for row in range(7)}

    def perfect(inputs):
        rows = np.array([labels[words.tobytes()] for words in inputs["words"]])
        return np.eye(len(vocabulary.tags))[rows]

    # Two pieces of the same words may have other tags, so nearly all are right.
    found = batches.predict(perfect, vocabulary.tags)
    assert len(found) == len(taggers.tags_of(TINY_SENTENCES))
    assert taggers.score(TINY_SENTENCES, found, "accuracy") > 0.95


def test_every_epoch_has_its_order():
    batches = taggers.Batches(TINY_SENTENCES, taggers.Vocabulary(TINY_SENTENCES), (16,), 8, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        batches.start(epoch)
        orders.append(np.concatenate([rows for _, rows in batches.order]).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_f1_counts_whole_entities():
    sentences = [Sentence(("New", "York", "is", "big"), ("B-LOC", "I-LOC", "O", "O")), Sentence(("Ann",), ("B-PER",))]
    assert taggers.score(sentences, ["B-LOC", "I-LOC", "O", "O", "B-PER"], "F1") == 1
    assert taggers.score(sentences, ["B-LOC", "O", "O", "O", "B-PER"], "F1") == 0.5


def test_the_sample_is_part_of_both_data_sets():
    parts, entities = (tagged_sentences.load_sample(name) for name in ("pos", "ner"))
    for split, count in tagged_sentences.SAMPLE_SENTENCES.items():
        assert len(parts[split]) == count
        assert [each.tokens for each in parts[split]] == [each.tokens for each in entities[split]]
    assert SETS["pos"].tags <= {tag for sentence in parts["train"] for tag in sentence.tags}
    assert {tag for sentence in entities["train"] for tag in sentence.tags} == {"O"} | {
        f"{place}-{kind}" for place in "BI" for kind in ("PER", "ORG", "LOC")
    }


ROW = {
    "pos": "# text = he said in town\n1\the\t_\t_\tNN\n2-3\tx\n2\tsaid\t_\t_\tVBD\n3.1\tx\n3\tin\t_\t_\tIN\n\n",
    "ner": "1\tAnn\tB-PER\t-\tx\n2\tof\tB-O\n3\tAcme\tB-ORG\n4\tInc\tI-ORG\n5\tRome\tB-LOC\n\n",
    "wnut17": "#hash\tO\r\nAnn\tB-person\r\npen\tB-product\r\n\t\r\n",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with all data sets, whose sentences are all alike."""
    for name, data_set in SETS.items():
        (tmp_path / data_set.folder).mkdir()
        for split, names in data_set.names.items():
            content = (ROW[name] * data_set.sentences[split]).encode()
            (tmp_path / data_set.folder / f"{names[-1]}.xz").write_bytes(lzma.compress(content, preset=0))
    return tmp_path


def test_data_from_a_folder(folder):
    expected = {
        "pos": Sentence(("he", "said", "in"), ("NN", "VBD", "IN")),
        "ner": Sentence(("Ann", "of", "Acme", "Inc", "Rome"), ("B-PER", "O", "B-ORG", "I-ORG", "B-LOC")),
        "wnut17": Sentence(("#hash", "Ann", "pen"), ("O", "B-person", "B-product")),
    }
    for name, sentence in expected.items():
        splits = tagged_sentences.load(name, folder)
        assert {split: len(found) for split, found in splits.items()} == SETS[name].sentences
        assert {each for found in splits.values() for each in found} == {sentence}


def test_a_wrong_folder_is_one_line(experiment, folder, tmp_path):
    path = folder / "ud_ewt" / "en_ewt-ud-train.conllu.xz"
    whole, arguments = path.read_bytes(), (tmp_path / "out", "--data", folder, "--task", "pos")

    def message():
        code, output = run(experiment, *arguments)
        assert code == 2
        assert "Download it from https://raw.githubusercontent.com/UniversalDependencies/" in output
        return output.strip().splitlines()[-1]

    path.write_bytes(whole[: len(whole) // 2])
    assert "Expected a whole text file" in message()
    path.write_bytes(lzma.compress(lzma.decompress(whole)[:-1000]))
    assert "Expected 12544 sentences with the part of speech" in message()
    path.write_bytes((folder / "uner_ewt" / "en_ewt-train.iob2.xz").read_bytes())
    assert "Expected 5 columns" in message()
    path.write_bytes(lzma.compress((ROW["pos"].replace("NN", "_") * 12544).encode()))
    assert "of another data set" in message()
    path.unlink()
    assert "It is missing" in message()
    with pytest.raises(ValueError, match="Expected one of"):
        tagged_sentences.load("conll")
    with pytest.raises(ValueError, match="which have a sample"):
        tagged_sentences.load_sample("wnut17")


def results_of(**scores):
    """Return results of a task in the form of experiment.py: kind -> test scores of three seeds."""
    tree = {"settings": {"rates": [0.1]}, "task": "pos", "training step": {"seconds": {}}}
    names = {"dense": DENSE, "paper": PAPER, "butterfly": BUTTERFLY, "narrow": NARROW}
    for name, (weights, tests) in scores.items():
        runs = {
            f"seed {seed}": {"test": test, "dev": [test - 0.1, test], "weights": weights} for seed, test in enumerate(tests)
        }
        tree[names[name]] = {"rate 0.1": runs}
    return tree


def test_the_page_says_no_where_the_answer_is_no():
    tree = results_of(
        dense=(1000, (0.9, 0.91, 0.92)),
        paper=(1010, (0.899, 0.911, 0.92)),
        butterfly=(500, (0.8, 0.81, 0.82)),
        narrow=(500, (0.85, 0.86)),
    )
    claims = page.claim_table(tree).splitlines()
    assert "yes, within the noise: +0.00 points" in claims[2]
    assert "**no**: -10.00 points" in claims[2]
    assert "**no**: 1,010 of 1,000" in claims[4]
    assert "yes: 500 of 1,000" in claims[4]
    assert "not measured" in claims[6]
    assert NARROW not in page.score_table(tree)  # A seed is missing.
    assert f"| {NARROW} | 85.00, 85.00 |" in page.rate_table(tree)
    text = page.with_tables("# Title\n<!-- scores pos -->\nold\n<!-- end -->\nprose\n", {"pos": tree})
    assert "| dense | 1,000 | 91.00 ± 1.00 (90.00 to 92.00) |" in text
    assert text.startswith("# Title\n") and text.endswith("<!-- end -->\nprose\n") and "old" not in text
    with pytest.raises(ValueError, match="Expected a table of"):
        page.with_tables("<!-- colors pos -->\n<!-- end -->", {"pos": tree})
