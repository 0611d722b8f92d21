"""The command line on bad input: one line on stderr and exit code 2 before the long work, and nothing lost."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras_butterfly_cli import main

from keras_butterfly import export
from keras_butterfly.compression.checkpoint import FILE, Checkpoint, SaveEachEpoch
from keras_butterfly.export.tflite.converter import convert

pytestmark = pytest.mark.usefixtures("eager")
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((64, 16)).astype("float32"), RNG.integers(0, 4, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained model and its data."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("command")
    model = keras.Sequential(
        [
            keras.Input((16,), name="x"),
            layers.Dense(64, "relu", name="hidden"),
            layers.Dense(64, "relu", name="wide"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(path / "m.keras")
    np.savez(path / "d.npz", x=X, y=Y)
    (path / "old.png").touch()
    return path


def run(capsys, *arguments):
    """Run the command in this process; return its exit code and the lines on stderr."""
    with pytest.raises(SystemExit) as stopped:
        main(["--verbose", *map(str, arguments)])  # without it stderr would be another one for the rest of the process
    return stopped.value.code or 0, capsys.readouterr().err.splitlines()


def refused(capsys, message, *arguments):
    code, lines = run(capsys, *arguments)
    assert code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("keras-butterfly: "), lines
    assert message in lines[0]


REPLACE = ("replace", "m.keras", "-o", "new.keras", "--where", "wide", "--steps", 2)
COMPRESS = ("compress", "m.keras", "-o", "new.tflite", "--data", "d.npz")


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "m.keras", "-o", "same.tflite", "--wisdom", "same.tflite"), "--output and --wisdom to be different files"),
        (("export", "m.keras", "-o", "a.tflite", "--wisdom", "./m.keras"), "MODEL and --wisdom to be different files"),
        (("export", "m.keras", "-o", "a.tflite", "--wisdom", "missing/w.json"), "Expected an existing folder"),
        (("export", "m.keras", "-o", "x" * 300 + ".tflite"), "'--output': Expected a path. Received 'xxx"),
        (("export", "m.keras", "-o", "a.tflite", "--tolerance", "nan"), "not a finite number"),
        (("export", "m.keras", "-o", "a.tflite", "--batch-size", 999999999), "whose inputs stay below 2 GiB"),
        (("export", "m.keras", "-o", ""), "'--output': Expected a path. Received: ''"),
        (
            ("export", "m.keras", "-o", "new.tflite/"),
            "'--output': Expected the path of a file. Received a folder: 'new.tflite/'",
        ),
        (("export", "m.keras", "-o", "new\0.tflite"), "'--output': Expected a path"),
        (("export", "m.keras", "-o", "new.tflite", "--data", ""), "'--data': Expected a path"),
        (("demo", "-o", ""), "'--output': Expected a path"),
        ((*COMPRESS, "--target-latency-us", -5), "--target-latency"),
        ((*COMPRESS, "--target-latency-us", "nan"), "not a finite number"),
        ((*COMPRESS, "--target-size-kib", 0), "--target-size"),
        ((*COMPRESS, "--max-accuracy-drop", 101), "--max-accuracy-drop"),
        ((*COMPRESS, "--target-size-kib", 9, "--time-limit", 0), "--time-limit"),
        ((*COMPRESS, "--target-size-kib", 9, "--keras", "m.keras", "--overwrite"), "MODEL and --keras to be different files"),
        ((*REPLACE, "--checkpoint", "state"), "Expected --epochs with --checkpoint"),
        (("replace", "m.keras", "-o", "new.keras", "--where", ""), "--where. Received an empty one"),
        ((*COMPRESS, "--plot", "p.json", "--target-size-kib", 9), "ends in a picture format"),
        (("compare", "m.keras", "--plot", "p.json"), "ends in a picture format"),
        (("compare", "m.keras", "--plot", "m.keras", "--overwrite"), "m.keras and --plot to be different files"),
        ((*REPLACE[:2], "-o", "/proc/new.keras"), "Expected a folder that can be written to. Received: '/proc'"),
        ((*REPLACE[:2], "-o", "x/" * 3000 + "new.keras"), "File name too long"),
        (("demo", "-o", "x" * 300), "File name too long"),
        (("demo", "-o", "/proc/demo"), "Expected an output folder that can be made"),
        (("compare", "m.keras", "--plot", "old.png"), "'old.png' exists. Choose another --plot, or pass --overwrite"),
        (("measure", "m.keras", "--threads", 100000), "`threads` must be at most 256"),
        (("measure", "m.keras", "--runs", 10**30), "`runs` must be at most 1,000,000"),
        (("measure", "m.keras", "--warmup", 10**9), "`warmup` must be at most 1,000,000"),
        ((*REPLACE, "--stacks", 10**30), "`stacks` must be at most 1,024"),
        ((*REPLACE, "--steps", 10**30), "'--steps'"),
        ((*REPLACE, "--epochs", 10**30, "--data", "d.npz"), "'--epochs'"),
        (("demo", "--epochs", 10**30), "'--epochs'"),
        ((*REPLACE[:4], "--where", "wide", "--radix", ",".join(["2"] * 40)), "at most 256 times 64"),
        ((*REPLACE[:4], "--where", "wide", "--radix", ",".join(["7"] * 3000)), "at most 256 times 64"),
        ((*REPLACE[:4], "--where", "a{99999999999}"), "Expected a name or a regular expression for --where"),
        ((*REPLACE[:4], "--where", "(?:" * 2000 + ")" * 2000), "Expected a name or a regular expression for --where"),
        ((*REPLACE[:4], "--where", "[[:alpha:]]"), "Expected a layer to replace"),
    ],
)
def test_nonsense_is_one_line(arguments, message, capsys, folder):
    before = sorted(os.listdir(folder))
    refused(capsys, message, *arguments)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.int64(3), "Expected one label for each of 64 examples"),
        (Y[:5], "Expected as many labels as examples"),
        (Y + 4, "Expected labels within 0 .. 3. Received labels from 4 to 7"),
        (Y - 1, "Expected labels within 0 .. 3. Received labels from -1 to"),
        (np.where(Y == 0, np.nan, Y), "The array 'y' holds some that are NaN or infinite"),
        (np.array([str(label) for label in Y]), "Expected integer labels. Received: <U1"),
        (np.eye(4, dtype=int)[Y], "one-hot"),
        (Y + 0.5, "Expected integer labels"),
        (Y + 1j, "Expected integer labels. Received: complex128"),
    ],
    ids=["scalar", "few", "large", "negative", "nan", "text", "one-hot", "fractions", "complex"],
)
def test_labels_that_are_no_classes(labels, message, capsys, folder):
    np.savez(folder / "bad.npz", x=X, y=labels)
    refused(capsys, message, *REPLACE, "--data", "bad.npz", "--epochs", 1)
    assert not (folder / "new.keras").exists()


def test_a_model_that_is_not_built_is_refused_before_a_training(capsys, folder, tmp_path):
    keras.Sequential([layers.Dense(4)]).save(tmp_path / "unbuilt.keras")
    command = ("replace", tmp_path / "unbuilt.keras", "-o", tmp_path / "new.keras", "--epochs", 1, "--data", "d.npz")
    refused(capsys, "built", *command)


def test_a_model_without_inputs_is_not_compared_on_data(capsys, folder, tmp_path):
    content = convert(lambda: {"y": tf.constant([[1.0, 2.0]])}, ())
    (tmp_path / "none.tflite").write_bytes(content)
    refused(capsys, "Expected a model with inputs", "compare", tmp_path / "none.tflite", "--runs", 1, "--data", "d.npz")


def test_a_model_with_a_loss_of_the_users_own_is_exported(capsys, folder, tmp_path):
    model = keras.models.load_model("m.keras")
    model.compile("adam", unknown_loss)
    model.save(tmp_path / "own.keras")
    command = ("export", tmp_path / "own.keras", "-o", tmp_path / "own.tflite", "--effort", "estimate", "--lowering", "dense")
    assert run(capsys, *command)[0] == 0


def unknown_loss(wanted, given):
    return keras.ops.mean(keras.ops.square(keras.ops.cast(wanted, given.dtype) - given))


def test_names_of_files_are_shown_as_they_are(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exported = export.to_tflite(keras.models.load_model(folder / "m.keras"), lowering="dense")
    names = ["[red].tflite", "[/x].tflite", "a$b.tflite", os.fsdecode(b"\xff.tflite")]
    os.mkdir("[")
    for name in names:
        exported.save(name)
    with pytest.raises(SystemExit) as stopped:
        main(["--verbose", "compare", *names, "--runs", "1", "--plot", "latencies.png"])
    shown = capsys.readouterr().out
    assert not stopped.value.code
    assert all(name in shown for name in names[:3])
    assert (tmp_path / "latencies.png").exists()


def test_labels_to_train_on_are_checked_before_the_work(capsys, folder, monkeypatch):
    np.savez(folder / "bad.npz", x=X, y=Y + 4, x_test=X, y_test=Y)
    no_fits(monkeypatch)
    monkeypatch.setattr("keras_butterfly.export.compression.costs.to_tflite", None)
    message = "Expected labels within 0 .. 3. Received"
    refused(capsys, message, *REPLACE, "--data", "bad.npz", "--epochs", 1)
    refused(capsys, message, *COMPRESS[:-1], "bad.npz", "--target-size-kib", 9)


def no_exports(monkeypatch):
    monkeypatch.setattr("keras_butterfly.export.to_tflite", None)


@pytest.fixture(scope="module")
def others(folder):
    """Write models of other tasks, damaged, unbuilt and NaN ones to `folder`, and data that fit none or one of them."""
    keras.Sequential([layers.Dense(4)]).save(folder / "unbuilt.keras")
    spoiled = keras.models.load_model(folder / "m.keras")
    spoiled.get_layer("hidden").bias.assign(np.full(64, np.nan))
    spoiled.save(folder / "nan.keras")
    for name, inputs, outputs in (("wide.keras", 17, 4), ("five.keras", 16, 5)):
        keras.Sequential([keras.Input((inputs,), name="x"), layers.Dense(outputs, activation="softmax")]).save(folder / name)
    (folder / "damaged.keras").write_bytes((folder / "m.keras").read_bytes()[:500])
    (folder / "damaged.tflite").write_bytes(b"TFL3" * 10)
    np.savez(folder / "labels.npz", x=X, y=Y + 4)
    np.savez(folder / "few.npz", x=X, y=Y[:5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m.keras", "missing.keras"), "Received: 'missing.keras'"),
        (("m.keras", "damaged.keras"), "'damaged.keras' could not be loaded"),
        (("m.keras", "nan.keras"), "Expected finite weights. The layer 'hidden'"),
        (("m.keras", "unbuilt.keras"), "is not built"),
        (("m.keras", "damaged.tflite"), "Expected a TFLite model that the stock runtime loads"),
        (("m.keras", "--threads", 1000), "`threads` must be at most 256"),
        (("m.keras", "wide.keras", "--data", "d.npz"), "Received: [(64, 16)]"),
        (("m.keras", "five.keras", "--data", "d.npz"), "Expected models of the same task. 'five.keras' is of another"),
        (("m.keras", "--data", "labels.npz"), "Expected labels within 0 .. 3"),
        (("m.keras", "--data", "few.npz"), "Expected as many labels as examples"),
    ],
)
def test_a_comparison_checks_all_before_the_first_export(arguments, message, capsys, others, monkeypatch):
    no_exports(monkeypatch)
    refused(capsys, message, "compare", *arguments)


@pytest.mark.parametrize("damage", ["deflate", "header", "huge", "cut", "text"])
def test_damaged_data_are_named(damage, capsys, folder):
    path = folder / "damaged.npz"
    path.unlink(missing_ok=True)
    if damage == "text":
        path.write_text("no zip")
    elif damage == "cut":
        path.write_bytes((folder / "d.npz").read_bytes()[:400])
    else:
        head = io.BytesIO()
        np.save(head, X)
        content = head.getvalue()
        if damage == "huge":
            content = content.replace(b"(64, 16), ", b"(9999999999999, 16), ")
        if damage == "header":
            content = content.replace(b"{'descr'", b"{'descr((")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)
        if damage == "deflate":
            whole = bytearray(path.read_bytes())
            whole[60:400] = bytes(340)
            path.write_bytes(bytes(whole))
    refused(capsys, "'damaged.npz' could not be read", "export", "m.keras", "-o", "a.tflite", "--data", "damaged.npz")


def test_a_file_that_loads_but_does_not_run_is_an_error_in_words(capsys, folder, monkeypatch):
    from ai_edge_litert.interpreter import Interpreter

    code, lines = run(capsys, "export", "m.keras", "-o", "fine.tflite", "--effort", "estimate", "--overwrite")
    assert code == 0, lines

    def broken(self):
        raise RuntimeError("gather index out of bounds\nNode number 3 failed to invoke.")

    monkeypatch.setattr(Interpreter, "invoke", broken)
    refused(capsys, "Expected a model that the stock runtime runs", "measure", "fine.tflite")


def test_nan_in_the_data_of_a_comparison(capsys, folder):
    np.savez(folder / "nan.npz", x=np.where(X > 2, np.nan, X), y=Y)
    refused(capsys, "The array 'x' holds some that are NaN or infinite", "compare", "m.keras", "--data", "nan.npz")


@pytest.mark.parametrize("name", ["x", "y", "y_test"])
@pytest.mark.parametrize("dtype", ["timedelta64[s]", "datetime64[s]"])
def test_dates_and_times_are_no_numbers(name, dtype, capsys, folder):
    np.savez(folder / "times.npz", **{"x": X, "y": Y, name: Y.astype(dtype)})
    refused(capsys, f"The array '{name}' holds dates or times: {dtype}", *REPLACE, "--data", "times.npz", "--epochs", 1)


@pytest.mark.parametrize(
    ("name", "message"), [("pipe", "pipe"), ("folder", "folder"), ("loop", "Too many levels"), ("x" * 300, "too long")]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("summary", "{}.keras"),
        ("replace", "m.keras", "-o", "new.keras", "--data", "{}.npz"),
        ("export", "m.keras", "-o", "new.tflite", "--wisdom", "{}.json"),
        ("measure", "{}.tflite"),
        ("compare", "m.keras", "{}.keras"),
    ],
)
def test_what_is_no_regular_file_is_not_read(name, message, arguments, capsys, tmp_path, folder):
    path = tmp_path / arguments[-1].format(name)
    if name == "pipe":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name == "loop":
        path.symlink_to(path)
    refused(capsys, message, *arguments[:-1], path)


def test_a_rerun_with_the_same_seed_gives_the_same_weights(capsys, folder):
    found = []
    for name in ("one.keras", "two.keras"):
        code, lines = run(
            capsys,
            "replace",
            "m.keras",
            "-o",
            name,
            "--where",
            "wide",
            "--steps",
            2,
            "--data",
            "d.npz",
            "--epochs",
            1,
            "--seed",
            3,
        )
        assert code == 0, lines
        found.append(keras.models.load_model(folder / name).get_weights())
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_accuracies_before_and_after_are_printed(capsys, folder):
    with pytest.raises(SystemExit):
        main(["--verbose", *map(str, REPLACE), "--data", "d.npz", "--epochs", "1", "--json", "--overwrite"])
    report = json.loads(capsys.readouterr().out)
    assert list(report["accuracies"]) == ["original", "before distillation", "after distillation"]
    model = keras.models.load_model(folder / "m.keras")
    assert report["accuracies"]["original"] == np.mean(model.predict(X, verbose=0).argmax(-1) == Y)


def test_the_checkpoint_is_kept_until_the_output_is_written(capsys, folder, monkeypatch):
    from keras_butterfly_cli import commands

    def full(*_):
        raise OSError(28, "No space left on device", "out.keras")

    arguments = ("replace", "m.keras", "-o", "out.keras", "--where", "wide", "--steps", 2, "--data", "d.npz", "--epochs", 1)
    with monkeypatch.context() as patch:
        patch.setattr(commands.files, "write", full)
        code, lines = run(capsys, *arguments, "--checkpoint", "state")
    assert code == 1 and "No space left on device" in lines[-1] and "out.keras" in lines[-1]
    assert (folder / "state" / FILE).exists()
    code, lines = run(capsys, *arguments, "--checkpoint", "state")
    assert code == 0, lines
    assert (folder / "out.keras").exists() and not list((folder / "state").iterdir())


TRAIN = ("replace", "m.keras", "-o", "trained.keras", "--where", "wide", "--steps", 2, "--epochs", 2, "--checkpoint", "half")


@pytest.fixture
def interrupted(folder, capsys, monkeypatch):
    """The folder with the checkpoint of a training of d.npz that was interrupted after its first epoch."""
    save = SaveEachEpoch.on_epoch_end

    def interrupt(self, epoch, logs=None):
        save(self, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SaveEachEpoch, "on_epoch_end", interrupt)
        code, lines = run(capsys, *TRAIN, "--data", "d.npz")
    assert (code, lines[-1]) == (1, "keras-butterfly: interrupted")
    yield folder
    shutil.rmtree(folder / "half", ignore_errors=True)


def no_fits(monkeypatch):
    def fit(*_, **__):
        raise AssertionError("refused after the long work only")

    monkeypatch.setattr("keras_butterfly.replace_dense", fit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", 3), "What differs: --seed (0, now 3). Go on"),
        (("--steps", 3), "--steps (2, now 3)"),
        (("--initialize", "fresh"), "--initialize (auto, now fresh)"),
        (("--data", "others.npz"), "What differs: --data. Go on"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_before_the_fits(change, message, capsys, interrupted, monkeypatch):
    np.savez(interrupted / "others.npz", x=-X, y=Y)
    no_fits(monkeypatch)
    refused(capsys, message, *TRAIN, "--data", "d.npz", *change)


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_a_damaged_checkpoint_is_refused_before_the_fits(content, capsys, interrupted, monkeypatch):
    (interrupted / "half" / FILE).write_bytes(content)
    no_fits(monkeypatch)
    refused(capsys, "is damaged", *TRAIN, "--data", "d.npz")


def test_an_interrupted_training_goes_on_and_leaves_nothing_but_the_output(capsys, interrupted):
    with Checkpoint("half").held():
        refused(capsys, "Another run saves its training in 'half'", *TRAIN, "--data", "d.npz")
    code, lines = run(capsys, *TRAIN, "--data", "d.npz")
    assert code == 0, lines
    assert not list((interrupted / "half").iterdir())
    (interrupted / "trained.keras").unlink()


def test_a_refused_command_leaves_no_checkpoint_folder(capsys, folder):
    refused(capsys, "Expected --data to train on", *TRAIN)
    refused(capsys, "Expected names of dense layers", *TRAIN, "--data", "d.npz", "--where", "nobody")
    assert not (folder / "half").exists()


def test_a_folder_of_a_users_files_is_no_checkpoint(capsys, folder):
    (folder / "precious").mkdir()
    (folder / "precious" / "thesis.tex").write_text("years of work")
    refused(
        capsys,
        "which holds 'thesis.tex'",
        *REPLACE,
        "--overwrite",
        "--data",
        "d.npz",
        "--epochs",
        1,
        "--checkpoint",
        "precious",
    )
    assert (folder / "precious" / "thesis.tex").read_text() == "years of work"


def test_stages_are_lines_where_stderr_is_no_terminal(capsys, folder):
    code, lines = run(capsys, *REPLACE, "--data", "d.npz", "--initialize", "fit", "--epochs", 2, "--overwrite")
    assert code == 0
    assert any(line.startswith("fit wide") for line in lines), lines
    assert sum("distill, epoch" in line and "loss" in line for line in lines) == 2


def process(folder, *arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "keras_butterfly", *arguments], cwd=folder, timeout=180, **{"stdout": -1, "stderr": -1, **kwargs}
    )


@pytest.mark.long
def test_the_module_runs_as_a_command_on_an_ascii_terminal(folder):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    (folder / "größe.keras").write_bytes((folder / "m.keras").read_bytes())
    for name, code in (("größe.keras", 0), ("missing-größe.keras", 2)):
        done = process(folder, "summary", name, env=environment)
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
    (folder / "größe.keras").unlink()


@pytest.mark.long
def test_a_closed_stderr_is_no_failure(folder):
    command = f'exec "{sys.executable}" -m keras_butterfly summary m.keras 2>&-'
    done = subprocess.run(["sh", "-c", command], cwd=folder, stdout=subprocess.PIPE, timeout=180)
    assert done.returncode == 0
    assert b"hidden" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("--help",), ("summary", "m.keras"), ("summary", "m.keras", "--json")])
def test_a_full_standard_output_is_named(arguments, folder):
    with open("/dev/full", "wb") as full:
        done = process(folder, *arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"keras-butterfly: could not write to standard output: No space left")


@pytest.mark.long
def test_a_full_stderr_keeps_the_exit_code(folder):
    with open("/dev/full", "wb") as full:
        assert process(folder, "summary", "missing.keras", stderr=full).returncode == 2


SLOW_SAVE = """
import keras, signal, time
from keras_butterfly_cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts commands in the background with SIGINT ignored

