"""sharding.py on eight fake devices, and the training step on them against that on one."""

import functools

import jax
import numpy as np
import pytest

from tests.small_step import (
    assert_close,
    assert_same_step,
    make_batch,
    make_frozen,
    make_state,
    make_step,
)
from xmc_jax import losses
from xmc_jax.errors import UserError
from xmc_jax.models.augmentation import Augmentation
from xmc_jax.models.ops import convolution, resampling
from xmc_jax.objectives import LossWeights, make_contrastive_terms
from xmc_jax.parallel import sharding
from xmc_jax.planning import compiled
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.types import Batch


def test_mesh_spans_all_devices_along_data():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1}


def test_put_batch_splits_the_batch_axis():
    mesh = sharding.make_mesh()
    batch = Batch(
        image=np.arange(2 * 16 * 3, dtype=np.uint8).reshape(2, 16, 1, 1, 3),
        tokens=np.arange(2 * 16 * 4, dtype=np.int32).reshape(2, 16, 4),
    )
    put = sharding.put_batch(batch, mesh, batch_axis=1)
    np.testing.assert_array_equal(put.image, batch.image)
    assert {s.data.shape for s in put.tokens.addressable_shards} == {(2, 2, 4)}


@pytest.mark.parametrize(
    "form, side, kernel",
    [
        (convolution._convolve_few_channels, 8, (3, 3, 3, 16)),
        (convolution._convolve_few_channels, 8, (3, 3, 16, 3)),
        (resampling._kernel_gradient_as_products, 8, (4, 4, 16, 16)),
    ],
    ids=["from few channels", "to few channels", "smallest maps"],
)
def test_forms_for_gpus_exchange_only_gradients_of_kernels(form, side, kernel):
    """They gather pixels only of images on the same device."""
    mesh = sharding.make_mesh()
    split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    kernel = jax.ShapeDtypeStruct(kernel, np.float32, sharding=whole)
    images = [
        jax.ShapeDtypeStruct((16, s, s, kernel.shape[-2 + i]), np.float32, sharding=split)
        for i, s in enumerate((side, side if kernel.shape[0] == 3 else side // 2))
    ]

    def gradients(x, kernel, g):
        return jax.vjp(form, x, kernel)[1](g)

    function = gradients if kernel.shape[0] == 3 else form
    step = jax.jit(function).lower(images[0], kernel, images[1]).compile()
    moved = compiled.collective_bytes(compiled.read_program(step.as_text()))
    assert set(moved) == {"all-reduce"}
    assert moved["all-reduce"] <= 4 * max(32 * kernel.shape[2], 32 * kernel.shape[3], kernel.size)


def test_make_whole_compiles_once():
    mesh = sharding.make_mesh()
    split = sharding.put(np.arange(8.0), sharding.batch_sharding(mesh))
    sharding.make_whole({"x": split}, mesh)
    with jax.no_tracing():
        whole = sharding.make_whole({"x": split}, mesh)
    assert whole["x"].is_fully_replicated
    np.testing.assert_array_equal(whole["x"], np.arange(8.0))


def test_put_copies_everything():
    mesh = sharding.make_mesh()
    tree = sharding.put({"w": np.ones((3, 2))}, sharding.replicated(mesh))
    assert [s.data.shape for s in tree["w"].addressable_shards] == [(3, 2)] * 8


@pytest.mark.parametrize("size,hint", [(12, "use 8 or 16"), (3, "use 8"), (0, "use 8")])
def test_indivisible_batch_is_refused(size, hint):
    with pytest.raises(UserError, match=f"batch_size={size} is not divisible by the 8.*{hint}"):
        sharding.check_batch_size(size, sharding.make_mesh())


def test_divisible_batch_passes():
    assert sharding.check_batch_size(16, sharding.make_mesh(jax.devices()[:2])) is None


@functools.cache
def make_run(num_devices, fsdp=1, **options):
    """``(shardings, step, batch, frozen)`` on the first devices."""
    mesh = sharding.make_mesh(jax.devices()[:num_devices], fsdp=fsdp)
    shardings = jax.tree.map(lambda x: sharding.parameter_sharding(mesh, x.shape), make_state())
    frozen = sharding.put(make_frozen(), sharding.replicated(mesh))
    step = jax.jit(make_step(mesh=mesh, **options), out_shardings=(shardings, None))
    return shardings, step, sharding.put_batch(make_batch(1, b=16), mesh, batch_axis=1), frozen


@functools.cache
def run_on(num_devices, fsdp=1, **options):
    """The state and the metrics after one step."""
    shardings, step, batch, frozen = make_run(num_devices, fsdp, **options)
    state = jax.tree.map(sharding.put, jax.device_get(make_state()), shardings)
    return step(state, batch, frozen, jax.random.key(3))


@pytest.fixture
def split_small(monkeypatch):
    """Splits parameters of small networks like those of large ones."""
    monkeypatch.setattr(sharding, "_SMALLEST_SPLIT", 32)


@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=pytest.mark.long), 8])
def test_one_and_many_devices_agree(num_devices):
    """Losses, parameters after SGD (hence gradients), batch statistics and spectral norms."""
    assert_same_step(run_on(num_devices), run_on(1))


@pytest.mark.parametrize("num_devices,fsdp", [(4, 2), pytest.param(8, 8, marks=pytest.mark.long)])
def test_split_parameters_change_no_number(split_small, num_devices, fsdp):
    split = run_on(num_devices, fsdp=fsdp)
    kernel = split[0].generator["block_0"]["conv_1"]["kernel"]
    assert kernel.addressable_shards[0].data.size * fsdp == kernel.size
    assert_same_step(split, run_on(1))


