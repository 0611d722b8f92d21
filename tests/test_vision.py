"""The vision experiment builds the paper's networks, trains, goes on, exports, and says what is wrong with its data."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import keras
import numpy as np
import pytest
from experiments import load, run

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
sys.path.insert(0, str(EXAMPLES / "vision"))

import augmentation  # noqa: E402
import cifar  # noqa: E402
import classifier as classifiers  # noqa: E402
import efficientnet  # noqa: E402
import preact_resnet  # noqa: E402
import se_resnet  # noqa: E402
import senet  # noqa: E402
import vision_page as page  # noqa: E402
from classifier import BUTTERFLY, DENSE, KINDS, LOW_RANK, PAPER, PAPER_LARGER, PRUNED, RECIPES  # noqa: E402
from convolution import FINAL  # noqa: E402

from keras_butterfly import export  # noqa: E402

TINY = replace(RECIPES["quick"], width=1 / 16, epochs=3)
SHALLOW = (1, 1, 0, 0)


def trainable(model):
    """Return the number of trainable weights, which PyTorch calls parameters."""
    return sum(prod(each.shape) for each in model.trainable_variables)


def convolution(size, inputs, outputs, bias=False, groups=1):
    """Return the number of weights of a convolution. A dense layer is one of size 1 with a bias."""
    return size * size * inputs * outputs // groups + outputs * bias


def normalization(channels):
    return 2 * channels


def excitation(channels, units):
    return convolution(1, channels, units, bias=True) + convolution(1, units, channels, bias=True)


def preact_resnet18_of_its_source():
    """Count the weights in github.com/kuangliu/pytorch-cifar, models/preact_resnet.py."""
    count, before = convolution(3, 3, 64), 64
    for channels in (64, 128, 256, 512):
        for _ in range(2):
            count += normalization(before) + convolution(3, before, channels)
            count += normalization(channels) + convolution(3, channels, channels)
            count += convolution(1, before, channels) if before != channels else 0
            before = channels
    return count + convolution(1, 512, 10, bias=True)


def efficientnet_b0_of_its_source():
    """Count the weights in github.com/kuangliu/pytorch-cifar, models/efficientnet.py, which are used.

    Its first block has an expansion too, of 1,088 weights, which its outputs do not depend on.
    """
    count, before = convolution(3, 3, 32) + normalization(32), 32
    stages = (1, 16, 1, 3), (6, 24, 2, 3), (6, 40, 2, 5), (6, 80, 3, 3), (6, 112, 3, 5), (6, 192, 4, 5), (6, 320, 1, 3)
    for expansion, channels, blocks, size in stages:
        for _ in range(blocks):
            inner = expansion * before
            count += convolution(1, before, inner) + normalization(inner) if expansion > 1 else 0
            count += size * size * inner + normalization(inner) + excitation(inner, before // 4)
            count += convolution(1, inner, channels) + normalization(channels)
            before = channels
    return count + convolution(1, 320, 10, bias=True)


def se_resnet152_of_its_source(blocks=(3, 8, 36, 3), classes=100):
    """Count the weights in github.com/weiaicunzai/pytorch-cifar100, models/senet.py, whose convolutions have biases."""
    count, before = convolution(3, 3, 64, bias=True) + normalization(64), 64
    for channels, number in zip((64, 128, 256, 512), blocks, strict=True):
        for _ in range(number):
            count += convolution(1, before, channels, bias=True) + convolution(3, channels, channels, bias=True)
            count += convolution(1, channels, 4 * channels, bias=True) + excitation(4 * channels, channels // 4)
            count += 2 * normalization(channels) + normalization(4 * channels)
            if before != 4 * channels:
                count += convolution(1, before, 4 * channels, bias=True) + normalization(4 * channels)
            before = 4 * channels
    return count + convolution(1, before, classes, bias=True)


def senet154_of_its_source(blocks=(3, 8, 36, 3)):
    """Count the weights in github.com/Cadene/pretrained-models.pytorch, pretrainedmodels/models/senet.py."""
    count = (
        convolution(3, 3, 64) + convolution(3, 64, 64) + convolution(3, 64, 128) + 2 * normalization(64) + normalization(128)
    )
    before = 128
    for channels, number in zip((64, 128, 256, 512), blocks, strict=True):
        outputs = 4 * channels
        for block in range(number):
            count += convolution(1, before, 2 * channels) + convolution(3, 2 * channels, outputs, groups=64)
            count += convolution(1, outputs, outputs) + normalization(2 * channels) + 2 * normalization(outputs)
            count += excitation(outputs, outputs // 16)
            if block == 0:
                count += convolution(1 if channels == 64 else 3, before, outputs) + normalization(outputs)
            before = outputs
    return count + convolution(1, before, 1000, bias=True)


def test_preact_resnet18_has_the_weights_of_its_source():
    model = preact_resnet.preact_resnet18()
    assert trainable(model) == preact_resnet18_of_its_source() == 11_171_146
    assert tuple(model.get_layer(FINAL).kernel.shape) == (512, 10)


def test_efficientnet_b0_has_the_weights_of_its_source():
    model = efficientnet.efficientnet_b0()
    assert trainable(model) == efficientnet_b0_of_its_source() == 3_598_598
    assert tuple(model.get_layer(FINAL).kernel.shape) == (320, 10)


def test_se_resnet_has_the_weights_of_its_source():
    model = se_resnet.se_resnet152(blocks=(1, 1, 1, 2))
    assert trainable(model) == se_resnet152_of_its_source((1, 1, 1, 2))
    assert tuple(model.get_layer(FINAL).kernel.shape) == (2048, 100)


@pytest.mark.long
def test_se_resnet152_and_senet154_have_the_weights_of_their_sources():
    assert trainable(se_resnet.se_resnet152()) == se_resnet152_of_its_source() == 65_045_780
    # 115,088,984 is also what github.com/osmr/imgclsmob counts.
    model = senet.senet154()
    assert trainable(model) == senet154_of_its_source() == 115_088_984
    assert tuple(model.get_layer(FINAL).kernel.shape) == (2048, 1000)


def small(name):
    """Return a narrow and shallow form of a network."""
    if name == "efficientnet_b0":
        stages = [stage._replace(blocks=1) for stage in efficientnet.STAGES[:2]]
        return efficientnet.efficientnet_b0(width=1 / 4, stages=[*stages, stages[1]._replace(strides=1)])
    if name == "senet154":
        return senet.senet154(10, width=1 / 16, blocks=SHALLOW, side=32)
    build = {"preact_resnet18": preact_resnet.preact_resnet18, "se_resnet152": se_resnet.se_resnet152}[name]
    return build(10, width=1 / 8, blocks=SHALLOW)


def normalize_by(model, images):
    """Let batch normalization know the features of some images, so that an untrained network is not sure of one class."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b0",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("preact_resnet18", "se_resnet152", "senet154")),
    ],
)
def test_networks_are_exported(name):
    model, images = small(name), cifar.load_sample().x_train[:16].astype("float32")
    normalize_by(model, images)
    exported = export.to_tflite(model, representative_data=images, progress=False)
    assert {"CONV_2D", "FULLY_CONNECTED"} <= {*exported.operators}
    assert max(output.relative_error for output in exported.parity.outputs) < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("name", ["efficientnet_b0", "se_resnet152"])
