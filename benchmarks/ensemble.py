"""Training many copies of one network at once, on JAX: they differ in their start, their learning rate, and their dropout.

`jax.vmap` makes one program of all the copies. A small network keeps only a small part of a GPU busy, so a whole grid of
learning rates and seeds takes about as long as one training. The result is that of `fit` with Adam and cosine decay, but
for the order of the examples, which NumPy draws here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import keras
import numpy as np
from jax import numpy as jnp
from keras import ops

from keras_butterfly.compression.distillation import difference

# The same as in `evidence.py`, which imports this module only for `--together`.
TEMPERATURE = 2.0
TEST_BATCH = 1000


@keras.saving.register_keras_serializable("benchmarks")
class VariableDropout(keras.layers.Layer):
    """Dropout whose rate is a weight that is not trained, so that the copies of a network can have different rates."""

    def build(self, input_shape):
        self.rate = self.add_weight(name="dropout_rate", shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(0)
        self.built = True

    def call(self, inputs, training=False):
        if not training:
            return inputs
        kept = keras.random.uniform(ops.shape(inputs), seed=self.seeds) >= self.rate
        return ops.where(kept, inputs / (1 - self.rate), 0)


@dataclass(frozen=True)
class Member:
    """One copy of a network.

    Attributes:
        start: values of the trainable variables before the training.
        rate: learning rate before the cosine decay.
        seed: of the order of the examples, and of the dropout.
        dropout: rate of all layers `VariableDropout`.
        targets: outputs of a teacher for all examples, from which the member learns beside the labels. None: no teacher.
    """

    start: Sequence[np.ndarray]
    rate: float
    seed: int
    dropout: float = 0.0
    targets: np.ndarray | None = None


def train(network: keras.Model, members: Sequence[Member], x, y, epochs: int, batch: int) -> list[list[np.ndarray]]:
    """Train the members, and return the values of the trainable variables of each.

    Args:
        network: the network of all members. Its own trainable values are not used.
        members: the copies.
        x, y: examples and their classes.
        epochs, batch: length of the training, and number of examples in a step.

    Raises:
        ValueError: if Keras does not run on JAX, or only some members have a teacher.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(f"Expected the backend jax. Received: {keras.backend.backend()}. Set KERAS_BACKEND=jax.")
    if len({member.targets is None for member in members}) > 1:
        raise ValueError("Expected a teacher for all members or for none of them.")
    steps = -(-len(x) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(1.0, epochs * steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(network.trainable_variables)
    # Members often share a teacher, so each teacher's outputs are kept once.
    teachers = list({id(member.targets): member.targets for member in members if member.targets is not None}.values())
    targets = jnp.asarray(np.stack(teachers)) if teachers else None
    which = jnp.asarray([next((i for i, t in enumerate(teachers) if t is member.targets), 0) for member in members])

    def loss(trained, fixed, inputs, labels, target):
        outputs, fixed = network.stateless_call(trained, fixed, inputs, training=True)
        value = ops.mean(keras.losses.sparse_categorical_crossentropy(labels, outputs))
        return value + (0 if target is None else difference(target, outputs, True, TEMPERATURE)), fixed

    def step(inputs, labels, rate, teacher, state, examples):
        trained, fixed, slots = state
        schedule.initial_learning_rate = rate
        target = None if targets is None else targets[teacher, examples]
        gradients, fixed = jax.grad(loss, has_aux=True)(trained, fixed, inputs[examples], labels[examples], target)
        trained, slots = optimizer.stateless_apply(slots, gradients, trained)
        return (trained, fixed, slots), None

    def epoch(rate, teacher, state, order, inputs, labels):
        run = partial(step, inputs, labels, rate, teacher)
        full = len(order) // batch * batch
        state, _ = jax.lax.scan(run, state, order[:full].reshape(-1, batch))
        return state if full == len(order) else run(state, order[full:])[0]

    rates = jnp.asarray([member.rate for member in members], "float32")
    inputs, labels = jnp.asarray(x), jnp.asarray(y)
    generators = [np.random.default_rng(member.seed) for member in members]
    run_epoch = jax.jit(jax.vmap(epoch, in_axes=(0, 0, 0, 0, None, None)), donate_argnums=2)
    state = _started(network, optimizer, members)
    # Otherwise a GPU multiplies in TF32, with 10 bits, and the figures would not be those of a processor.
    with jax.default_matmul_precision("float32"):
        for _ in range(epochs):
            orders = np.stack([generator.permutation(len(x)) for generator in generators]).astype("int32")
            state = run_epoch(rates, which, state, jnp.asarray(orders), inputs, labels)
    stacked = [np.asarray(values) for values in state[0]]
    return [[values[i] for values in stacked] for i in range(len(members))]


def outputs(network: keras.Model, trained: Sequence[Sequence[np.ndarray]], x) -> np.ndarray:
    """Return the outputs (members, examples, classes) of the network with the trainable values of each member."""
    fixed = [variable.value for variable in network.non_trainable_variables]

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def run(values, inputs):
        return network.stateless_call(values, fixed, inputs, training=False)[0]

    stacked = [jnp.asarray(np.stack(values)) for values in zip(*trained, strict=True)]
    with jax.default_matmul_precision("float32"):
        parts = [np.asarray(run(stacked, jnp.asarray(x[first : first + TEST_BATCH]))) for first in range(0, len(x), TEST_BATCH)]
    return np.concatenate(parts, axis=1)


def _started(network: keras.Model, optimizer: keras.Optimizer, members: Sequence[Member]):
    """Return the state of all members before the first step: trained values, fixed values and the optimizer's slots."""

    def fixed_value(variable, member: Member):
        if variable.name == "dropout_rate":
            return np.float32(member.dropout)
        value = ops.convert_to_numpy(variable.value)
        # The state of a seed generator is a seed and a counter.
        return np.asarray([member.seed, 0], value.dtype) if variable.name == "seed_generator_state" else value

    trained = [jnp.asarray(np.stack(values)) for values in zip(*(member.start for member in members), strict=True)]
    fixed = [jnp.asarray(np.stack([fixed_value(v, member) for member in members])) for v in network.non_trainable_variables]
    slots = [jnp.stack([v.value] * len(members)) for v in optimizer.variables]
    return trained, fixed, slots
