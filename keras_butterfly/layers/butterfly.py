"""The layer `Butterfly`, and checks of arguments that several layers take."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from ..structure import kernels
from ..structure.factorization import factorize, leading_directions, replace_zeros
from ..structure.wiring import Wiring, check_radix
from ..utils.validation import check_nodes, check_seed, not_built, positive_number
from . import initializers, learning_rate
from .dense_like import DenseLike
from .override import floating
from .sizes import check_size, check_stacks

IMPLEMENTATIONS = ("auto", "gather", "fused")
ORDERS = (None, "increasing", "decreasing")
# Files of weights hold these too, because the weights fit only this structure.
_STRUCTURE = ("input_nodes", "output_nodes", "strides")


@keras.saving.register_keras_serializable("keras_butterfly")
class Butterfly(DenseLike):
    """A layer like `keras.layers.Dense` whose matrix is a product of a few sparse stages: `y = activation(B x + bias)`.

    A stage of radix r applies a free r x r matrix to each group of r nodes. The numbers of these nodes differ in one digit,
    and each stage mixes another digit. N, the number of nodes, is the next power of two of max(n, units), where n is the size
    of the input's last axis. The inputs enter at the nodes 0 .. n - 1 and the outputs are read from the nodes 0 .. units - 1.
    Every size from 1 works, and the generic rank is min(n, units), that of Dense.

    The default radix is 4. The paper's butterfly has radix 2: stage t joins node i of N = 2^m nodes to the nodes i and
    i XOR 2^t, `y[i] = a_t[i] x[i] + b_t[i] x[i XOR 2^t]`, t = 0 .. m - 1. Radix 4 has as many weights, and two stages of
    radix 2 are one special stage of radix 4.

    Weights: `effective_parameters` for the butterfly, and `units` for the bias. Only edges on a path from an input to an output
    have a weight. That is at most N times the sum of the radices, 2 N log2 N for radix 2 and for radix 4, and for radix 2 at
    most 2 N log2 ell + 6 N, ell the smaller of n and units.
    Multiply-adds per example, stage by stage: the number of weights.

    Args:
        units: size of the output's last axis. None (default) means n.
        activation, use_bias: as in `keras.layers.Dense`. Defaults: None, True.
        radix: how many nodes a stage mixes. A power of two (default 4): every stage has this radix, and the last one what is
            left, 512 = 4 * 4 * 4 * 4 * 2. 2 is the paper's butterfly. A sequence of integers from 2: one radix for each stage,
            in the order of the stages. N is their product, at least max(n, units): (32, 32) for 1024, a Monarch matrix, or
            (28, 28) for 784, without padding. "auto": two stages of about equal radices with the fewest nodes.
        truncation: which nodes the narrower side uses. "first" (default) means the first nodes, which export best. "random",
            the paper's choice, means a uniform random subset of the first max(n, units) nodes. The same sizes always get the
            same subset, unless `seed` or `truncation_seed` is given. A sequence lists distinct node indices below N.
        transposed: run the stages backwards, from the largest stride down. If units = n, `truncation` then names the inputs.
        order: "increasing" or "decreasing", the order of the strides. None (default) means decreasing if the layer is
            `transposed`, or if `units` is above the next power of two of n: there the inputs first spread over all nodes. In
            every other case it means increasing as in the paper, so that neighbours (pixels, samples, channels) mix first.
        kernel_initializer: "glorot" (default), "orthogonal", "fjlt", "identity", "hadamard", an instance from
            `keras_butterfly.initializers`, or any Keras initializer, which then fills the flat weight vector.
        stacks: the number of butterflies whose sum the layer computes. Default 1. (For a product, stack layers.)
        rank: None (default), or the rank of a product of two thin matrices, U (n, rank) and V (rank, units), which is added to
            the butterflies: `y = activation(B x + x U V + bias)`. V starts at zero.
        lr_multiplier: factor on the learning rate of the butterfly's weights. None (default) means a rule with which the
            learning rate that suits Dense suits a butterfly too, with Adam and with SGD. A number is a fixed factor for every
            optimizer. The bias always learns at the optimizer's rate.
        implementation: how the map is computed. "gather" computes stage by stage and is the reference. "fused" multiplies
            consecutive stages out to block factors inside the graph, or all stages to one matrix if that costs less. "auto"
            (default) leaves the choice to the layer, which takes "fused".
        seed: int or None, the seed of a random subset and of the initial weights.
        truncation_seed: int or None, the seed of a random subset alone. Default: `seed`, or a constant if there is none.
        bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: as
            in `keras.layers.Dense`. The kernel regularizer and constraint act on the stored weights, which are
            `gadget_weights` divided by the learning rate's factor for Adam. So an L2 regularizer with SGD decays the
            weights as fast as those of Dense.
        **kwargs: arguments of `keras.layers.Layer`: name, dtype, trainable.

    Names of the weights: "gadgets", (stacks, effective weights), "bias", (units,), and with a rank "kernel_in" of U and
    "kernel_out" of V. Otherwise no weight is called "kernel", so
    `exclude_from_weight_decay(var_names=["kernel"])` of an optimizer does not match. Write `var_names=["gadgets"]`.

    Saving: `.keras` and `.weights.h5` files hold `gadget_weights`, the input and output nodes, and the strides. So they can be
    loaded into a layer with another `lr_multiplier`. Loading them into a layer of other nodes or strides is an error.
    `set_weights`, TensorFlow checkpoints and Keras's legacy `.h5` hold the stored weights alone and cannot detect such errors.
    Use them only between layers made with equal arguments.

    Input shape: (..., n), at least 2-D, n known. Integers are cast. Output shape: (..., units). Dtype: the compute dtype.

    Precision: if the weights keep the norm, as the initial ones do, the relative error of a full butterfly of radix 2 in the
        2-norm is at most 2 (log2 N + 2) u. Here u is the unit roundoff of the compute dtype: 2^-53 for float64, 2^-24 for
        float32, 2^-11 for float16, 2^-8 for bfloat16. Block factors are multiplied out in the dtype of the variables.

    Raises:
        ValueError: if an argument or the input shape does not fit a butterfly.

    Reference: Ailon, Leibovich, Nair, *Sparse Linear Networks with a Fixed Butterfly Structure: Theory and Practice*, UAI 2021,
        section 3.

    Example:
        >>> layer = Butterfly(10, "relu")
        >>> tuple(layer(keras.ops.ones((2, 1024))).shape)
        (2, 10)
    """

    def __init__(
        self,
        units=None,
        activation=None,
        use_bias=True,
        *,
        radix=4,
        truncation="first",
        transposed=False,
        order=None,
        kernel_initializer="glorot",
        stacks=1,
        rank=None,
        lr_multiplier=None,
        implementation="auto",
        seed=None,
        truncation_seed=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation,
            use_bias,
            bias_initializer="zeros" if bias_initializer is None else bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.radix = check_radix(radix)
        self.truncation = check_truncation(truncation)
        if not isinstance(transposed, bool):
            raise ValueError(f"`transposed` must be True or False. Received: transposed={transposed!r}")
        self.transposed = transposed
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {ORDERS}. Received: order={order!r}")
        self.order = order
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.stacks = check_stacks(stacks)
        self.rank = None if rank is None else check_size(rank, "rank")
        self.lr_multiplier = check_lr_multiplier(lr_multiplier)
        self.implementation = check_implementation(implementation)
        self.seed = check_seed(seed)
        self.truncation_seed = check_seed(truncation_seed, "truncation_seed")
        self._wiring: Wiring | None = None
        self._multipliers: Any = None
        self._apply: Any = None
        self._fold: Any = None
        self.gadgets: Any = None
        self.kernel_in: Any = None
        self.kernel_out: Any = None

    def build(self, input_shape):
        features = self._start_build(input_shape)
        units = self.units or features
        wiring = Wiring.butterfly(
            features,
            units,
            truncation=self.truncation,
            transposed=self.transposed,
            order=self.order,
            radix=self.radix,
            seed=next((seed for seed in (self.truncation_seed, self.seed) if seed is not None), 0),
        )
        # To plan how the map is computed takes longer than a call of a small layer, so it is done once.
        self._wiring = wiring
        self._multipliers = learning_rate.multipliers(wiring, self.stacks, self.lr_multiplier)
        self._apply = kernels.plan_apply(wiring, self.implementation)
        self._fold = kernels.plan_kernel(wiring)
        if wiring.effective_weights:  # a single node has no stages, and so no weights
            self.gadgets = self.add_weight(
                name="gadgets",
                shape=(self.stacks, wiring.effective_weights),
                initializer=self._initial_gadgets,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
                autocast=False,  # block factors are multiplied out in the precision of the variable, then rounded once
            )
        if self.rank:
            self.kernel_in, self.kernel_out = self._add_thin_kernels(features, units, self.rank, ("glorot_uniform", "zeros"))
        self._add_bias(units)

    def linear(self, x):
        """Return `B x`, the layer's output without bias and activation: (..., n) -> (..., units)."""
        x, gadgets = floating(x, self.compute_dtype), self.gadget_weights
        total = sum(self._apply(x, weights=gadgets[stack]) for stack in range(self.stacks))
        thin = [ops.cast(kernel, x.dtype) for kernel in self.thin_kernels()]
        return total + ops.matmul(ops.matmul(x, thin[0]), thin[1]) if thin else total

    @property
    def wiring(self) -> Wiring:
        """Return the graph of the butterfly: which node feeds which.

        Raises:
            ValueError: before the layer is built.
        """
        if self._wiring is None:
            raise not_built(self)
        return self._wiring

    def parts(self) -> tuple:
        """Return the maps whose product is the layer's linear map. A butterfly has one part, which is the layer itself.

        This is a method because Keras reads all properties when it saves and loads, and would follow the tuple without end.
        """
        return (self,)

    @property
    def kernel(self):
        """Return the equivalent dense matrix, (n, units), with `layer.linear(x) == x @ layer.kernel`.

        Its dtype is that of the variables.

        Raises:
            ValueError: before the layer is built.
        """
        gadgets = self.gadget_weights
        total = sum(self._fold(gadgets[stack]) for stack in range(self.stacks))
        return total if self.rank is None else total + ops.matmul(*map(ops.convert_to_tensor, self.thin_kernels()))

    def thin_kernels(self) -> tuple:
        """Return U and V, whose product is added to the butterflies, or an empty tuple if `rank` is None."""
        return () if self.rank is None else (self.kernel_in, self.kernel_out)

    @property
    def gadget_weights(self):
        """Return the weights that the butterflies compute with, (stacks, effective weights), in the dtype of the variables.

        They are the stored weights times the learning rate's factor for Adam.

        Raises:
            ValueError: before the layer is built.
        """
        if not self.wiring.effective_weights:
            return ops.zeros((self.stacks, 0), dtype=self.variable_dtype)
        return learning_rate.used_weights(self.gadgets, self._multipliers)

    def set_gadget_weights(self, weights) -> None:
        """Make the layer compute with `weights`, an array of the shape of `gadget_weights`.

        Raises:
            ValueError: before the layer is built, or if the shape is another one.
        """
        shape, weights = (self.stacks, self.wiring.effective_weights), np.asarray(weights)
        if weights.shape != shape:
            raise ValueError(f"Layer '{self.name}' expects weights of shape {shape}. Received: {weights.shape}")
        if self.gadgets is not None:
            self.gadgets.assign(weights / self._multipliers.adaptive)

    def approximate(self, kernel, outputs=None) -> None:
        """Set the weights to those of a sum of butterflies near `kernel`. Each stack approximates what the ones before miss.

        U and V, if the layer has them, come first. They hold the leading right singular vectors of `outputs`.

        Args:
            kernel: (n, units), the matrix to come near to.
            outputs: (rows, units), the outputs of the kernel on data. None: the kernel itself.
        """
        weights = np.zeros((self.stacks, self.wiring.effective_weights))
        self.set_gadget_weights(weights)
        if self.rank:
            right = leading_directions(kernel if outputs is None else outputs, self.rank)
            self.kernel_in.assign(kernel @ right.T)
            self.kernel_out.assign(right)
        for stack in range(self.stacks):
            remaining = kernel - ops.convert_to_numpy(self.kernel) if stack or self.rank else kernel
            weights[stack] = replace_zeros(factorize(remaining, self.wiring))
            self.set_gadget_weights(weights)

    def map_weights(self) -> list:
        """Return the weights of the linear map as arrays: `gadget_weights`, and U and V if the layer has them."""
        return [ops.convert_to_numpy(weights) for weights in (self.gadget_weights, *self.thin_kernels())]

    def set_map_weights(self, weights) -> None:
        """Set the weights of the linear map to those that `map_weights` of an equal layer returned."""
        gadgets, *thin = weights
        self.set_gadget_weights(gadgets)
        for variable, value in zip(self.thin_kernels(), thin, strict=True):
            variable.assign(value)

    @property
    def effective_parameters(self) -> int:
        """Return the exact number of weights of the butterflies, and of U and V if the layer has them, without the bias.

        Raises:
            ValueError: before the layer is built.
        """
        thin = sum(math.prod(variable.shape) for variable in self.thin_kernels())
        return self.stacks * self.wiring.effective_weights + thin

    def save_own_variables(self, store):
        """Write `gadget_weights`, U and V, the bias, the input and output nodes, and the strides to `store`."""
        if not self.built:
            return
        # In float64 multiplying by the factor, and dividing on loading, is exact. A loaded layer gives the same outputs to the
        # last bit.
        stored = np.zeros((self.stacks, 0)) if self.gadgets is None else ops.convert_to_numpy(self.gadgets)
        store["gadgets"] = stored.astype("float64") * self._multipliers.adaptive
        for name, variable in self._plain_variables().items():
            store[name] = variable
        for name, value in self._structure().items():
            store[name] = np.array(value)

    def load_own_variables(self, store):
        """Load weights that were saved from a layer of the same nodes and strides. Its `lr_multiplier` may be another one.

        Raises:
            ValueError: if the saved layer had other nodes, strides or stacks, or if only one of the two layers has a bias.
        """
        stored = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118 (Keras's store does not iterate)
        structure = self._structure()
        differing = [name for name in structure if tuple(stored.get(name, np.zeros(0)).tolist()) != structure[name]]
        if differing:
            raise ValueError(
                f"The stored weights of layer '{self.name}' belong to a butterfly of other {' and '.join(differing)}. Build "
                "the model from the saved config, or give the layer the `radix`, `truncation`, `seed` and `order` that it was "
                "saved with."
            )
        expected = {"gadgets": (self.stacks, self.wiring.effective_weights)}
        expected |= {name: tuple(variable.shape) for name, variable in self._plain_variables().items()}
        received = {name: value.shape for name, value in stored.items() if name not in _STRUCTURE}
        if received != expected:
            raise ValueError(
                f"Layer '{self.name}' expects weights of the shapes {expected}. Received: {received}. Build the layer with the "
                "arguments it was saved with."
            )
        self.set_gadget_weights(stored["gadgets"])
        for name, variable in self._plain_variables().items():
            variable.assign(stored[name])

    def _plain_variables(self) -> dict[str, Any]:
        """Return the variables that files hold as they are, by their names there: U, V and the bias, if the layer has them."""
        named = {"kernel_in": self.kernel_in, "kernel_out": self.kernel_out, "bias": self.bias}
        return {name: variable for name, variable in named.items() if variable is not None}

    def _structure(self) -> dict[str, tuple[int, ...]]:
        """Return the input nodes, output nodes and strides, by their names in files of weights."""
        return dict(zip(_STRUCTURE, (self.wiring.inputs, self.wiring.outputs, self.wiring.strides), strict=True))

    def get_config(self):
        return {
            **super().get_config(),
            "radix": list(self.radix) if isinstance(self.radix, tuple) else self.radix,
            "truncation": self.truncation,
            "transposed": self.transposed,
            "order": self.order,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "stacks": self.stacks,
            "rank": self.rank,
            "lr_multiplier": self.lr_multiplier,
            "implementation": self.implementation,
            "seed": self.seed,
            "truncation_seed": self.truncation_seed,
        }

    def _initial_gadgets(self, shape, dtype):
        """Draw the initial weights, and divide them by the learning rate's factor for Adam, as they are stored."""
        initializer = self.kernel_initializer
        if isinstance(initializer, initializers.ButterflyInitializer):
            initial = initializer(self.wiring, stacks=self.stacks, seed=self.seed)
        else:
            initial = initializer(shape, dtype=dtype)
        return ops.convert_to_tensor(initial / self._multipliers.adaptive, dtype=dtype)


def check_truncation(truncation):
    """Return `truncation` as configs save it: a name or a list of distinct indices. Raise ValueError for anything else."""
    if isinstance(truncation, str):
        if truncation not in ("first", "random"):
            raise ValueError(
                f'`truncation` must be "first", "random" or a sequence of node indices. Received: truncation={truncation!r}'
            )
        return truncation
    return list(check_nodes(truncation, None, "truncation"))


def check_lr_multiplier(lr_multiplier) -> float | None:
    """Return `lr_multiplier` as a float, or None. Raise ValueError unless it is None or a positive number."""
    return None if lr_multiplier is None else positive_number(lr_multiplier, "lr_multiplier", "None or ")


def check_implementation(implementation: str) -> str:
    """Return `implementation`. Raise ValueError unless it is one of IMPLEMENTATIONS."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"`implementation` must be one of {IMPLEMENTATIONS}. Received: implementation={implementation!r}")
    return implementation
