"""Timing .tflite files on a board over ssh: a Raspberry Pi, or any machine with Python and ai-edge-litert."""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from ...tflite.runtime import load, readable_outputs, typed_inputs
from ..latency import Latency
from . import standalone

# BatchMode: ssh never waits for a password or an answer. The alive messages notice a board that was switched off.
# The rest switches off what a user may have set for logins. All other options come from the user's own ssh configuration.
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "15",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "ClearAllForwardings": "yes",
}
# The exit codes of ssh if the connection fails, and of a shell that does not find a program.
_SSH_FAILED, _NOT_FOUND = 255, 127

# What ssh says, and what that means. `{host}` is the address of the board.
_REASONS = (
    (
        r"HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "Expected the host key of {host} that is known here. The machine answered with another one. If it was installed anew, "
        "remove the old key by `ssh-keygen -R`, and log in once by ssh to accept the new one.",
    ),
    (
        r"Host key verification failed",
        "Expected a known host key of {host}. Log in once by `ssh {host}`, and compare and accept its key.",
    ),
    (
        r"Permission denied",
        "Expected {host} to accept a key of this user. It refused. Copy a key there by `ssh-copy-id {host}`, or unlock the key "
        "by `ssh-add`.",
    ),
    (
        r"Could not resolve hostname",
        "Expected the name of a machine that can be found. Received: {host}. Check the name, or use the machine's IP address.",
    ),
    (
        r"Connection refused",
        "Expected an ssh server on {host}. The connection was refused. Start the ssh server there, and check the port.",
    ),
    (
        r"timed out during banner exchange|Connection timed out|Operation timed out|No route to host|Network is unreachable",
        "Expected {host} to answer. It does not. Check that it is switched on and on the same network.",
    ),
)