def test_whole_networks_are_exported(name):
    images = cifar.load_sample().x_train[:64].astype("float32")
    model = classifiers.NETWORKS[name].build(10)
    normalize_by(model, images)
    exported = export.to_tflite(model, representative_data=images, progress=False)
    assert max(output.relative_error for output in exported.parity.outputs) < 1e-3


@pytest.fixture(scope="module")
def shallow():
    """Half of the blocks of preact_resnet18, whose final layer is the same."""
    network = classifiers.NETWORKS["preact_resnet18"]
    build = partial(preact_resnet.preact_resnet18, blocks=(1, 1, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(classifiers.NETWORKS, "preact_resnet18", replace(network, build=build))
        yield


@pytest.mark.usefixtures("shallow")
def test_kinds_replace_the_final_layer_alone():
    recipe = replace(TINY, width=0.5)
    models = {kind: classifiers.classifier(kind, "preact_resnet18", recipe, 0) for kind in KINDS}
    weights = {kind: classifiers.final_weights(model) for kind, model in models.items()}
    assert weights[DENSE] == weights[PRUNED] == 256 * 10 + 10  # Before the training.
    assert 0.9 * weights[PAPER] < weights[LOW_RANK] <= weights[PAPER] < weights[DENSE]
    assert weights[BUTTERFLY] < weights[DENSE]
    ranks = {kind: np.linalg.matrix_rank(model.get_layer(FINAL).kernel) for kind, model in models.items()}
    assert (ranks[PAPER], ranks[PAPER_LARGER], ranks[BUTTERFLY]) == (4, 10, 10)
    for model in models.values():
        others = [each for layer in model.layers if layer.name != FINAL for each in layer.get_weights()]
        expected = [each for layer in models[DENSE].layers if layer.name != FINAL for each in layer.get_weights()]
        assert all(map(np.array_equal, others, expected))
        assert classifiers.weights_of(model) == trainable(model)


@pytest.mark.usefixtures("shallow")
def test_layers_compute_in_the_precision_of_the_recipe():
    before = keras.config.dtype_policy().name
    model = classifiers.classifier(PAPER, "preact_resnet18", RECIPES["quick"], 0)
    assert model.get_layer(FINAL).compute_dtype == model.layers[5].compute_dtype == "float32"
    model = classifiers.classifier(PAPER, "preact_resnet18", replace(TINY, precision="mixed_bfloat16"), 0)
    assert (model.get_layer(FINAL).compute_dtype, model.layers[5].compute_dtype) == ("float32", "bfloat16")
    assert keras.config.dtype_policy().name == before


def test_weight_decay_is_added_to_the_gradient():
    """Compare two steps with the recurrence of PyTorch: v = 0.9 v + gradient + decay w, w = w - rate v."""
    recipe = replace(RECIPES["paper"], weight_decay=0.1)
    optimizer, variable = classifiers.optimizer_of(recipe, 0.5, 10**9), keras.Variable([2.0])
    expected, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0):
        optimizer.apply([keras.ops.convert_to_tensor([gradient])], [variable])
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected -= 0.5 * velocity
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), [expected], rtol=1e-5)


