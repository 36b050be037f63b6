"""The frozen DINOv2 against the authors' own implementation, with the same seeded weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import places, presets
from tests.golden import make_dinov2 as golden
from xmc_jax import images
from xmc_jax.errors import UserError
from xmc_jax.frozen import hub
from xmc_jax.frozen.dinov2 import SIDE, load_dinov2


@pytest.fixture(scope="module")
def dinov2(folder):
    return load_dinov2(presets.write_dinov2(folder / "dinov2"))


def features(dinov2, pixels):
    return jax.jit(dinov2.apply)(dinov2.params, images.from_uint8(jnp.asarray(pixels)))


@pytest.mark.parametrize("side", golden.SIDES)
def test_features_are_those_of_the_original(dinov2, side):
    with np.load(places.GOLDEN / "dinov2_seeded.npz") as arrays:
        wanted = arrays[str(side)]
    np.testing.assert_allclose(features(dinov2, golden.images(side)), wanted, atol=5e-6)
    assert np.ptp(wanted, axis=0).mean() > 0.1  # Images differ.


def test_positions_that_keras_hub_interpolates_are_others(folder, dinov2):
    """Otherwise this package need not interpolate them."""
    theirs = hub.keras_hub.models.DINOV2Backbone.from_preset(
        str(folder / "dinov2"), image_shape=(SIDE, SIDE, 3)
    )
    params = [x.value for x in theirs.trainable_variables], dinov2.params[1]
    pixels = golden.images(64)
    found = features(dinov2._replace(params=params), pixels)
    assert np.abs(found - features(dinov2, pixels)).max() > 1e-3


def test_weights_are_arguments(dinov2):
    pixels = golden.images(64)
    shifted = jax.tree.map(lambda x: x, dinov2.params)
    shifted[0][-1] = shifted[0][-1] + 1  # The bias of the last normalisation.
    found = features(dinov2._replace(params=shifted), pixels)
    np.testing.assert_allclose(found, features(dinov2, pixels) + 1, rtol=1e-5, atol=1e-5)


def test_fingerprint_is_of_the_weights(folder, dinov2):
    again = load_dinov2(presets.write_dinov2(folder / "again"))
    state = golden.seeded_state()
    state["pos_embed"] = state["pos_embed"][:, ::-1]
    other = load_dinov2(presets.write_dinov2(folder / "other", state=state))
    assert dinov2.fingerprint == again.fingerprint != other.fingerprint
    assert (dinov2.name, again.name) == ("dinov2", "again")


def test_other_presets_are_refused(folder):
    with pytest.raises(UserError, match=r"eval\.dinov2='no' is neither .* dinov2_large"):
        load_dinov2("no", field="config.eval.dinov2")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty' does not hold a DINOv2"):
        load_dinov2(str(folder / "empty"))