class Ssh:
    """A device that is reached over ssh. One Python process there times the files as "host" does, and leaves nothing behind.

    Args:
        address: the destination as ssh takes it, "pi@raspberry" or "//pi@raspberry:2222" with a port. After "?python=" it may
            have the Python that has ai-edge-litert, as a path from the home directory there. The default is "python3".

    Attributes:
        name: "ssh:" and the address.
    """

    needs = "the client ssh, and a machine with Python and ai-edge-litert that accepts a key of this user"

    def __init__(self, address: str = ""):
        destination, _, python = address.partition("?python=")
        if not destination or destination.startswith("-") or destination != "".join(destination.split()):
            raise ValueError(f'Expected a device with a host, as in "ssh:pi@raspberry". Received: "ssh:{address}"')
        if "?" in destination or (address != destination and not python):
            raise ValueError(f'Expected at most the setting "?python=PATH" after the host. Received: "ssh:{address}"')
        self.name = f"ssh:{address}"
        self._host = f"ssh:{destination}" if destination.startswith("//") else destination
        self._python = python or "python3"

    @staticmethod
    def missing() -> str | None:
        """Return what this machine lacks to reach boards, and what to do about it. None if it has all."""
        if shutil.which("ssh") is None:
            return "The program ssh is not installed. Install the package openssh-client."
        return None

    @property
    def runtime(self) -> str:
        """The name and version of the runtime on the board."""
        return self._description["runtime"]

    @property
    def machine(self) -> str:
        """The board's processor: its name, generation and instruction sets."""
        return self._description["machine"]

    @cached_property
    def _description(self) -> dict:
        return self._answer("describe")

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Return the latency of each model, as `Device.measure` says."""
        arguments = {"names": list(models), "threads": threads, "warmup": warmup, "runs": runs}
        answer = self._answer("measure", list(models.values()), arguments, on_round)
        seconds, invocations = answer["seconds"], answer["invocations"]
        conditions = (warmup, threads, answer["runtime"], answer["machine"], self.name)
        return {name: Latency(tuple(seconds[name]), invocations[name], *conditions) for name in models}

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once on the board, and return its outputs by name, as `Device.predict` says."""
        runner = load(content).get_signature_runner()
        typed = typed_inputs(runner, inputs)
        archive = io.BytesIO()
        np.savez(archive, *typed.values())
        answer = self._answer("predict", [content, archive.getvalue()], {"names": list(typed)})
        with np.load(io.BytesIO(base64.b64decode(answer["outputs"]))) as outputs:
            return readable_outputs(runner, dict(zip(answer["names"], outputs.values(), strict=True)))

    def _answer(
        self,
        task: str,
        files: Sequence[bytes] = (),
        arguments: Mapping = {},
        on_round: Callable[[int], None] = lambda rounds_done: None,
    ) -> dict:
        """Run a task of `standalone.serve` on the board, and return its last reply.

        Raises:
            ValueError: if the board cannot be reached or cannot do the task. The message is one line.
        """
        header = {"task": task, "sizes": [len(content) for content in files], "arguments": arguments}
        request = b"".join([json.dumps(header).encode() + b"\n", *files])
        last: dict = {}
        for last in self._replies(request):
            if "round" in last:
                on_round(last["round"])
        if "error" in last:
            raise ValueError(f"Expected a model that the runtime on {self._host} runs. It says: {last['error']}")
        if not last or "round" in last:
            raise ValueError(
                f"Expected {self._host} to run {self._python}. The connection worked, but no answer came. "
                "Check whether the account there is restricted to other commands."
            )
        return last

    def _replies(self, request: bytes) -> Iterator[dict]:
        """Send a request to a new process on the board, and yield its replies."""
        missing = self.missing()
        if missing:
            raise ValueError(missing)
        source = Path(standalone.__file__).read_bytes()
        # The board's Python reads the module from stdin, so that no file is written there.
        program = f"import sys; exec(compile(sys.stdin.buffer.read({len(source)}), 'keras_butterfly', 'exec')); serve()"
        options = [part for key, value in _OPTIONS.items() for part in ("-o", f"{key}={value}")]
        command = ["ssh", *options, self._host, f"{shlex.quote(self._python)} -c {shlex.quote(program)}"]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            assert process.stdin is not None and process.stdout is not None
            try:
                with suppress(BrokenPipeError):  # If the connection fails, the exit code below says so.
                    process.stdin.write(source + request)
                    process.stdin.close()
                for line in process.stdout:
                    text = line.decode(errors="replace")
                    if text.startswith(standalone.REPLY):
                        yield json.loads(text.removeprefix(standalone.REPLY))
                code = process.wait()
                errors.seek(0)
                if code:
                    raise ValueError(self._reason(code, errors.read().decode(errors="replace")))
            finally:
                process.terminate()
                process.wait()
                process.stdout.close()
                with suppress(BrokenPipeError):
                    process.stdin.close()

    def _reason(self, code: int, output: str) -> str:
        """Return why the process of ssh failed and what to do about it, as sentences on one line."""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        last = lines[-1] if lines else "nothing"
        if code == _SSH_FAILED:
            for pattern, reason in _REASONS:
                if re.search(pattern, output):
                    return reason.format(host=self._host)
            return f"Expected a connection to {self._host} that lasts. It failed or was lost. ssh says: {last}"
        module = re.search(r"No module named '(\w+)", last)
        if module:
            package = {"ai_edge_litert": "ai-edge-litert"}.get(module[1], module[1])
            return (
                f"Expected a Python with ai-edge-litert on {self._host}. {self._python} there has no {package}. "
                f'Install it by `{self._python} -m pip install ai-edge-litert`, or name another Python: "{self._other_python}".'
            )
        if code == _NOT_FOUND or "ommand not found" in last:
            return (
                f"Expected the program {self._python} on {self._host}. It is not there. Install Python there, or name the path "
                f'of another Python: "{self._other_python}".'
            )
        return f"Expected the Python process on {self._host} to work. It ended with exit code {code}: {last}"

    @property
    def _other_python(self) -> str:
        """An example of a device name that chooses another Python."""
        return f"{self.name.partition('?')[0]}?python=venv/bin/python"