def test_the_rate_rises_and_falls():
    schedule = classifiers.optimizer_of(replace(TINY, warm_up=0.2), 0.5, 100)._learning_rate
    rates = [float(schedule(step)) for step in (0, 10, 20, 60, 100)]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


def test_crops_are_parts_of_the_padded_images():
    images = np.random.default_rng(0).integers(1, 256, (5, 8, 8, 3), np.uint8)
    crops = augmentation.Crops(images, np.arange(5), 2, seed=3)
    padded, seen, flips = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0))), [], set()
    for epoch in range(4):
        crops.start(epoch)
        for batch, classes in (crops[index] for index in range(len(crops))):
            assert batch.dtype == np.uint8 and batch.shape == (2, 8, 8, 3)
            for crop, number in zip(batch, classes, strict=True):
                places = [(row, column) for row in range(9) for column in range(9)]
                found = {
                    flipped
                    for row, column in places
                    for flipped in (False, True)
                    if np.array_equal(crop, padded[number, row : row + 8, column : column + 8][:, :: -1 if flipped else 1])
                }
                assert len(found) == 1
                flips |= found
            seen.append((epoch, classes.tolist(), batch.tobytes()))
    assert flips == {False, True}
    assert len({content for _, _, content in seen}) == len(seen)
    crops.start(0)
    assert crops[0][0].tobytes() == seen[0][2]
    with pytest.raises(ValueError, match="Expected a batch of 1 to 5 images"):
        augmentation.Crops(images, np.arange(5), 6, 0)


@pytest.fixture(scope="module")
def experiment(shallow):
    """The module of the experiment. Its quick recipe and its network are smaller still."""
    module = load("vision")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(classifiers.RECIPES, "quick", TINY)
        yield module


QUICK = "--quick", "--kind", PAPER


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    """The folder of a quick run."""
    folder = tmp_path_factory.mktemp("vision")
    code, output = run(experiment, folder, *QUICK)
    assert code == 0, output
    return folder


def results(folder):
    """Return the results of a quick run."""
    return json.loads((folder / "preact_resnet18-quick.json").read_text())


def test_quick_mode_trains(experiment, trained):
    first = results(trained)
    found = first[PAPER]["rate 0.05"]["seed 0"]
    assert len(found["loss"]) == len(found["dev"]) == len(found["seconds"]) == TINY.epochs
    assert found["loss"][-1] < 0.95 * found["loss"][0]
    assert first["images"] == {"train": 180, "dev": 20, "test": 100}
    assert list((trained / "preact_resnet18-quick").glob("*.json")) == []
    run(experiment, trained, *QUICK)
    assert results(trained) == first  # Nothing is trained again.


@pytest.mark.long
def test_an_interrupted_training_ends_as_an_uninterrupted_one(experiment, trained, tmp_path, monkeypatch):
    accuracy, calls = experiment.Work.accuracy, []

    def interrupted(self, predict, part, most=None):
        calls.append(part)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return accuracy(self, predict, part, most)

    monkeypatch.setattr(experiment.Work, "accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.main.callback(tmp_path, None, (), "quick", (PAPER,), 1, (), False, True)
    assert not results(tmp_path).get(PAPER, {}).get("rate 0.05")
    assert run(experiment, tmp_path, *QUICK)[0] == 0
    assert calls.count("dev") == TINY.epochs + 1  # The interrupted epoch is trained again, those before are not.
    resumed, whole = (results(folder)[PAPER]["rate 0.05"]["seed 0"] for folder in (tmp_path, trained))
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert resumed["dev"] == pytest.approx(whole["dev"], abs=0.051)  # One image of 20.
    name = Path("preact_resnet18-quick") / "J2_T_W__J1-rate_0.05-seed_0.keras"
    weights = [classifiers.load_classifier(folder / name).get_weights() for folder in (tmp_path, trained)]
    for own, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-4)


