"""The command line: `keras-butterfly`."""

import os
import sys
from pathlib import Path

import click

from keras_butterfly._version import __version__

DEFAULT_OUTPUT = "butterfly-demo"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli():
    """Butterfly layers for Keras: train, export to TFLite, verify, measure."""


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
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random draws.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_OUTPUT, show_default=True, help="Folder to write to."
)
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
def demo(dataset, epochs, seed, output, overwrite):
    """Train a dense network and its butterfly twin, export both, compare.

    Writes dense.tflite, butterfly.tflite, report.json and report.png to the output folder.
    """
    from .demo import run  # TensorFlow takes seconds to import; --help should not

    run(dataset, output, epochs=epochs, seed=seed, overwrite=overwrite)


def main(arguments=None) -> None:
    """Entry point. Bad input is one line on stderr and exit code 2; an interrupt is exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on its own build are not ours to show
    try:
        sys.exit(cli.main(arguments, prog_name="keras-butterfly", standalone_mode=False))
    except click.ClickException as error:
        _fail(error.format_message())
    except ValueError as error:
        _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        click.echo("keras-butterfly: interrupted", err=True)
        sys.exit(1)


def _fail(message: str) -> None:
    click.echo(f"keras-butterfly: {' '.join(message.split())}", err=True)
    sys.exit(2)
