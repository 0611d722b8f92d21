"""The butterfly layer."""

import random
from typing import Any

import keras
import numpy as np
from keras import ops

from . import fusion, initializers, kernels
from .execution import execute, floating
from .wiring import Wiring, check_nodes, check_seed, positive_integer, positive_number

IMPLEMENTATIONS = ("auto", "gather", "fused")
ORDERS = (None, "increasing", "decreasing")
# With it a butterfly trains at the learning rates that people use for Dense, with Adam and with SGD; see CONTRIBUTING.md.
DEFAULT_GAIN = 10.0
_INPUT_NODES, _OUTPUT_NODES, _GAIN = "input_nodes", "output_nodes", "gain"


@keras.saving.register_keras_serializable("keras_butterfly")
class Butterfly(keras.layers.Layer):
    """A linear layer whose matrix is a product of log2 N sparse butterfly stages: `y = activation(B x + bias)`.

    Stage t joins node i of N = 2^m to the nodes i and i XOR 2^t, each edge with a weight of its own:
    `y[i] = a_t[i] x[i] + b_t[i] x[i XOR 2^t]`, t = 0 .. m - 1. N is the next power of two of max(n, units), n the size of
    the last axis. With units < n it is the truncated butterfly: the outputs are `units` nodes, chosen once. With units > n it
    is the transpose of that: the inputs enter at n chosen nodes and the stages run from the largest stride down.

    Weights: only those on a path from an input to an output, at most min(2 N log2 N, 2 N log2 ell + 6 N), ell the smaller
    of n and units; exactly `effective_parameters`, and `units` for the bias. Multiply-adds per example stage by stage: as many.

    Args:
        units: size of the output's last axis. None (default): n.
        truncation: which nodes the narrower side uses where N has more: "random" (default), a uniform random subset fixed at
            creation and saved with the config and the weights; "first"; or a sequence of distinct node indices below N.
            The workers of a distributed run must draw the same subset: give a `seed`, or call keras.utils.set_random_seed.
            Weights fit only the subset they were trained on: loading others from a file is an error, but `set_weights`
            cannot tell. Give a `seed` where a model is rebuilt by code rather than from its config.
        transposed: run the stages backwards, from the largest stride down. Always so where units > n.
        order: "increasing" or "decreasing", the order of the strides, whatever `transposed` and the sizes say. Default None:
            increasing as in the paper, decreasing for a transpose.
        kernel_initializer: "orthogonal" (default), "fjlt", "identity", "hadamard", an instance from
            `keras_butterfly.initializers`, or any Keras initialiser, which then fills the flat weight vector.
        stacks: the layer computes the sum of that many butterflies. Default 1. (For a product, stack layers.)
        gain: an equalised learning rate. Weights and bias are stored divided by `gain` and multiplied by it when used, and
            the gradients of the stored ones are scaled: the same function, but trained as if at `gain` times the learning
            rate, with Adam and SGD alike, only the bias with SGD at the plain one. Few weights on many paths want that.
            Default 10; 1 turns it off. Weights of several stacks take `gain` / sqrt(stacks), as the stacks' steps add up. SGD
            with momentum 0.9 does well at a learning rate of 0.01 and can stop learning at 0.03; there take gain 3, or "fjlt".
            Weights from a file are converted to the layer's gain; `set_weights` and TensorFlow checkpoints cannot tell.
        use_bias: add a bias vector. Default False.
        activation: as in `keras.layers.Dense`. Default None.
        implementation: how the same map is computed. "gather": stage by stage, a gather and elementwise multiplies, the
            reference. "fused": consecutive stages are multiplied out, inside the graph, to block factors, or the whole to
            one matrix where that costs less. "auto" (default): leaves the choice to the layer, which takes "fused".
        seed: int or None; of the random subset and of the initial weights.
        truncation_seed: int; of the random subset alone. Default: `seed`, else drawn now. Saved with the config.
        bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: as
            in `keras.layers.Dense`. Regularisers and constraints act on the flat weight vectors and the bias as stored. With
            SGD an L2 regulariser so decays the used values as fast as Dense's.
        **kwargs: of `keras.layers.Layer`: name, dtype, trainable.

    Input shape: (..., n), at least 2-D, n known; integers are cast. Output shape: (..., units). Dtype: the compute dtype.

    Precision: with weights that keep the norm, as the initial ones do, a full butterfly's error in the 2-norm is at most
        2 (log2 N + 2) u, relative, u the unit roundoff of the compute dtype: 2^-53 for float64, 2^-24 for float32, 2^-11 for
        float16, 2^-8 for bfloat16. Block factors are multiplied out in the variables' dtype.

    Raises:
        ValueError: for an argument or input shape that no butterfly fits; the message names what was expected.

    Reference: Ailon, Leibovich, Nair, *Sparse Linear Networks with a Fixed Butterfly Structure: Theory and Practice*, UAI 2021,
        section 3.

    Example:
        >>> layer = Butterfly(10, seed=0)
        >>> tuple(layer(keras.ops.ones((2, 1024))).shape)
        (2, 10)
    """

    def __init__(
        self,
        units=None,
        *,
        truncation="random",
        transposed=False,
        order=None,
        kernel_initializer="orthogonal",
        stacks=1,
        gain=None,
        use_bias=False,
        activation=None,
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
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = None if units is None else positive_integer(units, "units")
        self.truncation = check_truncation(truncation)
        if not isinstance(transposed, bool):
            raise ValueError(f"`transposed` must be True or False. Received: transposed={transposed!r}")
        self.transposed = transposed
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {ORDERS}. Received: order={order!r}")
        self.order = order
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.stacks = positive_integer(stacks, "stacks")
        self.gain = DEFAULT_GAIN if gain is None else positive_number(gain, "gain")
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.implementation = check_implementation(implementation)
        self.seed = check_seed(seed)
        chosen = self.seed if truncation_seed is None else check_seed(truncation_seed, "truncation_seed")
        self.truncation_seed = random.randrange(2**31) if chosen is None else chosen
        self.bias_initializer = keras.initializers.get("zeros" if bias_initializer is None else bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self._wiring: Wiring | None = None
        self.gadgets: Any = None
        self._bias: Any = None

    def build(self, input_shape):
        features = last_axis(self, input_shape)
        units = self.units or features
        self._wiring = Wiring.butterfly(
            features,
            units,
            truncation=self.truncation,
            transposed=self.transposed,
            order=self.order,
            seed=self.truncation_seed,
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})
        if self.wiring.effective_weights:  # a single node has no stages, and so no weights
            self.gadgets = self.add_weight(
                name="gadgets",
                shape=(self.stacks, self.wiring.effective_weights),
                initializer=self._initial_gadgets,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
                autocast=False,  # block factors are multiplied out in the variable's precision
            )
        if self.use_bias:
            self._bias = self.add_weight(
                name="bias",
                shape=(units,),
                initializer=self._initial_bias,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                autocast=False,
            )

    def call(self, inputs):
        return self.activation(execute(self, self.affine, inputs))

    def affine(self, x):
        """The linear map and the bias, without activation: (..., n) -> (..., units)."""
        outputs = self.linear(x)
        return outputs if self._bias is None else ops.add(outputs, ops.cast(self.bias, outputs.dtype))

    def linear(self, x):
        """The linear map alone, without bias and activation: (..., n) -> (..., units)."""
        x = floating(x, self.compute_dtype)
        return self._sum_stacks(lambda weights: self._apply(x, weights))

    @property
    def wiring(self) -> Wiring:
        """Which node feeds which.

        Raises:
            ValueError: before the layer is built.
        """
        if self._wiring is None:
            raise not_built(self)
        return self._wiring

    @property
    def kernel(self):
        """The equivalent dense matrix, (n, units), in the variables' dtype: `layer.linear(x) == x @ layer.kernel`.

        Raises:
            ValueError: before the layer is built.
        """
        wiring = self.wiring
        return self._sum_stacks(lambda weights: kernels.kernel(wiring, weights))

    @property
    def gadget_weights(self):
        """The butterflies' weights, the stored ones times their gain, in the variables' dtype: (stacks, effective weights).

        Raises:
            ValueError: before the layer is built.
        """
        if not self.wiring.effective_weights:
            return ops.zeros((self.stacks, 0), dtype=self.variable_dtype)
        return equalised(self.gadgets, self._weight_gain, self._weight_gain)

    def set_gadget_weights(self, weights) -> None:
        """Stores `weights`, of the shape of `gadget_weights`, so that the layer uses them.

        Raises:
            ValueError: before the layer is built, or for another shape.
        """
        shape, weights = (self.stacks, self.wiring.effective_weights), np.asarray(weights)
        if weights.shape != shape:
            raise ValueError(f"Layer '{self.name}' expects weights of shape {shape}. Received: {weights.shape}")
        if self.gadgets is not None:
            self.gadgets.assign(weights / self._weight_gain)

    def set_bias(self, bias) -> None:
        """Stores `bias`, (units,), so that the layer uses it.

        Raises:
            ValueError: for a layer without a bias, before it is built, or for another shape.
        """
        bias = np.asarray(bias)
        if self._bias is None or bias.shape != tuple(self._bias.shape):
            expected = "no bias" if self._bias is None else f"a bias of shape {tuple(self._bias.shape)}"
            raise ValueError(f"Layer '{self.name}' has {expected}. Received: {bias.shape}")
        self._bias.assign(bias / self.gain)

    @property
    def bias(self):
        """The bias, the stored one times its gain, in the variables' dtype: (units,); or None."""
        return None if self._bias is None else equalised(self._bias, self.gain, 1.0)

    @property
    def effective_parameters(self) -> int:
        """Exact number of butterfly weights: those on a path from an input to an output, bias not counted.

        Raises:
            ValueError: before the layer is built.
        """
        return self.stacks * self.wiring.effective_weights

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units or input_shape[-1])

    def quantize(self, mode=None, **kwargs):
        """Not for butterflies; `Model.quantize` warns and goes on to the next layer.

        Raises:
            NotImplementedError: always, naming the alternative.
        """
        raise NotImplementedError(
            f"Layer '{self.name}' is not quantized to {mode} in Keras: its few weights stay in float, and nothing would get "
            "faster. Export the model by keras_butterfly.export.to_tflite, and quantize the .tflite, with ai-edge-quantizer "
            "for example."
        )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.built:
            store[_INPUT_NODES], store[_OUTPUT_NODES] = np.array(self.wiring.inputs), np.array(self.wiring.outputs)
            store[_GAIN] = np.array(self.gain)

    def load_own_variables(self, store):
        """Loads the weights, which fit only the nodes they were trained on, and converts them to the layer's gain.

        Raises:
            ValueError: if the stored weights belong to a butterfly that keeps other nodes.
        """
        stored = {name: store[name] for name in store.keys()}  # noqa: SIM118 (Keras's store does not iterate)
        nodes = [tuple(np.asarray(stored.pop(name)).tolist()) for name in (_INPUT_NODES, _OUTPUT_NODES) if name in stored]
        if nodes and nodes != [self.wiring.inputs, self.wiring.outputs]:
            raise ValueError(
                f"The stored weights of layer '{self.name}' belong to a butterfly that keeps other nodes than this one, whose "
                f"random subset was drawn from truncation_seed={self.truncation_seed}. Build the model from the saved config, "
                "or give the layer the same `seed` or `truncation` as when the weights were saved."
            )
        factor = float(np.asarray(stored.pop(_GAIN))) / self.gain if _GAIN in stored else 1.0
        super().load_own_variables(
            {name: np.asarray(value) * factor for name, value in stored.items()} if factor != 1 else stored
        )

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "truncation": self.truncation,
            "transposed": self.transposed,
            "order": self.order,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "stacks": self.stacks,
            "gain": self.gain,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "implementation": self.implementation,
            "seed": self.seed,
            "truncation_seed": self.truncation_seed,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def _initial_gadgets(self, shape, dtype):
        initializer = self.kernel_initializer
        if isinstance(initializer, initializers.ButterflyInitializer):
            initial = initializer(self.wiring, stacks=self.stacks, seed=self.seed)
        else:
            initial = initializer(shape, dtype=dtype)
        return ops.convert_to_tensor(initial / self._weight_gain, dtype=dtype)

    def _initial_bias(self, shape, dtype):
        return self.bias_initializer(shape, dtype=dtype) / self.gain

    @property
    def _weight_gain(self) -> float:
        return self.gain / self.stacks**0.5

    def _apply(self, x, weights):
        if self.implementation == "gather":
            return kernels.apply_stages(x, self.wiring, weights)
        if fusion.folds(self.wiring):
            return kernels.apply_folded(x, self.wiring, weights)
        return kernels.apply_factors(x, self.wiring, weights, fusion.best_counts(self.wiring))

    def _sum_stacks(self, apply):
        """The sum over the stacks of `apply(weights of the stack)`."""
        gadgets = self.gadget_weights
        return sum(apply(gadgets[stack]) for stack in range(self.stacks))


