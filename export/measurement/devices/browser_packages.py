"""The npm packages that the device `browser` needs, in a cache folder of the user."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import cache_folders

PAGE = Path(__file__).parent / "browser_page"
LOCK, PACKAGE = "package-lock.json", "package.json"
SETUP = "keras-butterfly devices setup browser"


def litert_version() -> str:
    """Return the version of LiteRT.js, which package.json pins."""
    return json.loads((PAGE / PACKAGE).read_text())["dependencies"]["@litertjs/core"]


def cache_folder() -> Path:
    """Return the folder that the packages are installed in: one for each version, below ~/.cache or XDG_CACHE_HOME."""
    return cache_folders.cache_folder(f"browser-{litert_version()}")


def packages_folder() -> Path:
    """Return the cache folder if the packages are in it.

    Raises:
        ValueError: if they are not.
    """
    folder = cache_folder()
    if not _is_complete(folder):
        raise ValueError(
            f"The device \"browser\" needs LiteRT.js {litert_version()}. Expected it in '{folder}'. Run `{SETUP}` first."
        )
    return folder


def setup(on_step: Callable[[str], object]) -> Path:
    """Install the packages by npm, unless they are installed, and return their folder. All are installed, or none.

    package-lock.json pins the versions. npm checks each archive against the checksum (SHA-512) there.

    Args:
        on_step: a function that is called with a sentence before each step.

    Raises:
        ValueError: if Node.js or npm is missing, or npm fails.
    """
    folder = cache_folder()
    if _is_complete(folder):
        on_step(f"LiteRT.js {litert_version()} is in {folder} already.")
        return folder
    npm = _npm()
    on_step(f"npm downloads LiteRT.js {litert_version()} from its registry, 10 MB, to {folder}, 38 MB.")
    with cache_folders.replacing(folder) as new:
        for name in (LOCK, PACKAGE):
            shutil.copyfile(PAGE / name, new / name)
        _run(npm, new)
    on_step("npm has checked the checksums.")
    return folder


def remove() -> Path | None:
    """Remove the packages, and return the folder they were in. If there is none, return None."""
    return cache_folders.remove(cache_folder())


def _is_complete(folder: Path) -> bool:
    """Return whether the folder holds the packages of today's package-lock.json."""
    lock = folder / LOCK
    return lock.is_file() and lock.read_bytes() == (PAGE / LOCK).read_bytes() and (folder / "node_modules").is_dir()


def _npm() -> str:
    """Return the path of npm.

    Raises:
        ValueError: if npm, or Node.js which runs it, is not on the PATH.
    """
    for program, name in (("node", "Node.js"), ("npm", "npm")):
        if shutil.which(program) is None:
            raise ValueError(f"Expected {name} on the PATH, for LiteRT.js. Install it, on Debian by `apt-get install npm`.")
    return str(shutil.which("npm"))


def _run(npm: str, folder: Path) -> None:
    """Run `npm ci` in a folder.

    Raises:
        ValueError: if it fails. The message has npm's error.
    """
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if line.startswith("npm error ")]
        reason = "; ".join(lines[:3]) or f"exit code {done.returncode}"
        raise ValueError(f"Expected npm to install LiteRT.js. It says: {reason}. Check the network, and run `{SETUP}` again.")