def test_dropout_depends_on_seed_and_epoch(experiment):
    model = small("efficientnet_b0")
    images = np.ones((4, 32, 32, 3), "float32")

    def outputs(seed, epoch):
        experiment.restart_dropout(model, seed, epoch)
        return keras.ops.convert_to_numpy(model(images, training=True))

    first = outputs(0, 1)
    assert np.array_equal(outputs(0, 1), first)
    assert not np.array_equal(outputs(0, 2), first)
    assert not np.array_equal(outputs(1, 1), first)


@pytest.mark.long
def test_classifiers_are_exported_and_measured(experiment, trained, monkeypatch):
    monkeypatch.setattr(experiment, "PRECISIONS", {"float32": None})
    code, output = run(experiment, trained, *QUICK, "--kind", DENSE, "--measure")
    assert code == 0, output
    measured = results(trained)["exports"]["float32"]
    assert measured[PAPER]["difference"] < 1e-4
    assert 0 <= measured[PAPER]["accuracy"] <= 1 and measured[PAPER]["images"] == 100
    assert "accuracy" not in measured[DENSE]  # It has not been trained.


@pytest.mark.long
def test_pruned_layers_keep_as_many_weights_as_the_papers(experiment, tmp_path):
    arguments = "--quick", "--kind", PRUNED, "--model", "efficientnet_b0", "--rate", "0.02"
    code, output = run(experiment, tmp_path, *arguments)
    assert code == 0, output
    found = json.loads((tmp_path / "efficientnet_b0-quick.json").read_text())[PRUNED]["rate 0.02"]["seed 0"]
    paper = classifiers.classifier(PAPER, "efficientnet_b0", TINY, 0)
    dense = classifiers.classifier(DENSE, "efficientnet_b0", TINY, 0)
    assert found["final weights"] == min(classifiers.final_weights(paper), classifiers.final_weights(dense))


