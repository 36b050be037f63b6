"""Weights of a Keras network as a pytree: what pure functions take, and what they are known by."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from xmc_jax.types import PyTree

if keras.backend.backend() != "jax":
    raise ImportError(
        "keras was imported with another backend before xmc_jax; set KERAS_BACKEND=jax first"
    )


@contextlib.contextmanager
def not_drawn() -> Iterator[None]:
    """Networks built in here begin with zeros, for their weights are read from a file at once.

    Keras draws the value of every weight first, with programs compiled for each shape, which takes
    longer than to read them; no argument of its networks prevents it.
    """
    kinds = keras.initializers
    drawn = (kinds.RandomNormal, kinds.TruncatedNormal, kinds.VarianceScaling)
    calls = [initializer.__call__ for initializer in drawn]
    try:
        for initializer in drawn:
            initializer.__call__ = _zeros
        yield
    finally:
        for initializer, call in zip(drawn, calls, strict=True):
            initializer.__call__ = call


def _zeros(initializer: Any, shape: tuple[int, ...], dtype: Any = None) -> jax.Array:
    return jnp.zeros(shape, dtype)


def params_of(model: keras.Model) -> PyTree:
    """The arrays that ``model.stateless_call`` takes: trainable ones, and the others."""
    return (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
    )


def is_weight(x: Any) -> bool:
    """Whether an array is learned; Keras keeps states of random generators among the others."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def fingerprint(params: PyTree) -> str:
    """sha256 of all learned arrays, with their types and shapes, whichever file they came from."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(params)):
        if is_weight(leaf):
            digest.update(f"{leaf.dtype}{leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