@pytest.fixture(scope="module")
def saved(folder):
    """The checkpoint of eight devices after one step, their state, and their next step."""
    _, step, batch, frozen = make_run(8)
    state, _ = run_on(8)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(1, state)
    return folder / "checkpoints", state, step(state, batch, frozen, jax.random.key(3))


@pytest.mark.parametrize(
    "num_devices,fsdp",
    [
        (4, 2),
        (1, 1),
        pytest.param(2, 1, marks=pytest.mark.long),
        pytest.param(8, 8, marks=pytest.mark.long),
    ],
)
def test_training_continues_on_other_devices(saved, split_small, num_devices, fsdp):
    """The state is the same to the last bit, and so is the next step of the same batch."""
    directory, before, after = saved
    shardings, step, batch, frozen = make_run(num_devices, fsdp)
    abstract = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), before, shardings
    )
    with Checkpoints(directory, read_only=True) as checkpoints:
        state = checkpoints.restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(before))
    assert jax.tree.map(lambda x: x.sharding, state) == shardings
    assert_same_step(step(state, batch, frozen, jax.random.key(3)), after)


def test_parameters_are_split_along_their_longest_axis():
    mesh = sharding.make_mesh(fsdp=4)

    def axis(*shape):
        spec = sharding.parameter_sharding(mesh, shape).spec
        return spec.index("fsdp") if "fsdp" in spec else None

    assert axis(3, 3, 96, 192) == 3
    assert axis(3, 3, 192, 96) == 2
    assert axis(256, 256) == 1
    assert axis(18, 1024) == 1
    assert axis(1, 96) is None  # Too small.
    assert axis(171, 171) is None  # Four devices divide neither.
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}


def test_fsdp_must_divide_the_devices():
    with pytest.raises(UserError, match="--fsdp=3 does not divide the 8 devices; use one of 1, 2"):
        sharding.make_mesh(fsdp=3)


@pytest.mark.long  # The next test has the terms alone.
def test_per_device_negatives_are_groups_on_one_device():
    one = run_on(1, contrastive_group_size=2)
    assert_same_step(run_on(8, contrastive_group_size=2), one)
    assert abs(one[1]["d/sentence"] - run_on(1)[1]["d/sentence"]) > 0.1


def test_terms_in_groups_are_those_of_one_device(rng):
    """The sentence and word terms of groups of two, and their gradients."""
    mesh = sharding.make_mesh()
    shapes = (16, 9, 6), (16, 5, 6)
    args = *(np.float32(rng.normal(size=shape)) for shape in shapes), np.ones((16, 5), bool)

    def losses_and_gradients(mesh, group_size, args):
        info_nce, word_nce = make_contrastive_terms(mesh, group_size)

        def loss(regions, words, mask):
            on_sentences = info_nce(regions[:, 0], words[:, 0])[0]
            return on_sentences + word_nce(regions, words, mask)[0]

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*args)

    one = losses_and_gradients(None, 2, args)
    eight = losses_and_gradients(mesh, 2, sharding.put(args, sharding.batch_sharding(mesh)))
    assert_close(eight, one)
    assert abs(one[0] - losses_and_gradients(None, 0, args)[0]) > 0.1


@pytest.mark.long
def test_eight_devices_accumulate_as_one_does():
    assert_same_step(*(run_on(n, accumulation_steps=2) for n in (8, 1)))


@pytest.mark.long  # Without the networks, the first two are held by tests of theirs.
def test_eight_devices_change_choose_penalize_and_clip_as_one_does(split_small):
    options = {"augmentation": Augmentation(0.125, 1.0, 0.5), "r1_weight": 0.3, "clip_norm": 3.0}
    options["loss_weights"] = LossWeights(variety=1.0)
    one, split = run_on(1, **options), run_on(8, fsdp=2, **options)
    assert_same_step(split, one)
    assert one[1]["d/r1"] > 0 and one[1]["d/grad_norm"] > 3.0


def test_word_term_on_eight_devices_moves_only_words_and_sums_of_scores():
    """And no device holds a tensor over all images, captions, regions and words."""
    mesh = sharding.make_mesh()
    b, r, t, d = 64, 16, 5, 6
    _, word_nce = make_contrastive_terms(mesh, 0)
    split = sharding.batch_sharding(mesh)
    args = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for shape, dtype in (((b, r, d), np.float32), ((b, t, d), np.float32), ((b, t), bool))
    ]

    def two_terms(regions, more_regions, words, word_mask):
        return sum(word_nce(x, words, word_mask)[0] for x in (regions, more_regions))

    grad = jax.grad(two_terms, argnums=(0, 1))
    step = jax.jit(grad, out_shardings=(split, split)).lower(args[0], *args).compile()
    assert compiled.measure_memory(step).temporaries < b * b * r * t * 4
    moved = compiled.collective_bytes(compiled.read_program(step.as_text()))
    words, mask, scores = b * t * d * 4, b * t, b * b * 4
    assert moved.keys() <= {"all-gather", "all-reduce"}
    assert words <= moved["all-gather"] <= words + mask  # Once for both terms.
    assert moved["all-reduce"] <= 2 * scores


def test_gradients_flow_back_to_gathered_words():
    mesh = sharding.make_mesh()
    _, word_nce = make_contrastive_terms(mesh, 0)
    rng, split = np.random.default_rng(0), sharding.batch_sharding(mesh)
    arrays = [np.float32(rng.normal(size=shape)) for shape in ((16, 9, 6), (16, 5, 6))]
    args = *arrays, np.arange(5)[None] < rng.integers(1, 6, (16, 1))

    def gradients(word_nce, args):
        return jax.jit(jax.grad(lambda *args: word_nce(*args)[0], argnums=(0, 1)))(*args)

    got = gradients(word_nce, sharding.put(args, split))
    for a, b in zip(got, gradients(losses.word_nce, args), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
