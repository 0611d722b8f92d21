"""One process of a training run that test_distributed.py starts: by itself, on two devices, or as one of a cluster.

It trains the same model on the same data once for each optimizer named, and writes to `output` what came of it.
"""

import argparse
import contextlib
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_butterfly import Butterfly, ButterflyDense

EPOCHS, BATCHES, BATCH, FEATURES, UNITS = 4, 4, 8, 12, 3
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
}


class AcrossWorkers(keras.Sequential):
    """A Sequential that `fit` can train under MultiWorkerMirroredStrategy, made outside the strategy's scope.

    Keras 3 (3.15 still) fails on other models, for two reasons. If the model itself, not just its layers, is made in the
    scope, `fit` reduces a first batch over the workers, and that strategy reduces no tuples. And it takes the mean over axis 0
    of what `train_step` returns, which scalars have not.
    """

    def train_step(self, data):
        return {name: ops.reshape(value, (1,)) for name, value in super().train_step(data).items()}


class Journal(keras.callbacks.Callback):
    """Notes which epochs began, and kills the process before a given batch of a given epoch."""

    def __init__(self, die_at):
        super().__init__()
        self.epochs = []
        self.die_at = die_at

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self.die_at == [self.epochs[-1], batch]:
            os.kill(os.getpid(), signal.SIGKILL)


class Rows:
    """A metric function that finds how many rows of a batch one device works on."""

    __name__ = "rows"

    def __init__(self):
        self._on_one_device = set()

    def __call__(self, y_true, y_pred):
        if keras.backend.backend() == "jax":  # one program for all devices: only the compiler knows which rows lie where
            import jax

            jax.debug.inspect_array_sharding(y_pred, callback=lambda split: self._note(split.shard_shape(y_pred.shape)[0]))
        return ops.full_like(y_true[:, 0], ops.shape(y_true)[0])

    def found(self, history):
        return sorted(self._on_one_device or set(history["rows"]))

    def _note(self, rows):
        self._on_one_device.add(rows)


def main():
    options = parse()
    scope = SCOPES[options.strategy]()
    drawn = subsets()  # before the first seed is set
    outcomes = {optimizer: train(optimizer, scope, options) for optimizer in options.optimizers}
    found = {f"{run}.{name}": value for run, outcome in outcomes.items() for name, value in outcome.items()}
    np.savez(options.output, **found, **drawn)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("strategy", choices=SCOPES)
    parser.add_argument("output")
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adam"])
    parser.add_argument("--backup", help="folder to save to")
    parser.add_argument("--resume", help="folder, the same or another worker's, to start from")
    parser.add_argument("--die-at", nargs=2, type=int, metavar=("EPOCH", "BATCH"))
    return parser.parse_args()


def train(optimizer, scope, options):
    """Trains a new model, and returns by name what it was, what it became, and how."""
    x, y = data()
    rows, journal = Rows(), Journal(options.die_at)
    model = empty_model(options.strategy, scope)
    with scope():
        for layer in layers():
            model.add(layer)
        model.compile(OPTIMIZERS[optimizer](), "mse", metrics=[rows])
        initial = model.get_weights()
        callbacks = [*backups(options), journal]
        history = model.fit(x, y, BATCH, EPOCHS, shuffle=False, verbose=0, callbacks=callbacks).history
    return {
        **{f"initial.{i}": value for i, value in enumerate(initial)},
        **{f"final.{i}": value for i, value in enumerate(model.get_weights())},
        **{f"optimizer.{i}": ops.convert_to_numpy(variable.value) for i, variable in enumerate(model.optimizer.variables)},
        "loss": history["loss"],
        "rows": rows.found(history),
        "epochs": journal.epochs,
    }


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCHES * BATCH, FEATURES))
    y = np.tanh(x @ rng.standard_normal((FEATURES, UNITS)))
    return x.astype("float32"), y.astype("float32")


def empty_model(strategy, scope):
    if strategy == "workers":
        return AcrossWorkers()
    with scope():
        return keras.Sequential()


def layers():
    """Return butterflies of random subsets, on which all processes agree without a seed of a layer's own.

    The global seed is of the initial weights alone.
    """
    keras.utils.set_random_seed(2)
    return [keras.Input((FEATURES,)), *butterflies()]


def butterflies():
    return [Butterfly(20, "relu", truncation="random"), ButterflyDense(UNITS, k1=4, k2=2)]


def subsets():
    """Return by name the nodes that the layers keep in a process that has set no seed at all."""
    first, second = butterflies()
    first.build((None, FEATURES))
    second.build((None, 20))
    return {
        "subset.inputs": first.wiring.inputs,
        "subset.j1": second.j1.wiring.outputs,
        "subset.j2_t": second.j2_t.wiring.inputs,
    }


def backups(options):
    """Every worker saves, each to a folder of its own, but all resume from what the first one saved.

    All save, because saving makes variables, which in the strategy's scope the workers must do together. They resume from one
    folder, because a worker may be lost when another has saved an epoch and it has not yet.
    """
    if options.backup is None:
        return []
    if options.backup != options.resume and Path(options.resume).exists():
        shutil.copytree(options.resume, options.backup, dirs_exist_ok=True)
    return [keras.callbacks.BackupAndRestore(options.backup)]


def mirrored():
    import tensorflow as tf

    cpu, *_ = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope


def workers():
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy().scope  # the cluster is the one in TF_CONFIG


def data_parallel():
    return keras.distribution.DataParallel().scope


SCOPES = {"alone": lambda: contextlib.nullcontext, "mirrored": mirrored, "workers": workers, "data_parallel": data_parallel}

if __name__ == "__main__":
    main()
