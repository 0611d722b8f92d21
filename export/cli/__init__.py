"""The command line, `keras-butterfly`: the arguments of each command.

It is installed as a separate package, so that TensorFlow is imported only when a command needs it. Therefore --help answers at
once, wrong arguments are reported in one line on stderr, and TensorFlow's log can be silenced before TensorFlow starts.
"""

import errno
import os
import signal
import sys
import tempfile
from contextlib import suppress

import click
from keras_butterfly_cli.parameters import FILE, FOLDER, POSITIVE, Number, RadixType
from keras_butterfly_cli.process import discard_unwritten, keep_to_the_encoding, signals_raised, silence_native_code

DEFAULT_OUTPUT = "butterfly-demo"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras-butterfly")
@click.option("--verbose", is_flag=True, help="Show what TensorFlow and the TFLite runtime log.")
def cli(verbose):
    """Butterfly layers for Keras: train, export to TFLite, verify, measure."""
    keep_to_the_encoding()
    if not verbose:
        silence_native_code()
    try:
        os.getcwd()
    except OSError:
        raise ValueError("Expected a working directory that exists. Received one that was deleted. Go to another.") from None


@cli.command()
@click.option(
    "--dataset",
    type=click.Choice(["fashion_mnist_sample", "fashion_mnist", "mnist", "digits"]),
    default="fashion_mnist_sample",
    show_default=True,
    help="The sample is part of this package, and digits of scikit-learn. keras.datasets downloads fashion_mnist and mnist.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 1_000_000),
    help="Passes over the training data. [default: 12; digits 40; fashion_mnist and mnist 5]",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Seed of all random draws.")
@click.option("-o", "--output", type=FOLDER, default=DEFAULT_OUTPUT, show_default=True, help="Folder to write to.")
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
def demo(dataset, epochs, seed, output, overwrite):
    """Train three networks, export them, and compare the files.

    The networks are a dense one, the same with butterfly layers, and a narrow dense one that has as many weights as the
    butterfly network. Their accuracy, size and latency are compared.

    Writes dense.tflite, butterfly.tflite, narrow_dense.tflite, report.json and report.png to the output folder.
    """
    from keras_butterfly_cli.demonstration import run

    run(dataset, output, epochs=epochs, seed=seed, overwrite=overwrite)


@cli.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--overwrite", is_flag=True, help="Replace the examples in a folder that holds files. Its other files stay.")
def examples(folder, overwrite):
    """Write the notebooks to the folder DIR.

    The Python files and the data that the notebooks need are written too.

    To run the notebooks: pip install 'keras-butterfly[examples]'
    """
    from keras_butterfly_cli.example_files import run

    run(folder, overwrite)


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing file.")
DEVICE = click.option(
    "--device",
    default="host",
    show_default=True,
    help="Where files are measured: a device that `keras-butterfly devices` lists, such as browser, arm64 or ssh:pi@raspberry.",
)


def _output(suffix: str):
    """Return the option --output of a command that writes a file of this suffix."""
    return click.option("-o", "--output", type=FILE, required=True, help=f"The {suffix} file to write.")


@cli.command()
@click.argument("model", type=FILE)
@AS_JSON
def summary(model, as_json):
    """Show the weights, multiply-adds and bytes of each layer.

    MODEL is a .keras file.
    """
    from keras_butterfly_cli.commands import summary as run

    run(model, as_json)


@cli.command()
@click.argument("model", type=FILE)
@_output(".keras")
@click.option(
    "--kind",
    type=click.Choice(["auto", "butterfly", "butterfly_dense", "low_rank"]),
    default="auto",
    show_default=True,
    help="Class of the new layers.",
)
@click.option("--k", type=click.IntRange(min=1), help="Rank of ButterflyDense.")
@click.option("--stacks", type=click.IntRange(min=1), default=1, show_default=True, help="Butterflies that a Butterfly sums.")
@click.option(
    "--rank", type=click.IntRange(min=1), help="Rank of a LowRank layer, which needs it, or of a term added to a Butterfly."
)
@click.option(
    "--radix",
    type=RadixType(),
    help='Nodes that a stage of a butterfly mixes: a power of two, "auto", or one number for each stage, such as 32,32. '
    "Default: 4 for a Butterfly, 2 for a ButterflyDense.",
)
@click.option("--where", multiple=True, help="Name or path of a layer to replace, repeatable; or one regular expression.")
@click.option("--min-weights", type=click.IntRange(min=1), help="Replace only layers with at least this many weights.")
@click.option(
    "--initialize",
    type=click.Choice(["auto", "fit", "fresh"]),
    default="auto",
    show_default=True,
    help="Fit the new layers to the old ones, or start from random ones. auto: fit without --epochs; with it what distills "
    "best, which is fit for low-rank layers and fresh for butterflies.",
)
@click.option("--steps", type=click.IntRange(0, 1_000_000), help="Gradient steps of each fit. [default: 300]")
@click.option(
    "--data", type=FILE, help="A .npz with inputs x and labels y. Without labels that are classes no accuracies are shown."
)
@click.option(
    "--epochs", type=click.IntRange(0, 1_000_000), default=0, show_default=True, help="Passes of distillation over the data."
)
@click.option(
    "--checkpoint", type=FOLDER, help="Folder in which a distillation is saved, to continue it after an interruption."
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@OVERWRITE
@AS_JSON
def replace(**options):
    """Replace the dense layers of MODEL by butterfly layers.

    MODEL is a .keras file. Without --data and --epochs the new layers are fitted but not trained, and the new model is far less
    accurate than MODEL until you train it. The command compress chooses the layers for a latency, a size or an accuracy.
    """
    from keras_butterfly_cli.commands import replace as run

    run(**options)


@cli.command()
@click.argument("model", type=FILE)
@_output(".tflite")
@click.option(
    "--data",
    type=FILE,
    required=True,
    help="A .npz with inputs x, and labels y if there are any. Models are scored on x_test and y_test, or on a held-back part.",
)
@click.option("--target-latency-us", type=POSITIVE, help="Largest median latency in microseconds.")
@click.option("--target-size-kib", type=POSITIVE, help="Largest .tflite file in KiB.")
@click.option(
    "--max-accuracy-drop", type=Number(min=0, max=100), help="Largest loss of accuracy in percentage points, 0 to 100."
)
@click.option(
    "--quantize",
    type=click.Choice(["float16", "dynamic", "int8", "any"]),
    help="Precision of the files; any: the search chooses among float32, dynamic and int8. [default: float32]",
)
@click.option("--time-limit", type=POSITIVE, help="Seconds after which the search ends with what it has found.")
@click.option("--folder", type=FOLDER, help="Folder in which the search is kept, to continue it after an interruption.")
@click.option(
    "--epochs", type=click.IntRange(1, 1_000_000), default=6, show_default=True, help="Passes over the data in each training."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True)
@click.option(
    "--learning-rate",
    type=POSITIVE,
    multiple=True,
    default=(1e-3, 3e-3),
    show_default=True,
    help="Repeatable: the rate that is best is kept. With --max-accuracy-drop alone the first model of each kind decides.",
)
@click.option(
    "--where",
    multiple=True,
    help="Name or path of a layer that may change, repeatable; or one regular expression. No width multiplier is tried then.",
)
@click.option("--min-weights", type=click.IntRange(min=1), help="Change only layers with at least this many weights.")
@click.option("--keras", "keras_output", type=FILE, help="Write the model to this .keras file too.")
@click.option("--plot", type=FILE, help="Write a picture of all models tried to this file too.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@OVERWRITE
@AS_JSON
def compress(**options):
    """Find the best small model that meets the targets.

    MODEL is a .keras file. Its layers stay dense, or become low-rank pairs or butterflies of several kinds, or the whole
    network becomes narrower. Give at least one target: --target-latency-us, --target-size-kib or --max-accuracy-drop. With
    --max-accuracy-drop alone the fastest model that meets it is written, and otherwise the most accurate one.
    """
    from keras_butterfly_cli.commands import compress as run

    run(**options)


@cli.command()
@click.argument("model", type=FILE)
@_output(".tflite")
@click.option("--quantize", type=click.Choice(["float16", "dynamic", "int8"]), help="[default: float32]")
@click.option("--data", type=FILE, help="A .npz with typical inputs, named x or as the model's inputs; needed for int8.")
@click.option("--integer-io", is_flag=True, help="With int8: inputs and outputs in int8 too.")
@click.option(
    "--lowering",
    type=click.Choice(["auto", "gather", "slice", "fused", "folded", "dense"]),
    default="auto",
    show_default=True,
    help="How butterfly layers are written in TFLite's operators. auto: the best way for each layer.",
)
@click.option(
    "--effort",
    type=click.Choice(["measure", "quick", "estimate"]),
    help="How the best way is found: by many measurements, by few, or by estimates. [default: measure]",
)
@click.option(
    "--objective", type=click.Choice(["latency", "size"]), default="latency", show_default=True, help="What the best way saves."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Examples that the file takes at once."
)
@click.option("--tolerance", type=POSITIVE, help="Largest error of an output, relative to the largest output.")
@DEVICE
@click.option("--wisdom", type=FILE, help="File of earlier measurements. They are used, and new ones are added.")
@click.option("--card", is_flag=True, help="Measure the file, and write a model card beside it, with the suffix .md.")
@click.option("--explain", is_flag=True, help="Print all ways to write each butterfly layer that were considered.")
@OVERWRITE
@AS_JSON
def export(**options):
    """Convert MODEL, a .keras file, to TFLite.

    The file is run, and its outputs are compared with those of Keras.
    """
    from keras_butterfly_cli.commands import export as run

    run(**options)


@cli.command()
@click.argument("model", type=FILE)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--warmup", type=click.IntRange(min=1), default=50, show_default=True, help="Untimed invocations first.")
@click.option("--runs", type=click.IntRange(min=1), default=100, show_default=True, help="Timed blocks of invocations.")
@DEVICE
@AS_JSON
def measure(**options):
    """Measure the latency of MODEL, a .tflite file.

    On the device arm64, which is emulated, its instructions and memory reads are counted instead.
    """
    from keras_butterfly_cli.commands import measure as run

    run(**options)


@cli.command()
@click.argument("models", type=FILE, nargs=-1, required=True)
@click.option("--data", type=FILE, help="A .npz with inputs x, and labels y for accuracy. x_test and y_test are preferred.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=100, show_default=True, help="Timed blocks of invocations.")
@click.option(
    "--quantize", type=click.Choice(["float16", "dynamic", "int8"]), help="Precision in which .keras files are exported."
)
@DEVICE
@click.option("--plot", type=FILE, help="Write a picture to this file too.")
@OVERWRITE
@AS_JSON
def compare(**options):
    """Compare the latency, size and accuracy of several models.

    MODELS are .keras and .tflite files. The first is the baseline. The models are measured in turns. A .keras file is
    exported first, in float32 or as --quantize says.
    """
    from keras_butterfly_cli.commands import compare as run

    run(**options)


@cli.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def devices(context, as_json):
    """List the devices on which files can be measured.

    The list says what each device needs, and what is missing on this machine.
    """
    if context.invoked_subcommand is None:
        from keras_butterfly_cli.device_commands import list_devices

        list_devices(as_json)


@devices.command()
@click.argument("device")
def setup(device):
    """Install what DEVICE needs, for example arm64.

    Everything is installed in a cache folder. This needs no root rights.
    """
    from keras_butterfly_cli.device_commands import set_up

    set_up(device)


@devices.command()
@click.argument("device")
def remove(device):
    """Remove what `setup` has installed for DEVICE."""
    from keras_butterfly_cli.device_commands import remove as run

    run(device)


def main(arguments=None) -> None:
    """Run the command line, and exit with a code.

    Bad input is reported in one line on stderr, with exit code 2. Exit code 1 means a target or a tolerance that is not met, a
    failing disk, or an interrupt. SIGTERM and SIGHUP exit with 128 plus the number of the signal, as shells report it.
    """
    with signals_raised() as received:
        try:
            code, message = _outcome(arguments)
        # A library whose import is interrupted fails in its own way, and a second signal can come while one is reported.
        except (Exception, KeyboardInterrupt):
            if not received:
                raise
            code, message = 1, "interrupted"
    if received and received[0] != signal.SIGINT:
        code, message = 128 + received[0], "terminated"
    elif received:
        code, message = 1, "interrupted"
    if message is not None:
        with suppress(OSError, ValueError):  # without stderr the exit code says it
            click.echo(f"keras-butterfly: {' '.join(message.split())}", err=True)
    for stream in (sys.stdout, sys.stderr):
        discard_unwritten(stream)
    sys.exit(code)


def _outcome(arguments) -> tuple[int, str | None]:
    """Run the command, and return its exit code and the message for stderr, None if there is none."""
    try:
        code = cli.main(arguments, prog_name="keras-butterfly", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code or 0, None
    except click.exceptions.NoArgsIsHelpError:
        return 2, "Expected a command. See keras-butterfly --help."
    except click.ClickException as error:
        return 2, error.format_message()
    except ValueError as error:
        return getattr(error, "exit_code", 2), str(error)
    except OSError as error:
        return 1, _described(error)
    except (click.Abort, KeyboardInterrupt):
        return 1, "interrupted"


def _described(error: OSError) -> str:
    """Return the message of `error`. If the disk is full and no file is named, say what could not be written."""
    if error.filename is not None or error.errno != errno.ENOSPC:
        return str(error)
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(buffering=0) as probe:
            probe.write(bytes(2**20))
    except FileNotFoundError as none:  # no folder takes temporary files
        return str(none)
    except OSError:
        return f"{error.strerror or error}: temporary files are written to '{folder}'. Free some space there."
    return f"could not write to standard output: {error.strerror or error}. Redirect it to where there is space."
