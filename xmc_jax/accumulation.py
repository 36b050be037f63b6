"""Gradient accumulation that keeps contrastive losses exact.

A loss over pairs of examples is not a sum over parts of the batch. Therefore the networks run one
part at a time, the loss is computed from the outputs of all parts together, and its gradient is
pulled back one part at a time. The pull-back computes the forward pass of each part a second time.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from xmc_jax.types import PyTree


def in_parts(
    linearize: Callable[[PyTree], tuple[PyTree, Callable, PyTree]], batch: PyTree, num_parts: int
) -> tuple[PyTree, Callable[[PyTree], PyTree], PyTree]:
    """Applies `linearize` to a whole batch, one part at a time.

    Args:
      linearize: ``part -> (outputs, pull_back, aux)``. Outputs have a leading batch axis;
        ``pull_back`` maps their cotangents to gradients; ``aux`` is anything else that a forward
        pass returns, such as updated statistics.
      batch: Arrays with a leading batch axis, which `num_parts` must divide.
      num_parts: Number of parts. With 1, nothing is computed twice.

    Returns:
      ``(outputs, pull_back, aux)`` of the whole batch: outputs in the order of the batch, gradients
      summed over the parts, and ``aux`` with a leading axis of parts.
    """
    if num_parts == 1:
        outputs, pull_back, aux = linearize(batch)
        return outputs, pull_back, jax.tree.map(lambda x: x[None], aux)

    def split(x: Array) -> Array:
        # A part takes every num_parts-th item, so each device of a sharded batch has a share of it.
        return jnp.swapaxes(x.reshape(-1, num_parts, *x.shape[1:]), 0, 1)

    def join(x: Array) -> Array:
        return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    parts = jax.tree.map(split, batch)
    outputs, aux = _scan(lambda _, part: (None, linearize(part)[::2]), None, parts)[1]

    def pull_back_part(part: PyTree, cotangents: PyTree) -> PyTree:
        return linearize(part)[1](cotangents)

    def pull_back(cotangents: PyTree) -> PyTree:
        pairs = parts, jax.tree.map(split, cotangents)
        shapes = jax.eval_shape(pull_back_part, *jax.tree.map(lambda x: x[0], pairs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total: PyTree, pair: tuple[PyTree, PyTree]) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, pull_back_part(*pair)), None

        return _scan(add, zeros, pairs)[0]

    return jax.tree.map(join, outputs), pull_back, aux


def _scan(body: Callable, start: PyTree, parts: PyTree) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan`, unrolled on CPUs, where convolutions inside loops are ten times slower."""
    return jax.lax.platform_dependent(
        start,
        parts,
        cpu=functools.partial(jax.lax.scan, body, unroll=True),
        default=functools.partial(jax.lax.scan, body),
    )
