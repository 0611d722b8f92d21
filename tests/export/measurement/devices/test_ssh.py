"""Tests of measuring over ssh: a real sshd on the loopback address, with keys that are made for the tests."""

import ast
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, export
from keras_butterfly.export.measurement import devices
from keras_butterfly.export.measurement.devices import standalone
from keras_butterfly.export.measurement.devices.ssh import Ssh

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
SSH = shutil.which("ssh")
pytestmark = pytest.mark.skipif(SSHD is None or SSH is None, reason="sshd or ssh is not installed (Debian: openssh-server)")


class Board:
    """A running sshd, whose host name is "board" for the ssh of the tests. `known` is the client's known_hosts file."""

    def __init__(self, folder: Path):
        self.folder, self.known = folder, folder / "known_hosts"
        for key in ("user", "stranger", "host", "other_host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        self.process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
        self.knows("host")
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("sshd does not start")

    def knows(self, key: str | None) -> None:
        """Write the known_hosts file with a host key, or without any."""
        text = "" if key is None else f"[127.0.0.1]:{self.port} {(self.folder / key).with_suffix('.pub').read_text()}"
        self.known.write_text(text)

    def configure(self, key: str = "user", **options: str) -> None:
        """Write the configuration of the client."""
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.folder / key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known),
            "GlobalKnownHostsFile": "/dev/null",
            **options,
        }
        lines = ["Host board", *(f"  {name} {value}" for name, value in settings.items())]
        (self.folder / "client_config").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def running_board(tmp_path_factory):
    separation = Path("/run/sshd")  # Debian's sshd wants this folder if root starts it.
    made = os.getuid() == 0 and not separation.exists()
    if made:
        separation.mkdir(mode=0o755)
    board = Board(tmp_path_factory.mktemp("board"))
    yield board
    board.process.terminate()
    board.process.wait()
    if made:
        separation.rmdir()


@pytest.fixture
def board(running_board, tmp_path, monkeypatch):
    """The board, and a real ssh that reads the configuration of the tests instead of the user's."""
    running_board.knows("host")
    running_board.configure()
    program(tmp_path / "bin" / "ssh", f'exec {SSH} -F {running_board.folder}/client_config "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return running_board


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def models():
    def dense(units):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(units)])
        return export.to_tflite(model, effort="estimate").content

    return {"wide": dense(16), "narrow": dense(2)}


NAME = f"ssh:board?python={sys.executable}"


def test_models_are_measured_in_turns_by_the_boards_own_clock(board, models):
    rounds = []
    device = Ssh(NAME.removeprefix("ssh:"))
    latencies = device.measure(models, threads=1, warmup=5, runs=4, on_round=rounds.append)
    assert rounds == [1, 2, 3, 4]
    assert list(latencies) == ["wide", "narrow"]
    for latency in latencies.values():
        assert len(latency.seconds) == 4 and all(0 < seconds < 0.1 for seconds in latency.seconds)
        assert (latency.threads, latency.warmup, latency.device) == (1, 5, NAME)
        assert (latency.runtime, latency.machine) == (standalone.runtime(), standalone.machine())
        assert latency.invocations > 1


def test_measure_takes_the_name_of_a_board(board, models):
    assert len(export.measure(models["narrow"], runs=2, device=NAME).seconds) == 2
    assert isinstance(devices.find(NAME), Ssh)


def test_a_model_is_planned_for_the_board(board):
    model = keras.Sequential([keras.Input((4,)), Butterfly(seed=0)])
    (plan,) = export.to_tflite(model, effort="quick", device=NAME).plan
    assert (plan.source, plan.device) == ("measured", NAME)


def test_outputs_equal_those_of_the_host(board, rng):
    # The names of the inputs are those of arguments of numpy.savez.
    data = {name: rng.standard_normal((64, size)).astype("float32") for name, size in {"file": 8, "allow_pickle": 4}.items()}
    inputs = {name: values[:1] for name, values in data.items()}
    tensors = [keras.Input(values.shape[1:], name=name) for name, values in data.items()]
    joined = keras.layers.Concatenate()(tensors)
    model = keras.Model(tensors, {"a": keras.layers.Dense(3)(joined), "b": keras.layers.Dense(5)(joined)})
    for quantize in (None, "int8"):
        content = export.to_tflite(model, effort="estimate", quantize=quantize, representative_data=data).content
        here, there = (devices.find(name).predict(content, inputs) for name in ("host", NAME))
        assert here.keys() == there.keys() == {"a", "b"}
        for name in here:
            assert there[name].dtype == np.float32
            np.testing.assert_array_equal(here[name], there[name])


