"""What keras.ops does not offer alike on TensorFlow, JAX and torch: gradients and compilation."""

import keras
import numpy as np

NAME = keras.backend.backend()
# Of float64 sums, relative. Keras's matmul on torch computes float64 in float32.
ROUNDOFF = 1e-6 if NAME == "torch" else 1e-12
# `jit_compile` of small trainings. TensorFlow takes longer to compile them by XLA than to run them.
JIT = False if NAME == "tensorflow" else "auto"
# Of hypothesis. JAX compiles anew for every size that an example has.
EXAMPLES = 8 if NAME == "jax" else 25


def value_and_gradients(function, sources, upstream):
    """`function(*sources)` and the gradients of `sum(upstream * function(*sources))`, as NumPy arrays.

    A source is an array, or a Keras variable that `function` reads and takes no argument for. A source that the value does not
    depend on has the gradient zero.
    """
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[NAME](function, sources, np.asarray(upstream))


def compiled(function):
    """`function` compiled by XLA, or by what the backend has in its place."""
    if NAME == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return traced(function)


def traced(function):
    """`function` of tensors, compiled as a whole on JAX, where compiling every operation by itself takes long."""
    if NAME == "jax":
        import jax

        return jax.jit(function)
    return function


def _is_variable(source):
    return isinstance(source, keras.Variable)


def _tensorflow(function, sources, upstream):
    import tensorflow as tf

    sources = [source.value if _is_variable(source) else tf.constant(source) for source in sources]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = function(*(source for source in sources if not isinstance(source, tf.Variable)))
    zero = tf.UnconnectedGradients.ZERO
    grads = tape.gradient(y, sources, output_gradients=tf.constant(upstream), unconnected_gradients=zero)
    return y.numpy(), [np.asarray(tf.convert_to_tensor(gradient)) for gradient in grads]


def _jax(function, sources, upstream):
    import jax

    def pure(*values):
        mapping = [(source, value) for source, value in zip(sources, values, strict=True) if _is_variable(source)]
        arguments = [value for source, value in zip(sources, values, strict=True) if not _is_variable(source)]
        with keras.StatelessScope(state_mapping=mapping):
            return function(*arguments)

    values = [source.value if _is_variable(source) else jax.numpy.asarray(source) for source in sources]

    @traced
    def both(upstream, *values):
        y, pull = jax.vjp(pure, *values)
        return y, pull(upstream.astype(y.dtype))

    y, gradients = both(upstream, *values)
    return np.asarray(y), [np.asarray(gradient) for gradient in gradients]


def _torch(function, sources, upstream):
    import torch

    leaves = [source.value if _is_variable(source) else torch.tensor(np.asarray(source)) for source in sources]
    for leaf in leaves:
        leaf.requires_grad_(True)
    y = function(*(leaf for leaf, source in zip(leaves, sources, strict=True) if not _is_variable(source)))
    if not y.requires_grad:  # a value that depends on none of them
        y = y + 0 * sum(leaf.sum() for leaf in leaves)
    grads = torch.autograd.grad(y, leaves, torch.tensor(upstream), allow_unused=True)
    pairs = zip(grads, leaves, strict=True)
    zeros_for_none = [torch.zeros_like(leaf) if gradient is None else gradient for gradient, leaf in pairs]
    return y.detach().numpy(), [gradient.detach().numpy() for gradient in zeros_for_none]
