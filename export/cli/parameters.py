"""Kinds of parameters of the commands."""

import errno
import math
import os
from pathlib import Path

import click


class Number(click.FloatRange):
    """A parameter that is a finite number within a range. Click's own FloatRange accepts nan in every range."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class FileOrFolder(click.ParamType):
    """A type of parameters of commands that are paths.

    Args:
        is_folder: whether it may end in a slash.
    """

    name = "path"

    def __init__(self, is_folder: bool = False):
        self.is_folder = is_folder

    def convert(self, value, param, ctx):
        text = str(value)
        if not text or "\0" in text:
            self.fail(f"Expected a path. Received: {text!r}", param, ctx)
        if text.endswith(os.sep) and not self.is_folder:
            self.fail(f"Expected the path of a file. Received a folder: '{text}'", param, ctx)
        try:
            os.stat(text)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                shown = text if len(text) < 100 else f"{text[:40]}..."
                self.fail(f"Expected a path. Received '{shown}': {error.strerror}", param, ctx)
        return Path(text)


class RadixType(click.ParamType):
    """A radix: a number, "auto", or numbers with commas between them. `structure.wiring` checks the numbers."""

    name = "radix"

    def convert(self, value, param, ctx):
        if not isinstance(value, str) or value == "auto":
            return value
        try:
            numbers = [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f'Expected a power of two, "auto" or numbers such as 32,32. Received: {value}', param, ctx)
        return numbers if len(numbers) > 1 else numbers[0]


POSITIVE = Number(min=0, min_open=True)
FILE, FOLDER = FileOrFolder(), FileOrFolder(is_folder=True)