def test_what_the_board_prints_besides_is_no_reply(board, models, tmp_path):
    python = program(tmp_path / "python", f'echo Welcome; echo Notice >&2; exec {sys.executable} "$@"')
    latency = Ssh(f"board?python={python}").measure(models, threads=1, warmup=5, runs=1, on_round=lambda done: None)["wide"]
    assert len(latency.seconds) == 1


def test_nothing_is_left_on_the_board(board, models, tmp_path):
    python = program(tmp_path / "python", f'cd {tmp_path / "home"}; export TMPDIR=$PWD; exec {sys.executable} -B "$@"')
    (tmp_path / "home").mkdir()
    Ssh(f"board?python={python}").measure(models, threads=1, warmup=5, runs=1, on_round=lambda done: None)
    assert list((tmp_path / "home").iterdir()) == []


def fails(address: str, message: str, models: dict[str, bytes], **settings) -> None:
    settings = {"threads": 1, "warmup": 5, "runs": 2, "on_round": lambda done: None} | settings
    with pytest.raises(ValueError, match=message) as failure:
        Ssh(address).measure(models, **settings)
    assert "\n" not in str(failure.value)


def test_an_account_that_runs_something_else(board, models, tmp_path):
    fails(f"board?python={program(tmp_path / 'python', 'exit 0')}", "The connection worked, but no answer came", models)


def test_a_large_file_over_a_connection_that_fails(board):
    board.knows(None)
    fails("board", "Expected a known host key", {"m": bytes(10_000_000)})


def test_an_unknown_host_key_is_refused(board, models):
    board.knows(None)
    fails("board", "Expected a known host key of board. Log in once by `ssh board`", models)
    assert board.known.read_text() == ""


def test_a_changed_host_key_is_refused(board, models):
    board.knows("other_host")
    fails("board", "The machine answered with another one", models)


def test_a_key_that_the_board_refuses(board, models):
    board.configure(key="stranger")
    fails("board", "It refused. Copy a key there by `ssh-copy-id board`", models)


def test_a_name_that_nobody_has(board, models):
    board.configure(HostName="no-such-machine.invalid")
    fails("board", "Expected the name of a machine that can be found. Received: board", models)


def test_no_server(board, models):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        board.configure(Port=str(unused.getsockname()[1]))
        fails("board", "The connection was refused. Start the ssh server", models)


def test_a_machine_that_does_not_answer(board, models, tmp_path):
    """A server that accepts connections and says nothing. ssh gives up after its time-out, which the test shortens."""
    program(tmp_path / "bin" / "ssh", f'exec {SSH} -F {board.folder}/client_config -o ConnectTimeout=1 "$@"')
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        board.configure(Port=str(silent.getsockname()[1]))
        fails("board", "Expected board to answer. It does not.", models)


def test_a_connection_that_is_lost(board, models):
    def disconnect(done):
        pid = board.process.pid
        for session in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(session), 9)

    fails(f"board?python={sys.executable}", "It failed or was lost", models, runs=100_000, on_round=disconnect)


def test_an_interrupt_ends_the_process_on_the_board(board, models, tmp_path):
    python = program(tmp_path / "python", f'echo $$ > {tmp_path / "pid"}; exec {sys.executable} "$@"')

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ssh(f"board?python={python}").measure(models, threads=1, warmup=5, runs=1_000_000, on_round=interrupt)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    raise AssertionError("the process on the board runs on")


def test_no_python_on_the_board(board, models):
    message = r"Expected the program no/python3 on board. It is not there.* \"ssh:board\?python=venv/bin/python\""
    fails("board?python=no/python3", message, models)


@pytest.mark.parametrize("package", ["numpy", "ai_edge_litert"])
def test_a_python_without_a_package(board, models, tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\")")
    python = program(tmp_path / "python", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    message = (
        f"Expected a Python with ai-edge-litert on board. {python} there has no {package.replace('_', '-')}. Install it by"
    )
    fails(f"board?python={python}", message, models)


def test_a_file_that_the_runtime_cannot_load(board, models):
    fails(f"board?python={sys.executable}", "Expected a model that the runtime on board runs. It says: ", {"m": b"no model"})


def test_what_a_board_runs_is_written_for_python_3_9():
    ast.parse(Path(standalone.__file__).read_text(), feature_version=(3, 9))


def test_no_ssh(models, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    fails("board", "The program ssh is not installed. Install the package openssh-client.", models)
    assert "openssh-client" in Ssh.missing()


@pytest.mark.parametrize(
    "address", ["", "-oProxyCommand=reboot", "two words", "?python=python3", "pi@board?port=22", "board?python="]
)
def test_addresses_that_are_no_host(address):
    with pytest.raises(ValueError, match='Received: "ssh:'):
        Ssh(address)
