"""What the frozen networks share: weights as pytrees, calls, pickles."""

import contextlib
import hashlib
import pickle
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from xmc_jax.frozen import hub
from xmc_jax.types import PyTree

if TYPE_CHECKING:
    import keras


@contextlib.contextmanager
def zero_initializers() -> Iterator[None]:
    """Networks that are built in this context start with zeros, because their weights follow.

    Otherwise Keras would first draw random values for all weights, with a program compiled for each
    shape, which takes longer than reading the weights. Its networks have no argument to prevent it.
    """
    kinds = hub.keras.initializers
    random = (kinds.RandomNormal, kinds.TruncatedNormal, kinds.VarianceScaling)
    calls = [initializer.__call__ for initializer in random]
    try:
        for initializer in random:
            initializer.__call__ = _zeros
        yield
    finally:
        for initializer, call in zip(random, calls, strict=True):
            initializer.__call__ = call


def _zeros(initializer: Any, shape: tuple[int, ...], dtype: Any = None) -> jax.Array:
    return jnp.zeros(shape, dtype)


def params_of(model: "keras.Model") -> PyTree:
    """The arrays that ``model.stateless_call`` takes: trainable ones, and the others."""
    return (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
    )


def call(model: "keras.Model", params: PyTree, inputs: PyTree) -> PyTree:
    """The outputs of a network, not in training mode."""
    with jax.numpy_rank_promotion("allow"):  # Layers of Keras broadcast their biases.
        return model.stateless_call(*params, inputs, training=False)[0]


def is_weight(x: Any) -> bool:
    """Whether an array is learned. Keras keeps the states of random generators beside weights."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def fingerprint(params: PyTree) -> str:
    """sha256 of all learned arrays with their types and shapes, whatever file they came from."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(params)):
        if is_weight(leaf):
            digest.update(f"{leaf.dtype}{leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of weights. Looks up nothing but `allowed`, objects by module and name."""

    allowed: Mapping[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a weight file")
        return self.allowed[module, name]
