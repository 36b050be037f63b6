"""sharding.py on eight fake devices, and the step on them against the step on one."""

import functools

import jax
import numpy as np
import pytest
from test_train_step import assert_same_step, init, make_batch, make_frozen, make_step

from benchmarks import measure
from xmc_jax import sharding
from xmc_jax.errors import UserError
from xmc_jax.objectives import make_contrastive_terms
from xmc_jax.types import Batch


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


@functools.cache
def run_on(num_devices, **options):
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    state = sharding.put_replicated(jax.device_get(init()), mesh)
    frozen = sharding.put_replicated(make_frozen(), mesh)
    step = jax.jit(make_step(mesh=mesh, **options))
    batch = sharding.put_batch(make_batch(1, b=16), mesh, batch_axis=1)
    return step(state, batch, frozen, jax.random.key(3))


def test_one_and_eight_devices_agree():
    """Loss, parameters after SGD (hence gradients), BN statistics, spectral norms: all of it."""
    assert_same_step(run_on(8), run_on(1))


def test_per_device_negatives_are_groups_on_one_device():
    one = run_on(1, contrastive_group_size=2)
    assert_same_step(run_on(8, contrastive_group_size=2), one)
    assert abs(one[1]["d/sentence"] - run_on(1)[1]["d/sentence"]) > 0.1


def test_eight_devices_accumulate_as_one_does():
    assert_same_step(*(run_on(n, accumulation_steps=2) for n in (8, 1)))


def test_word_term_on_eight_devices_moves_words_and_sums_of_scores_alone():
    """And no device holds a tensor over all images, all captions, regions and words."""
    mesh = sharding.make_mesh()
    b, r, t, d = 64, 16, 5, 6
    _, word_nce = make_contrastive_terms(mesh, 0)
    split = sharding.batch_sharding(mesh)
    args = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for shape, dtype in (((b, r, d), float), ((b, t, d), float), ((b, t), bool))
    ]
    grad = jax.grad(lambda *args: word_nce(*args)[0], argnums=(0, 1))
    compiled = jax.jit(grad, out_shardings=(split, split)).lower(*args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b * b * r * t * 4
    moved = measure.collective_bytes(compiled.as_text())
    words, mask, scores = b * t * d * 4, b * t, b * b * 4
    assert moved.keys() <= {"all-gather", "reduce-scatter", "all-reduce"}
    assert words <= moved["all-gather"] <= words + mask
    assert moved["reduce-scatter"] <= words // 8  # What a device keeps of the words' gradient.
    assert moved["all-reduce"] <= scores
