"""Tests of the spoken digits: the recordings, the front ends, and a short training that starts, stops and goes on."""

import json
import shutil
import sys
import wave
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "dense_heavy")]

import dense_heavy_page  # noqa: E402
import front_ends  # noqa: E402
import speech  # noqa: E402
import speech_data  # noqa: E402

from keras_butterfly import transforms  # noqa: E402

SAMPLE = EXAMPLES / "data" / "fsdd_sample.npz"


@pytest.fixture(scope="module")
def sample():
    return speech_data.load("sample")


def write_wave(path, samples, rate=speech_data.RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Make a folder like a clone of the data set, with 600 short recordings."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "recordings").mkdir()
    for digit in range(10):
        for name in ("theo", "ann"):
            for index in range(30):
                write_wave(folder / "recordings" / f"{digit}_{name}_{index}.wav", [digit, index, 7])
    return folder


def test_the_sample_holds_five_recordings_of_each_digit_and_person(sample):
    assert len(sample.clips) == 300
    assert set(zip(sample.digit, sample.speaker, sample.index, strict=True)) == set(np.ndindex(10, 6, 5))
    assert all(clip.dtype == np.int16 and len(clip) > 1000 for clip in sample.clips)


def test_wave_files_are_read_in_order(waves):
    for folder in (waves, waves / "recordings"):
        found = speech_data.load(folder)
        assert len(found.clips) == 600
        assert [part[-1] for part in found[1:]] == [9, 1, 29]  # the speakers are numbered by name
        assert found.clips[-1].tolist() == [9, 29, 7]


def test_the_download_is_read_from_its_folder(waves, tmp_path, monkeypatch):
    shutil.copytree(waves, tmp_path / "free-spoken-digit-dataset-master")
    monkeypatch.setattr(keras.utils, "get_file", lambda *arguments, **settings: str(tmp_path))
    assert len(speech_data.load().clips) == 600

    def fail(*arguments, **settings):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    with pytest.raises(ValueError, match=r"Expected to download .* URL fetch failure\. Get the recordings by: git clone https"):
        speech_data.load()


def packed(folder, content=None, **changes):
    """Make a folder with the file of recordings end to end, changed or with another content."""
    path = folder / "fsdd" / "fsdd_0-19.npz"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
        return folder
    with np.load(SAMPLE) as file:
        arrays = {name: value for name, value in {**file, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    return folder


def test_recordings_end_to_end_are_read(tmp_path, sample):
    found = speech_data.load(packed(tmp_path))
    np.testing.assert_array_equal(found.clips[7], sample.clips[7])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "There is no folder"),
        (lambda folder: folder, "in .*Found 0"),
        (lambda folder: packed(folder, SAMPLE.read_bytes()[:5000]), "It cannot be read"),
        (lambda folder: packed(folder, label=None, x_train=np.zeros(3)), r"It lacks the arrays \['label'\]"),
        (lambda folder: packed(folder, audio=np.zeros(9, np.int16)), "Their offsets and labels do not fit the samples"),
    ],
)
def test_a_folder_without_the_recordings_is_one_line(tmp_path, make, message):
    with pytest.raises(ValueError, match=rf"^Expected .*{message}.* Get the recordings by: git clone https\S+$") as raised:
        speech_data.load(make(tmp_path))
    assert "\n" not in str(raised.value)


def test_damaged_or_other_wave_files_are_refused(tmp_path):
    path = tmp_path / "0_ann_0.wav"
    write_wave(path, range(100))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"Expected 200 bytes of sound in .*It holds 150"):
        speech_data.read_wave(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="It cannot be read"):
        speech_data.read_wave(path)
    write_wave(path, range(100), 16000)
    with pytest.raises(ValueError, match=r"Expected one channel of 16 bits at 8000 .*Received: \(1, 2, 16000\)"):
        speech_data.read_wave(path)


def test_waveforms_have_one_length_and_one_loudness():
    rng = np.random.default_rng(0)
    clips = [rng.integers(-1000, 1000, size).astype(np.int16) for size in (50, 100, 301)]
    still = speech_data.waveforms(clips, 100)
    assert still.shape == (3, 100)
    np.testing.assert_allclose(still[0, 25:75], clips[0] / np.sqrt(np.mean(clips[0].astype(float) ** 2)), rtol=1e-6)
    assert not still[0, :25].any()
    moved = speech_data.waveforms(clips, 100, np.random.default_rng(1))
    assert moved.shape == (3, 100)
    assert np.isfinite(moved).all()
    assert not np.allclose(moved[0], still[0])


def test_front_ends_that_start_at_the_transform_compute_it(rng):
    x = rng.standard_normal((5, front_ends.FRAME)).astype("float32")
    spectrum = np.fft.rfft(x * front_ends.window(), norm="ortho")
    energies = np.abs(spectrum) ** 2
    k = transforms.real_dft_order(front_ends.FRAME)
    real = k <= front_ends.FRAME // 2  # both parts of a frequency count alike in the bands
    expected = energies[:, k[real]] @ front_ends.mel_bands()[real]
    for kind in (front_ends.FIXED, front_ends.DENSE, front_ends.BUTTERFLY, front_ends.PRUNED):
        made = front_ends.KINDS[kind](None)
        found = keras.ops.convert_to_numpy(made.layer(x)) ** 2 @ made.bands
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_front_end_with_a_band_for_each_frequency(rng):
    x = rng.standard_normal((5, front_ends.FRAME)).astype("float32")
    made = front_ends.KINDS[front_ends.ALL_FREQUENCIES](None)
    found = keras.ops.convert_to_numpy(made.layer(x)) ** 2 @ made.bands
    assert made.layer.count_params() == front_ends.butterfly_weights()
    spectrum = np.fft.rfft(x * front_ends.window(), norm="ortho")[:, :-1]
    np.testing.assert_allclose(found, np.abs(spectrum) ** 2, rtol=1e-3, atol=1e-3)


