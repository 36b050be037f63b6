"""frozen/weights.py: networks whose weights are read are not drawn first."""

import keras
import numpy as np
import pytest

from xmc_jax.frozen.weights import not_drawn


def kernel_of(initializer):
    layer = keras.layers.Dense(3, kernel_initializer=initializer)
    layer.build((None, 2))
    return np.asarray(layer.kernel)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "truncated_normal"])
def test_only_inside_of_it_nothing_is_drawn(initializer):
    with pytest.raises(KeyError), not_drawn():
        assert not kernel_of(initializer).any()
        raise KeyError
    assert kernel_of(initializer).all()
