"""Timing .tflite files on an Android phone, by Google's benchmark_model and the client adb."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...tflite.runtime import load, readable_outputs, typed_inputs
from ..latency import Latency

# The environment variable with the path of the benchmark_model for the phone, on this machine.
BINARY_VARIABLE = "KERAS_BUTTERFLY_BENCHMARK_MODEL"
# The names of the file: the plain one, and those under which Google offers it for 64-bit and for 32-bit phones.
_BINARY_NAMES = ("benchmark_model", "android_aarch64_benchmark_model", "android_arm_benchmark_model")
_DOWNLOAD = "https://ai.google.dev/edge/litert/models/measurement"
_FOLDER = "/data/local/tmp"

# benchmark_model times each invocation by a clock of one microsecond. A timed block lasts about this long, so that its mean is
# sharper than that.
BLOCK_SECONDS = 0.05
# Each block is a new process, which a phone may start on a slow core at a low frequency. This much warm-up lets it speed up.
WARMUP_SECONDS = 0.1

# The properties of a phone that name its processor. Old phones lack those of the SoC.
_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.product.cpu.abi",
    "ro.build.version.release",
)

# The lines that the script on the phone prints after each process, with its exit code, and at the end.
_EXIT = "keras-butterfly exit "
_END = "keras-butterfly end"
# Both forms of the line in which benchmark_model tells the mean, which versions before 2020 print differently.
_MEAN = re.compile(r"nference timings in us:.*\bInference(?: \(avg\))?: ([0-9.e+]+)")
# What an Android shell, or the loader of Android, says of a program for another processor.
_FOREIGN = re.compile(r"not executable|CANNOT LINK EXECUTABLE|Exec format error|bad ELF|syntax error|inaccessible or not found")

# What adb says, and what that means.
_REASONS = (
    (
        r"no devices",
        "Expected an Android phone that adb can reach. Received none. Connect one by USB, and switch on USB debugging in its "
        "developer options.",
    ),
    (
        r"more than one",
        'Expected one Android phone. adb reaches several: {phones}. Choose one with device="adb:SERIAL".',
    ),
    (
        r"unauthorized|still authorizing",
        "Expected an Android phone that trusts this machine. Unlock the phone, and confirm the question about USB debugging.",
    ),
    (
        r"offline|still connecting|transport error",
        "Expected an Android phone that answers. adb calls it offline. Plug it in again, or restart it.",
    ),
    (
        r"insufficient permissions|no permissions",
        "Expected an Android phone that this user may open. The system refuses it. Install the udev rules for Android phones "
        "(Debian: android-sdk-platform-tools-common), and plug it in again.",
    ),
    (
        r"device '[^']*' not found",
        "Expected the Android phone that the device names by its serial number. adb reaches these: {phones}.",
    ),
    (
        r"couldn't read from device|error: closed|protocol fault",
        "Expected the phone to stay connected. The connection was lost. Plug the phone in and measure again.",
    ),
    (
        r"No space left on device",
        f"Expected space for the model and benchmark_model in {_FOLDER} on the phone. It is full. Delete files there.",
    ),
)


class Adb:
    """A device that is an Android phone. It runs files by Google's benchmark_model, with TensorFlow Lite's default settings.

    A timed block is a process of its own on the phone. It starts with the untimed invocations, at least as many as `warmup`
    says and at least 0.1 seconds. The models take turns, a block each.

    Args:
        address: the serial number of the phone. "" is the only phone, or that of the environment variable ANDROID_SERIAL.

    Attributes:
        name: "adb", or "adb:" and the serial number.
    """

    needs = "the client adb, an Android phone with USB debugging, and Google's benchmark_model"

    def __init__(self, address: str = ""):
        if address.startswith("-") or address != "".join(address.split()):
            raise ValueError(f'Expected the serial number of a phone, as in "adb:0123456789". Received: "adb:{address}"')
        self.name = f"adb:{address}" if address else "adb"
        self._options = ("-s", address) if address else ()

    @staticmethod
    def missing() -> str | None:
        """Return what this machine lacks to talk to phones, and what to do about it. None if it has all."""
        if shutil.which("adb") is None:
            return "The program adb is not installed. Install the package adb, or Android's platform tools."
        return None

    @property
    def runtime(self) -> str:
        """The name of benchmark_model and the start of its SHA-256 sum, because it does not tell its version."""
        local, remote = self._binary()
        digest = hashlib.sha256(local.read_bytes()).hexdigest() if local else self._shell(f"sha256sum {remote}")
        return f"benchmark_model {digest[:8]}"

    @property
    def machine(self) -> str:
        """The phone's maker, model, SoC and ABI, and the version of Android."""
        lines = self._shell("; ".join(f"getprop {key}" for key in _PROPERTIES)).splitlines()
        *names, android = [line.strip() for line in lines]
        return ", ".join([*(name for name in dict.fromkeys(names) if name), f"Android {android}"])

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Return the latency of each model, as `Device.measure` says."""
        runtime, machine = self.runtime, self.machine
        with self._session() as session:
            for index, content in enumerate(models.values()):
                session.write(f"{index}.tflite", content)
            options = f"--num_threads={threads} --warmup_runs={warmup} --warmup_min_secs={WARMUP_SECONDS} --min_secs=0"
            names = list(models)
            means = list(session.blocks(names, [warmup] * len(names), 1, options))
            invocations = [max(1, round(BLOCK_SECONDS / max(mean, 1e-6))) for mean in means]
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for done, mean in enumerate(session.blocks(names, invocations, runs, options)):
                seconds[names[done % len(names)]].append(mean)
                if done % len(names) == len(names) - 1:
                    on_round(done // len(names) + 1)
        return {
            name: Latency(tuple(seconds[name]), count, warmup, threads, runtime, machine, self.name)
            for name, count in zip(names, invocations, strict=True)
        }

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once on the phone, and return its outputs by name, as `Device.predict` says."""
        interpreter = load(content)
        runner = interpreter.get_signature_runner()
        typed = typed_inputs(runner, inputs)
        places = {detail["index"]: name for name, detail in runner.get_input_details().items()}
        values = [typed[places[detail["index"]]] for detail in interpreter.get_input_details()]
        with self._session() as session:
            session.write("0.tflite", content)
            for index, value in enumerate(values):
                session.write(f"input{index}", value.tobytes())
            layers = {
                "input_layer": ",".join(f"input{index}" for index in range(len(values))),
                "input_layer_shape": ":".join(",".join(map(str, value.shape)) for value in values),
                "input_layer_value_files": ",".join(f"input{index}:input{index}" for index in range(len(values))),
            }
            options = " ".join(f"--{key}={value}" for key, value in layers.items())
            list(session.blocks(["the model"], [1], 1, f"{options} --warmup_runs=1 --min_secs=0 --output_filepath=outputs"))
            written = session.read("outputs")
        outputs = _split_outputs(content, values, written)
        details = runner.get_output_details()
        return readable_outputs(runner, {name: outputs[detail["index"]] for name, detail in details.items()})

    def _binary(self) -> tuple[Path | None, str]:
        """Return the path of benchmark_model on this machine, or None and its path on the phone."""
        chosen = os.environ.get(BINARY_VARIABLE)
        if chosen:
            if not Path(chosen).is_file():
                raise ValueError(f"Expected the path of Google's benchmark_model in {BINARY_VARIABLE}. Received: '{chosen}'")
            return Path(chosen), ""
        places = " ".join(f"{_FOLDER}/{name}" for name in _BINARY_NAMES)
        found = self._shell(f"for f in {places}; do [ -f $f ] && echo $f; done; true").split()
        if found:
            return None, found[0]
        for name in _BINARY_NAMES:
            path = shutil.which(name)
            if path:
                return Path(path), ""
        raise ValueError(
            f"Expected Google's benchmark_model for Android on this machine's PATH, or in {_FOLDER} on the phone. It is in "
            f"neither. Download android_aarch64_benchmark_model from {_DOWNLOAD}, and set {BINARY_VARIABLE} to its path."
        )

    @contextmanager
    def _session(self) -> Iterator["_Session"]:
        """Make a folder on the phone, and delete it at the end, after an error or an interrupt too."""
        local, remote = self._binary()
        session = _Session(self, f"{_FOLDER}/keras_butterfly_{uuid.uuid4().hex[:12]}", remote)
        try:
            self._shell(f"mkdir {session.folder}")
            if local:
                session.write("benchmark_model", local.read_bytes())
                session.binary = "./benchmark_model"
                self._shell(f"chmod 755 {session.folder}/benchmark_model")
            yield session
        finally:
            # Without a connection this fails. Then the error that ended the session is the one to report.
            self._adb("shell", f"rm -rf {session.folder}")

    def _shell(self, command: str) -> str:
        return self.checked("shell", command)

    def checked(self, *arguments: str) -> str:
        """Run adb, and return what it prints.

        Raises:
            ValueError: if adb fails. The message says what to do.
        """
        done = self._adb(*arguments)
        if done.returncode:
            raise ValueError(self.reason(done.stdout + done.stderr))
        return done.stdout

    def reason(self, output: str) -> str:
        """Return why adb failed and what to do about it, as sentences on one line."""
        for pattern, reason in _REASONS:
            if re.search(pattern, output):
                return reason.format(phones=", ".join(self._phones()) or "none")
        return f"Expected adb to work. It says: {_last_line(output)}"

    def is_connected(self) -> bool:
        """Return whether adb reaches the phone now."""
        return self._adb("get-state").returncode == 0

    def start(self, script: str) -> subprocess.Popen:
        """Start a shell script on the phone, and return the process of adb. What the script prints comes from its stdout."""
        command = self._command("shell", script)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )

    def _phones(self) -> list[str]:
        """Return the serial numbers of the phones that adb reaches."""
        listed = subprocess.run(["adb", "devices"], capture_output=True, text=True).stdout
        return [line.split("\t")[0] for line in listed.splitlines() if "\t" in line]

    def _adb(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(self._command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def _command(self, *arguments: str) -> list[str]:
        missing = self.missing()
        if missing:
            raise ValueError(missing)
        return ["adb", *self._options, *arguments]


class _Session:
    """A folder on the phone that holds a measurement's files.

    Attributes:
        folder: the path of the folder.
        binary: the path of benchmark_model on the phone, absolute or from the folder.
    """

    def __init__(self, phone: Adb, folder: str, binary: str):
        self.phone, self.folder, self.binary = phone, folder, binary

    def write(self, name: str, content: bytes) -> None:
        """Write a file into the folder."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self.phone.checked("push", str(path), f"{self.folder}/{name}")

    def read(self, name: str) -> bytes:
        """Return the bytes of a file in the folder.

        Raises:
            ValueError: if benchmark_model did not write it.
        """
        found = self.phone.checked("shell", f"[ -f {self.folder}/{name} ] && echo yes; true")
        if not found.strip():
            raise ValueError(
                "Expected a benchmark_model with the option --output_filepath. This one wrote no outputs. "
                f"Download a newer one from {_DOWNLOAD}."
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            self.phone.checked("pull", f"{self.folder}/{name}", str(path))
            return path.read_bytes()

    def blocks(self, names: list[str], invocations: list[int], rounds: int, options: str) -> Iterator[float]:
        """Run benchmark_model on the models in turns, and yield the mean seconds per invocation of each process.

        All runs are started by one script on the phone, because a call of adb takes longer than a block.

        Args:
            names: the names of the models, for messages. The file of the model at index i is "i.tflite".
            invocations: the number of timed invocations in a process, for each model.
            rounds: the number of rounds.
            options: further options of benchmark_model.
        """
        pairs = " ".join(f"{index}:{count}" for index, count in enumerate(invocations))
        process = self.phone.start(f"""
            trap 'rm -rf {self.folder}; exit 1' HUP INT TERM PIPE
            cd {self.folder} || exit
            i=0
            while [ $i -lt {rounds} ]; do
                for block in {pairs}; do
                    {self.binary} --graph=${{block%:*}}.tflite --num_runs=${{block#*:}} {shlex.join(options.split())} 2>&1
                    code=$?
                    echo "{_EXIT}$code"
                    [ $code = 0 ] || exit 0
                done
                i=$((i+1))
            done
            echo "{_END}"
        """)
        try:
            output: list[str] = []
            done = 0
            for line in process.stdout or ():
                line = line.strip()
                if line == _END:
                    return
                if line.startswith(_EXIT):
                    yield self._mean(names[done % len(names)], int(line.removeprefix(_EXIT)), output)
                    output, done = [], done + 1
                else:
                    output.append(line)
            raise ValueError(self._interruption("\n".join(output)))
        finally:
            process.kill()
            process.wait()

    def _mean(self, name: str, code: int, output: list[str]) -> float:
        """Return the mean seconds per invocation that a process of benchmark_model printed."""
        text = "\n".join(output)
        if code in (126, 127) or (code and _FOREIGN.search(text)):
            abi = self.phone.checked("shell", "getprop ro.product.cpu.abi").strip()
            raise ValueError(
                f"Expected a benchmark_model that runs on this phone, whose ABI is {abi}. The phone says: {_last_line(text)}. "
                f"Download the one for this ABI from {_DOWNLOAD}."
            )
        if code:
            errors = " ".join(line for line in output if line.startswith(("ERROR", "FATAL"))) or _last_line(text)
            raise ValueError(f"Expected a model that benchmark_model runs. On '{name}' it ends with exit code {code}: {errors}")
        match = _MEAN.search(text)
        if match is None:
            raise ValueError(f"Expected benchmark_model to print its inference timings. It says: {_last_line(text)}")
        return float(match[1]) * 1e-6

    def _interruption(self, output: str) -> str:
        """Return why the script on the phone ended early."""
        if self.phone.is_connected():
            return self.phone.reason(output)
        return (
            "Expected the phone to stay connected. The connection was lost in the middle of the measurement. Plug the phone in "
            f"and measure again. If {self.folder} is still on the phone, delete it."
        )


def _split_outputs(content: bytes, inputs: list[np.ndarray], written: bytes) -> dict[int, np.ndarray]:
    """Return the outputs of a model by the index of their tensor, from the bytes of all outputs one after another.

    Args:
        content: the bytes of the .tflite file.
        inputs: the inputs in the order of the interpreter. The shapes of the outputs may depend on theirs.
        written: the bytes.
    """
    interpreter = load(content)
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], value.shape)
    interpreter.allocate_tensors()
    details = interpreter.get_output_details()
    sizes = [int(np.prod(detail["shape"])) * np.dtype(detail["dtype"]).itemsize for detail in details]
    if len(written) != sum(sizes):
        raise ValueError(f"Expected {sum(sizes)} bytes of outputs from benchmark_model. Received: {len(written)} bytes")
    parts = np.split(np.frombuffer(written, np.uint8), np.cumsum(sizes)[:-1])
    return {
        detail["index"]: part.view(detail["dtype"]).reshape(detail["shape"])
        for detail, part in zip(details, parts, strict=True)
    }


def _last_line(output: str) -> str:
    """Return the last line that is not empty, or words that say that there is none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
