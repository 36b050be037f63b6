"""sharding.py on eight fake devices."""

import jax
import numpy as np
import pytest

from xmc_jax import sharding
from xmc_jax.types import Batch, UserError


def test_mesh_spans_all_devices_along_data():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": 8}


def test_put_batch_splits_the_batch_axis():
    mesh = sharding.make_mesh()
    batch = Batch(
        image=np.arange(2 * 16 * 3, dtype=np.uint8).reshape(2, 16, 1, 1, 3),
        tokens=np.arange(2 * 16 * 4, dtype=np.int32).reshape(2, 16, 4),
    )
    put = sharding.put_batch(batch, mesh, batch_axis=1)
    np.testing.assert_array_equal(put.image, batch.image)
    assert {s.data.shape for s in put.tokens.addressable_shards} == {(2, 2, 4)}


def test_put_replicated_copies_everything():
    tree = sharding.put_replicated({"w": np.ones((3, 2))}, sharding.make_mesh())
    assert [s.data.shape for s in tree["w"].addressable_shards] == [(3, 2)] * 8


@pytest.mark.parametrize("size,hint", [(12, "use 8 or 16"), (3, "use 8"), (0, "use 8")])
def test_indivisible_batch_is_refused(size, hint):
    with pytest.raises(UserError, match=f"batch_size={size} is not divisible by the 8.*{hint}"):
        sharding.check_batch_size(size, sharding.make_mesh())


def test_divisible_batch_passes():
    assert sharding.check_batch_size(16, sharding.make_mesh(jax.devices()[:2])) is None