def equalised(stored, gain: float, sgd_gain: float):
    """`gain * stored`, with the gradient scaled so that a step of SGD moves it `sgd_gain` times as far.

    The step of an optimiser that normalises gradients is multiplied by `gain` whatever their scale.
    """
    stored, slope = ops.convert_to_tensor(stored), sgd_gain / gain
    return stored if gain == 1 else slope * stored + ops.stop_gradient((gain - slope) * stored)


def not_built(layer) -> ValueError:
    return ValueError(
        f"Layer '{layer.name}' is not built: its weights depend on the input's size, which is not known yet. "
        "Call the layer on an input, or build(input_shape), first."
    )


def last_axis(layer, input_shape) -> int:
    """The size of the last axis of an input `layer` can take, or a ValueError."""
    if not isinstance(input_shape, list | tuple) or len(input_shape) < 2:
        raise ValueError(
            f"Layer '{layer.name}' expects an input of at least 2 dimensions, (batch, ..., features). "
            f"Received: input_shape={input_shape}"
        )
    if input_shape[-1] is None:
        raise ValueError(
            f"Layer '{layer.name}' expects the size of the last axis to be known. "
            f"Received: input_shape={tuple(input_shape)}. Fix it, for example with keras.Input(shape=(..., features))."
        )
    return positive_integer(input_shape[-1], "input_shape[-1]")


def check_truncation(truncation):
    """`truncation` in the form that configs save: a name or a list of distinct indices; or a ValueError."""
    if isinstance(truncation, str):
        if truncation not in ("random", "first"):
            raise ValueError(
                f'`truncation` must be "random", "first" or a sequence of node indices. Received: truncation={truncation!r}'
            )
        return truncation
    return list(check_nodes(truncation, None, "truncation"))


def check_implementation(implementation: str) -> str:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"`implementation` must be one of {IMPLEMENTATIONS}. Received: implementation={implementation!r}")
    return implementation