def save(model, path):
    path.write_text("half")
    print("saving", flush=True)
    time.sleep(60)

keras.Model.save = save
main(["replace", "m.keras", "-o", "stopped.keras", "--where", "wide", "--initialize", "fresh"])
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code", "message"), [(signal.SIGTERM, 143, b"terminated"), (signal.SIGINT, 1, b"interrupted")]
)
def test_a_stopped_command_leaves_no_files(number, code, message, folder):
    before = sorted(os.listdir(folder))
    command = subprocess.Popen([sys.executable, "-c", SLOW_SAVE], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout.readline() == b"saving\n"
    assert sorted(os.listdir(folder)) != before
    command.send_signal(number)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == code
    assert b"Traceback" not in stderr and stderr.splitlines()[-1] == b"keras-butterfly: " + message
    assert sorted(os.listdir(folder)) == before


def swallow():
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)
    time.sleep(60)


def swallow_in_a_callback():
    class Collected:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    Collected()
    time.sleep(60)


def replace_by_another_error():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise AttributeError("partially initialized module") from None


@pytest.mark.parametrize("library", [swallow, swallow_in_a_callback, replace_by_another_error])
def test_an_interrupt_that_a_library_swallows_stops_the_command(library, capsys, monkeypatch):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("keras_butterfly_cli.commands.summary", lambda *_: library())
    monkeypatch.setattr("keras_butterfly_cli.process.REPEAT_SECONDS", 0.1)
    try:
        code, lines = run(capsys, "summary", "m.keras")
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert (code, [line for line in lines if line]) == (1, ["keras-butterfly: interrupted"])


@pytest.mark.parametrize(
    ("links", "options", "message"),
    [
        ({"dense.tflite": "missing"}, (), "already holds dense.tflite"),
        ({"dense.tflite": "report.json"}, ("--overwrite",), "dense.tflite and report.json to be different files"),
    ],
)
def test_the_files_of_a_demonstration_are_checked_first(links, options, message, capsys, tmp_path):
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    refused(capsys, message, "demo", "-o", tmp_path, *options)


def test_a_deleted_working_directory_is_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused(capsys, "Expected a working directory that exists", "summary", "m.keras")
