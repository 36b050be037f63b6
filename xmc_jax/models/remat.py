"""Rematerialisation: what a network's backward pass finds stored, and what it computes again."""

import jax

from xmc_jax.models.layers import BLOCK_OUTPUT, INNER_MAP, SPECTRAL_NORM
from xmc_jax.models.ops.normalization import RELU_OUTPUT


def _is_sum(primitive, *_, **__) -> bool:
    return primitive.name == "reduce_sum"  # A few numbers that cost a pass over a feature map.


_save_names = jax.checkpoint_policies.save_only_these_names
# Policies of `jax.checkpoint`, from the fastest to the one of least memory.
REMAT_POLICIES = {
    # Stores whatever the gradient needs.
    "none": None,
    # Stores one feature map per convolution. Recomputes normalisations, modulations and everything
    # that is done to kernels, which costs little.
    "elementwise": jax.checkpoint_policies.save_from_both_policies(
        _save_names(BLOCK_OUTPUT, INNER_MAP, RELU_OUTPUT, SPECTRAL_NORM), _is_sum
    ),
    # Stores only the feature maps between residual blocks. Recomputes every block.
    "blocks": _save_names(BLOCK_OUTPUT, SPECTRAL_NORM),
}
