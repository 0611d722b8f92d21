"""Training on two devices or in two processes gives the weights that one process gives, even if a process is lost."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, ButterflyDense

WORKER = Path(__file__).with_name("distributed_worker.py")
TIMEOUT = 180  # seconds, for all processes of a `with` block together
# Of the largest entry of an array. Gradients summed in another order differ by 6e-8, which 16 steps make about 1e-6.
TOLERANCE = 1e-5


class Processes:
    """Worker processes, which do not outlive the `with` block."""

    def __init__(self, folder):
        self.folder = folder
        self.started = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started.values():
            process.kill()
            process.wait()

    def start(self, name, strategy, *options, **environment):
        with self._log(name).open("w") as log:
            command = [sys.executable, WORKER, strategy, self.output(name), *options]
            self.started[name] = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment() | environment)

    def wait(self):
        """The exit codes once all have ended, or one has failed, for which the others may wait for ever: None."""
        end = time.monotonic() + TIMEOUT
        while True:
            codes = [process.poll() for process in self.started.values()]
            if None not in codes or any(codes) or time.monotonic() > end:
                return codes
            time.sleep(0.05)

    def results(self):
        """What each computed, by name, all having ended well."""
        codes = self.wait()
        assert codes == [0] * len(codes), self.logs()
        return {name: self._read(name) for name in self.started}

    def logs(self):
        return "\n".join(f"--- {name}:\n{self._log(name).read_text()[-3000:]}" for name in self.started)

    def output(self, name):
        return self.folder / f"{name}.npz"

    def _read(self, name):
        with np.load(self.output(name)) as arrays:
            return dict(arrays)

    def _log(self, name):
        return self.folder / f"{name}.log"


def clean_environment():
    """This process's, less what would change a worker's cluster, devices or arithmetic."""
    kept = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "XLA_FLAGS", "JAX_ENABLE_X64")}
    cpu_alone = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    return kept | cpu_alone | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


@contextlib.contextmanager
def cluster(folder, **options):
    """Workers of one cluster, just started, each with the command-line options given for it by name."""
    with Processes(folder) as processes, reserved_ports(len(options)) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for index, (name, arguments) in enumerate(options.items()):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            processes.start(name, "workers", *arguments, TF_CONFIG=json.dumps(config), TF_GRPC_REUSE_PORT="true")
        yield processes


@contextlib.contextmanager
def reserved_ports(count):
    """Free ports that until the end of the block no one is given or can take but who asks to share them, as the workers do."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for reserved in sockets:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(("127.0.0.1", 0))
        yield [reserved.getsockname()[1] for reserved in sockets]


def assert_same_training(found, expected, optimizer):
    """Same start, weights and optimiser state, and that not for want of training.

    Logged losses are not compared: Keras 3.8 logs those of one replica.
    """
    kinds = tuple(f"{optimizer}.{kind}" for kind in ("initial", "final", "optimizer"))
    for name in (name for name in expected if name.startswith(kinds)):
        assert_close(found[name], expected[name], name)
    assert_trained(expected, optimizer)


def assert_close(found, expected, name):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max(), err_msg=name)


def assert_trained(run, optimizer):
    """Each weight array moved by far more than the tolerance, and the loss fell."""
    finals = [name for name in run if name.startswith(f"{optimizer}.final")]
    assert len(finals) == 6  # Butterfly's weights and bias; J1's, W', J2's and the bias of ButterflyDense
    for name in finals:
        moved = np.abs(run[name] - run[name.replace("final", "initial")]).max()
        assert moved > 1000 * TOLERANCE * np.abs(run[name]).max(), name
    assert run[f"{optimizer}.loss"][-1] < 0.8 * run[f"{optimizer}.loss"][0]


