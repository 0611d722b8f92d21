"""The command line: `keras-butterfly`.

Installed as a package of its own, so that nothing heavy is imported before a command asks for it: --help answers at once, bad
arguments are one line on stderr, and TensorFlow can be told to be quiet before it starts.
"""

import os
import sys
from pathlib import Path

import click

DEFAULT_OUTPUT = "butterfly-demo"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras-butterfly")
@click.option("--verbose", is_flag=True, help="Show what TensorFlow and the TFLite runtime log.")
def cli(verbose):
    """Butterfly layers for Keras: train, export to TFLite, verify, measure."""
    if not verbose:
        _silence_native_code()


@cli.command()
@click.option(
    "--dataset",
    type=click.Choice(["digits", "mnist", "fashion_mnist"]),
    default="digits",
    show_default=True,
    help="digits ships with scikit-learn; the others are downloaded by keras.datasets.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Passes over the training data. [default: 40, or 5 for 60,000 images]"
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Of all random draws.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_OUTPUT, show_default=True, help="Folder to write to."
)
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
def demo(dataset, epochs, seed, output, overwrite):
    """Train a dense network and its butterfly twin, export both, compare.

    Writes dense.tflite, butterfly.tflite, report.json and report.png to the output folder.
    """
    from keras_butterfly.export.demo import run

    run(dataset, output, epochs=epochs, seed=seed, overwrite=overwrite)


def main(arguments=None) -> None:
    """Entry point. Bad input is one line on stderr and exit code 2; a failing disk or an interrupt is exit code 1."""
    try:
        sys.exit(cli.main(arguments, prog_name="keras-butterfly", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError:
        _fail("Expected a command. See keras-butterfly --help.")
    except click.ClickException as error:
        _fail(error.format_message())
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(str(error), code=1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("keras-butterfly: interrupted", err=True)
        sys.exit(1)


def _silence_native_code() -> None:
    """Sends file descriptor 2 nowhere, where compiled libraries log; Python's own stderr stays as it is."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _fail(message: str, code: int = 2) -> None:
    click.echo(f"keras-butterfly: {' '.join(message.split())}", err=True)
    sys.exit(code)