def test_rivals_have_the_butterflys_weights(rng):
    outputs = rng.standard_normal((300, front_ends.FRAME)).astype("float32")
    rivals = (front_ends.RANDOM, front_ends.LOW_RANK, front_ends.LOW_RANK_DATA, front_ends.NARROW)
    assert {front_ends.KINDS[kind](outputs).layer.count_params() for kind in rivals} == {front_ends.butterfly_weights()}
    assert front_ends.KINDS[front_ends.FIXED](outputs).layer.trainable_variables == []


def test_every_band_of_the_narrow_front_end_is_at_its_center():
    made = front_ends.narrow()
    whole = front_ends.transform()
    kernel = keras.ops.convert_to_numpy(made.layer.kernel)
    k = np.array([np.argmin(np.abs(whole - column[:, None]).sum(0)) for column in kernel.T])
    hertz = front_ends.frequencies()[k]
    np.testing.assert_array_equal(hertz[:32], hertz[32:])
    np.testing.assert_allclose(hertz[:32], 700 * np.expm1(front_ends.edges()[1:-1] / 1127), atol=16)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", [front_ends.BUTTERFLY, pytest.param(front_ends.PRUNED, marks=pytest.mark.long)])
def test_the_experiment_trains_and_goes_on(kind, tmp_path):
    arguments = [str(tmp_path), "--quick", "--kind", kind]
    outcome = CliRunner().invoke(speech.main, arguments)
    assert outcome.exit_code == 0, outcome.output
    results = json.loads((tmp_path / "speech.json").read_text())
    run = results["speakers"][kind]["rate 0.0001"]["seed 0"]
    assert run["losses"][1] < run["losses"][0]
    assert run["weights"]["front end"] == pytest.approx(front_ends.butterfly_weights(), rel=1e-3)
    assert 0 <= run["accuracy"] <= 1
    again = CliRunner().invoke(speech.main, arguments)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "speech.json").read_text()) == results
    assert "loss" not in again.output  # nothing is trained again


def test_bad_data_are_one_line_and_write_nothing(tmp_path):
    outcome = CliRunner().invoke(speech.main, [str(tmp_path / "out"), "--data", str(tmp_path / "nowhere")])
    assert outcome.exit_code == 2
    assert "There is no folder" in outcome.output
    assert not (tmp_path / "out").exists()


def test_the_sample_is_written_from_the_recordings(tmp_path, waves):
    speech_data.write_sample(waves, tmp_path / "sample.npz")
    with zipfile.ZipFile(tmp_path / "sample.npz") as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_LZMA}
    found = speech_data.read_arrays(tmp_path / "sample.npz")
    assert len(found.clips) == 100
    assert found.clips[-1].tolist() == [9, 4, 7]


ROOT = EXAMPLES.parent
TREES = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "dense_heavy").glob("*.json"))}


def test_the_tables_of_the_page_are_those_of_the_results():
    page = (ROOT / "docs" / "dense-heavy.md").read_text()
    assert dense_heavy_page.with_tables(page, TREES) == page
    for name in ("speech", "speech-exports"):
        assert f"<!-- table {name} -->\n| front end |" in page


def test_a_table_of_unknown_results_is_refused():
    with pytest.raises(ValueError, match=r"Expected a table of .* Received: '<!-- table moon -->'"):
        dense_heavy_page.with_tables("<!-- table moon -->\n<!-- end -->", TREES)


def test_the_best_rate_is_that_of_all_seeds_and_the_highest_mean():
    def run(*accuracies):
        return {f"seed {seed}": {"accuracy": value, "weights": {"front end": 7}} for seed, value in enumerate(accuracies)}

    tree = {"speakers": {"dense": {"rate 0.001": run(0.9), "rate 0.0001": run(0.5, 0.6), "rate 3e-05": run(0.6, 0.7)}}}
    found = dense_heavy_page.best(tree, "dense")
    assert (found.rate, found.accuracies, found.weights, found.mean) == (3e-5, (0.6, 0.7), 7, pytest.approx(0.65))


def test_the_standard_error_of_a_difference_is_that_of_the_pairs_of_speakers():
    one_seed, two_seeds = (dense_heavy_page.difference(np.array(points)) for points in ([1, -2, 4], [0, -1, 4, 2, -3, 4]))
    assert one_seed == two_seeds == "+1.0 ± 1.7 (+1.0, -2.0, +4.0)"


def test_the_plot_shows_every_front_end():
    axis = dense_heavy_page.plot_speech(TREES["speech"]).axes[0]
    assert len(axis.get_yticklabels()) == len(dense_heavy_page.speech_kinds(TREES["speech"]))