def test_a_strategy_changes_nothing_on_one_device():
    """Train in this process with one replica. All other tests here start processes, and take long."""
    import tensorflow as tf

    weights = []
    for scope in (contextlib.nullcontext, tf.distribute.MirroredStrategy(["CPU:0"]).scope):
        with scope():
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((12,)), Butterfly(8, "relu", truncation="random"), ButterflyDense(3, seed=0)])
            model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        before = model.get_weights()
        x = np.random.default_rng(0).standard_normal((8, 12))
        model.fit(x, x[:, :3], batch_size=4, epochs=2, shuffle=False, verbose=0)
        assert all(np.abs(old - new).max() > 1e-4 for old, new in zip(before, model.get_weights(), strict=True))
        weights.append(model.get_weights())
    for alone, in_the_strategy in zip(*weights, strict=True):
        assert_close(in_the_strategy, alone, "weights")


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory):
    """One process without a strategy, and one with two devices; both optimisers."""
    with Processes(tmp_path_factory.mktemp("one_machine")) as processes:
        processes.start("alone", "alone")
        processes.start("mirrored", "mirrored")
        return processes.results()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster that nothing happens to; both optimisers."""
    with cluster(tmp_path_factory.mktemp("two_workers"), first=[], second=[]) as processes:
        return processes.results()


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_devices_under_mirrored_strategy_train_as_one_process(optimizer, one_machine):
    alone, mirrored = one_machine["alone"], one_machine["mirrored"]
    assert (alone[f"{optimizer}.rows"], mirrored[f"{optimizer}.rows"]) == (8, 4)  # each device sees half of each batch
    assert_same_training(mirrored, alone, optimizer)


@pytest.mark.long
def test_processes_draw_the_same_subsets_without_a_seed(one_machine, two_workers):
    runs = [*one_machine.values(), *two_workers.values()]
    assert len(runs) == 4
    for name, kept, of in (("inputs", 12, 20), ("j1", 4, 20), ("j2_t", 2, 3)):
        (subset,) = {tuple(run[f"subset.{name}"].tolist()) for run in runs}
        assert len(subset) == len(set(subset) & set(range(of))) == kept


@pytest.mark.long
@pytest.mark.parametrize("worker", ["first", "second"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_workers_train_as_one_process(optimizer, worker, one_machine, two_workers):
    assert two_workers[worker][f"{optimizer}.rows"] == 4
    assert_same_training(two_workers[worker], one_machine["alone"], optimizer)


@pytest.mark.long
def test_cluster_that_lost_a_worker_resumes_with_nothing_lost(tmp_path, two_workers):
    saved = tmp_path / "first"
    first, second = (["--optimizers", "adam", "--backup", tmp_path / name, "--resume", saved] for name in ("first", "second"))
    with cluster(tmp_path, first=first, second=[*second, "--die-at", "2", "1"]) as processes:
        assert processes.wait()[1] == -signal.SIGKILL, processes.logs()
        assert not processes.output("first").exists()
    assert json.loads((saved / "training_metadata.json").read_text())["epoch"] == 2
    with cluster(tmp_path, first=first, second=second) as processes:
        resumed = processes.results()
    for worker, uninterrupted in two_workers.items():
        assert uninterrupted["adam.epochs"].tolist() == [0, 1, 2, 3]
        assert resumed[worker]["adam.epochs"].tolist() == [2, 3]
        assert_close(resumed[worker]["adam.loss"], uninterrupted["adam.loss"][2:], "loss")
        assert_same_training(resumed[worker], uninterrupted, "adam")


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_two_devices_under_data_parallel_on_jax_train_as_one(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("one", "alone", KERAS_BACKEND="jax")
        two_devices = "--xla_force_host_platform_device_count=2"
        processes.start("two", "data_parallel", KERAS_BACKEND="jax", XLA_FLAGS=two_devices)
        runs = processes.results()
    for optimizer in ("sgd", "adam"):
        assert (runs["one"][f"{optimizer}.rows"], runs["two"][f"{optimizer}.rows"]) == (8, 4)
        assert_same_training(runs["two"], runs["one"], optimizer)
