"""A headless Chromium that is driven by the DevTools protocol over a pair of pipes."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

# Where the path of Chromium may be given, and the names under which it is looked for on the PATH.
VARIABLE = "KERAS_BUTTERFLY_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge")
# Seconds that Chromium may take to start, and to stop when it is asked to.
START_SECONDS, STOP_SECONDS = 60.0, 5.0
# Python's pipes get numbers from here on, so that the numbers 3 and 4, which Chromium expects, are free in the new process.
FIRST_NUMBER = 10
# Chromium reads commands from file descriptor 3 and writes answers to 4. Python's subprocess cannot pass files under other
# numbers, so a small Python process renumbers them and becomes Chromium.
_RENUMBER = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--no-first-run",
    "--no-default-browser-check",
)


class ChromiumError(ValueError):
    """The error that is raised if Chromium does not start, or ends while it is needed."""


class PageError(ValueError):
    """The error that is raised if JavaScript in a page throws. Its text is the text of the JavaScript error."""


def find_chromium() -> str:
    """Return the path of Chromium: the environment variable KERAS_BUTTERFLY_CHROMIUM, or a program on the PATH.

    Raises:
        ChromiumError: if there is none.
    """
    given = os.environ.get(VARIABLE)
    if given:
        found = shutil.which(given)
        if found is None:
            raise ChromiumError(f"Expected the path of Chromium in {VARIABLE}. Received: '{given}', which is no program.")
        return found
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise ChromiumError(
            f"Expected Chromium or Chrome on the PATH. Found none of {', '.join(NAMES)}. Install one, on Debian by "
            f"`apt-get install chromium`, or give its path in the environment variable {VARIABLE}."
        )
    return found


class Chromium:
    """A running headless Chromium with one page. Its profile is a temporary folder.

    Chromium ends when `close` is called, and also when this process ends in any way, because its pipe is closed then.

    Args:
        executable: the path of Chromium.

    Raises:
        ChromiumError: if it does not start.
    """

    def __init__(self, executable: str):
        self._last = 0
        self._session: str | None = None
        self._received = b""
        self._profile = tempfile.mkdtemp(prefix="keras-butterfly-chromium-")
        self._log = Path(self._profile) / "log.txt"
        command_end, self._commands = _pipe()
        self._answers, answer_end = _pipe()
        options = [*_OPTIONS, f"--user-data-dir={self._profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        renumber = [sys.executable, "-I", "-S", "-c", _RENUMBER, str(command_end), str(answer_end)]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*renumber, executable, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(command_end, answer_end),
                    start_new_session=True,  # Ctrl-C reaches Python alone, which closes Chromium
                )
        finally:
            os.close(command_end)
            os.close(answer_end)
        try:
            self.version = self.call("Browser.getVersion", timeout=START_SECONDS)["product"]
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Inspector"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def open(self, url: str, timeout: float = START_SECONDS) -> None:
        """Open a URL in the page, and wait until it is loaded with its scripts.

        Raises:
            PageError: if it cannot be opened.
        """
        answer = self.call("Page.navigate", url=url, timeout=timeout)
        if "errorText" in answer:
            raise PageError(f"{url}: {answer['errorText']}")
        self._wait(lambda message: message.get("method") == "Page.loadEventFired", timeout)

    def evaluate(self, expression: str, timeout: float | None = None):
        """Evaluate JavaScript in the page, wait for a promise to settle, and return the value, which JSON must be able to hold.

        Raises:
            PageError: if it throws.
            ChromiumError: if Chromium ends, the page crashes, or nothing comes back within `timeout` seconds.
        """
        how = {"awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", expression=expression, timeout=timeout, **how)
        details = answer.get("exceptionDetails")
        if details is not None:
            thrown = details.get("exception", {})
            text = str(thrown.get("description") or thrown.get("value") or details["text"])
            raise PageError(text.split("\n    at ")[0])
        return answer["result"].get("value")

    def call(self, method: str, *, timeout: float | None = START_SECONDS, **parameters) -> dict:
        """Call a method of the DevTools protocol, and return its result.

        Raises:
            PageError: if Chromium refuses the call.
            ChromiumError: as `evaluate`.
        """
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._send(json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda message: message.get("id") == number, timeout)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def close(self) -> None:
        """End Chromium, and remove its profile."""
        for number in (self._commands, self._answers):
            with suppress(OSError):
                os.close(number)
        self._commands = self._answers = -1
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Chromium's processes form a group of their own. Those that are left are ended.
            with suppress(OSError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            shutil.rmtree(self._profile, ignore_errors=True)

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._commands, data) :]
        except OSError:
            raise ChromiumError(self._ended()) from None

    def _wait(self, wanted, timeout: float | None) -> dict:
        """Return the first message for which `wanted` is true. Other messages are dropped, unless they tell of a crash."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self._next(deadline)
            if message.get("method") == "Inspector.targetCrashed":
                raise ChromiumError("The page crashed in Chromium. The model may need more memory than a page has.")
            if wanted(message):
                return message

    def _next(self, deadline: float | None) -> dict:
        while b"\0" not in self._received:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise ChromiumError("Chromium does not answer. Run the command again, on a machine that is less busy.")
            part = os.read(self._answers, 2**20)
            if not part:
                raise ChromiumError(self._ended())
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _ended(self) -> str:
        """Return a sentence that says that Chromium has ended, with the last line that it logged."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"Chromium ended with exit code {self._process.returncode}. Its last line is: {lines[-1] if lines else 'empty'}"


def _pipe() -> tuple[int, int]:
    """Return both ends of a new pipe, as file descriptors from FIRST_NUMBER on."""
    ends = os.pipe()
    try:
        reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FIRST_NUMBER) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    return reader, writer
