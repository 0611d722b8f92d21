"""Running the experiments of examples/, whose files share the name experiment.py."""

import importlib.util
from pathlib import Path

from click.testing import CliRunner

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str):
    """Return the module experiment.py of the folder `name` of examples/."""
    spec = importlib.util.spec_from_file_location(f"{name}_experiment", EXAMPLES / name / "experiment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(experiment, *arguments):
    """Run the command of an experiment. Return its exit code and what it printed."""
    outcome = CliRunner().invoke(experiment.main, [str(argument) for argument in arguments])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.output