@pytest.mark.long
def test_training_needs_no_tensorflow(tmp_path):
    """Train on JAX in a process in which TensorFlow and LiteRT cannot be imported."""
    pytest.importorskip("jax")
    program = (
        "import importlib.util, runpy, sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow', 'ai_edge_litert'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script = EXAMPLES / "vision" / "experiment.py"
    command = [sys.executable, "-c", program, script, tmp_path, "--quick", "--kind", DENSE]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run(list(map(str, command)), check=True, env=environment, capture_output=True)
    assert DENSE in results(tmp_path)


def test_the_sample_has_all_classes():
    images = cifar.load_sample()
    assert np.bincount(images.y_train).tolist() == [20] * 10
    assert np.bincount(images.y_test).tolist() == [10] * 10
    assert images.x_train.shape == (200, 32, 32, 3) and images.x_test.dtype == np.uint8
    # The standard deviation of neighbouring pixels' differences is far below that of noise.
    assert np.diff(images.x_train.astype(float), axis=1).std() < 0.5 * images.x_train.std()
    restored = cifar.from_residual(cifar.to_residual(images.x_test))
    assert np.array_equal(restored, images.x_test)


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The path of a file like that of CIFAR-10, in its folder."""
    monkeypatch.setattr(cifar, "TRAINING", 200)
    monkeypatch.setattr(cifar, "TEST", 100)
    path = tmp_path / cifar.PACKED
    path.parent.mkdir()
    path.write_bytes(cifar.SAMPLE.read_bytes())
    return path


def test_images_from_a_folder(packed):
    images, sample = cifar.load("cifar10", packed.parent.parent), cifar.load_sample()
    assert all(map(np.array_equal, images, sample))


def test_a_wrong_folder_is_one_line(experiment, packed, tmp_path, monkeypatch):
    whole, arguments = packed.read_bytes(), (tmp_path / "out", "--data", packed.parent.parent)
    with np.load(packed) as file:
        arrays = dict(file)

    def message():
        code, output = run(experiment, *arguments)
        assert code == 2
        line = output.strip().splitlines()[-1]
        assert "cifar10_residual.npz" in line and "downloaded by Keras" in line
        return line

    packed.write_bytes(whole[: len(whole) // 2])
    assert "Expected the packed images of CIFAR-10" in message()
    np.savez(packed, x_train=arrays["y_train"])
    assert "Found ['x_train']: the file is of another data set" in message()
    np.savez(packed, **{**arrays, "y_train": arrays["y_train"] + 10})
    assert "classes from 0 to 9" in message()
    monkeypatch.setattr(cifar, "TRAINING", 50_000)
    packed.write_bytes(whole)
    assert "Expected 50000 training and 100 test images" in message()
    packed.unlink()
    assert "there is no such file" in message()
    code, output = run(experiment, *arguments, "--model", "se_resnet152")
    assert code == 2 and "Expected no folder for cifar100" in output
    with pytest.raises(ValueError, match="Expected one of"):
        cifar.load("imagenet")


def test_a_failed_download_is_one_line(monkeypatch):
    def fail():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar100, "load_data", fail)
    with pytest.raises(ValueError, match="Received the error: URL fetch failure"):
        cifar.load("cifar100")


def results_of(recipe="gpu", **scores):
    """Return results in the form of experiment.py: kind -> weights of the final layer and test accuracies of the seeds."""
    tree = {"settings": {"recipe": recipe, "model": "preact_resnet18"}}
    names = {"dense": DENSE, "paper": PAPER, "butterfly": BUTTERFLY, "low_rank": LOW_RANK}
    for name, (weights, tests) in scores.items():
        run = {"weights": 1000 + weights, "final weights": weights, "steps": 10, "loss": [1.0, 0.5, 0.25]}
        run |= {"seconds": [9.0, 1.0, 1.0], "processor seconds": [9.0, 2.0, 2.0]}
        tree[names[name]] = {
            "rate 0.1": {
                f"seed {seed}": {**run, "test": test, "dev": [test - 0.2, test - 0.1, test]} for seed, test in enumerate(tests)
            },
            "rate 0.2": {"seed 0": {**run, "test": 0.1, "dev": [0.1, 0.1, 0.1]}},
        }
    return tree


def test_the_page_says_no_where_the_answer_is_no():
    tree = results_of(
        dense=(100, (0.9, 0.91, 0.92)),
        paper=(101, (0.899, 0.911, 0.92)),
        butterfly=(50, (0.8, 0.81, 0.82)),
        low_rank=(50, (0.85, 0.86, 0.87)),
    )
    tree["exports"] = {
        "float32": {kind: {"bytes": 2048, "seconds": seconds} for kind, seconds in ((DENSE, 2e-3), (PAPER, 1e-3))},
        "int8": {DENSE: {"bytes": 1024, "seconds": 1e-3, "accuracy": 0.5}},
    }
    claims = page.claim_table(tree).splitlines()
    assert "yes, within the noise: +0.00 points" in claims[2]
    assert "**no**: -10.00 points" in claims[2]
    assert "low rank: **no**, -5.00" in claims[3]
    assert "**no**: -1.0 % of the final layer" in claims[4]
    assert "yes: 50.0 % of the final layer, 4.545 % of all" in claims[4]
    assert "no difference: 3, dense 3 | **no**: not reached, dense 3" in claims[5]
    assert "yes: 2.00x" in claims[7]
    assert "not measured" in claims[7]
    scores = page.score_table(tree)
    assert "| dense | 100 | 1,100 | 3 | 91.00 ± 1.00 (90.00 to 92.00) |  | 3 | 100.0 | 0.1 |" in scores
    assert f"| {PAPER} | 2, 1.00 | refused |" in page.export_table(tree)
    assert page.step_of({"settings": {"recipe": "cpu"}}, page.finished(tree)[DENSE]) == 0.2
    assert "one seed: -10.00 points" in page.claim_table(results_of(dense=(9, (0.9,)), paper=(8, (0.8,))))
    assert page.export_table({}) == page.NOT_MEASURED
    tree[PAPER]["rate 0.1"]["seed 1"]["loss"] = [1.0, float("nan"), float("nan")]
    assert "| **no**: diverged with 1 of 3 seeds |" in page.claim_table(tree).splitlines()[2]
    assert "91.00 ± 1.05 (89.90 to 92.00), diverged: 1 |" in page.score_table(tree)
    shared = page.claim_table({**tree, "shared": True}).splitlines()
    assert shared[6] == "| faster training step | not measured | not measured |"
    text = page.with_tables("# Title\n<!-- scores cpu -->\nold\n<!-- end -->\nprose\n", {"cpu": tree})
    assert text.startswith("# Title\n") and text.endswith("<!-- end -->\nprose\n") and "old" not in text
    with pytest.raises(ValueError, match="Expected a table of"):
        page.with_tables("<!-- colors cpu -->\n<!-- end -->", {"cpu": tree})
