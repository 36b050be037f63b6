"""weights.py: networks whose weights are read start with zeros."""

import keras
import numpy as np
import pytest

from xmc_jax.frozen.weights import zero_initializers


def kernel_of(initializer):
    layer = keras.layers.Dense(3, kernel_initializer=initializer)
    layer.build((None, 2))
    return np.asarray(layer.kernel)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "truncated_normal"])
def test_weights_are_zero_only_in_the_context(initializer):
    with pytest.raises(KeyError), zero_initializers():
        assert not kernel_of(initializer).any()
        raise KeyError
    assert kernel_of(initializer).all()
