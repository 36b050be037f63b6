"""discriminator.py: sizes, spectral norms, heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.layers import SpectralConv, SpectralDense


def init(discriminator, d=8, b=2):
    keys = jax.random.split(jax.random.key(0), 3)
    side = discriminator.resolution
    images = jax.random.uniform(keys[0], (b, side, side, 3), minval=-1)
    sentence = jax.random.normal(keys[1], (b, d))
    return run(discriminator.init, {"params": keys[2]}, images, sentence), images, sentence


def run(method, *args, train=False, **options):
    """One program instead of hundreds of small ones."""
    return jax.jit(functools.partial(method, train=train, **options))(*args)


def num_parameters(resolution):
    discriminator = Discriminator(resolution=resolution, width=96)
    shapes = jax.eval_shape(lambda: init(discriminator, d=768)[0])
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def test_parameter_counts_of_the_released_model():
    assert num_parameters(128) == 87_911_713  # 87.9 M
    assert num_parameters(256) == 99_415_585  # 99.4 M


@pytest.mark.parametrize("resolution,regions", [(32, 8), (32, 16), (64, 16), (128, 16)])
def test_output_shapes(resolution, regions):
    discriminator = Discriminator(resolution=resolution, width=2, region_resolution=regions)
    variables, *inputs = jax.eval_shape(lambda: init(discriminator))
    out = jax.eval_shape(functools.partial(run, discriminator.apply), variables, *inputs)
    assert out.logits.shape == (2,)
    assert (
        out.embedding.shape == out.sentence.shape == (2, 2 * {32: 8, 64: 16, 128: 16}[resolution])
    )
    assert out.regions.shape == (2, regions**2, 8)
    assert {x.dtype for x in out} == {jnp.dtype("float32")}


def test_no_image_sees_another():
    """Therefore real and fake images may be passed in one call or in two."""
    discriminator = Discriminator(resolution=32, width=2, region_resolution=8)
    variables, images, sentence = init(discriminator, b=4)
    whole = run(discriminator.apply, variables, images, sentence)
    part = run(discriminator.apply, variables, images[1:3], sentence[1:3])
    for name, value in part._asdict().items():
        np.testing.assert_allclose(value, getattr(whole, name)[1:3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("head", "layers"), [("none", 0), pytest.param("linear", 1, marks=pytest.mark.long), ("mlp", 2)]
)
def test_contrastive_heads(head, layers):
    """They project embedding and regions without changing their widths, and not the logit."""
    make = functools.partial(Discriminator, resolution=32, width=2, region_resolution=8)
    plain_variables, images, sentence = init(make())
    variables, *_ = init(make(contrastive_head=head))
    names = {name for name in variables["params"] if "head" in name}
    assert names == {f"{kind}_head_{i}" for kind in ("embedding", "regions") for i in range(layers)}

    shared = {**variables["params"], **plain_variables["params"]}
    spectral = {**variables["spectral"], **plain_variables["spectral"]}
    out = run(
        make(contrastive_head=head).apply,
        {"params": shared, "spectral": spectral},
        images,
        sentence,
    )
    plain = run(make().apply, plain_variables, images, sentence)
    np.testing.assert_array_equal(out.logits, plain.logits)
    assert out.embedding.shape == plain.embedding.shape
    assert np.array_equal(out.embedding, plain.embedding) == (head == "none")
    assert np.array_equal(out.regions, plain.regions) == (head == "none")
    if head == "linear":  # One matrix, divided by its spectral norm.
        product = plain.embedding @ shared["embedding_head_0"]["kernel"]
        scale = jnp.vdot(product, out.embedding) / jnp.vdot(product, product)
        np.testing.assert_allclose(out.embedding, scale * product, atol=1e-4)


def test_unknown_head_is_refused():
    with pytest.raises(ValueError, match="contrastive_head='deep' is not one of none, linear, mlp"):
        Discriminator(resolution=32, width=2, contrastive_head="deep")


def test_logit_is_linear_plus_projection():
    discriminator = Discriminator(resolution=32, width=2, region_resolution=8)
    variables, images, sentence = init(discriminator)
    out = run(discriminator.apply, variables, images, sentence)
    zero = run(discriminator.apply, variables, images, jnp.zeros_like(sentence))
    # With a zero sentence only the bias of the projection is left, which is zero at first.
    difference = jnp.sum(out.embedding * out.sentence, axis=-1)
    np.testing.assert_allclose(out.logits - zero.logits, difference, rtol=1e-3, atol=1e-3)


def power_iterate(layer, x, steps=200):
    variables = run(layer.init, {"params": jax.random.key(0)}, x)
    step = jax.jit(functools.partial(layer.apply, train=True, mutable=["spectral"]))
    for _ in range(steps):
        _, moved = step(variables, x)
        variables = variables | moved
    return variables


@pytest.mark.parametrize("layer", [SpectralDense(7), SpectralConv(7, 3)])
def test_normalised_kernel_has_largest_singular_value_one(layer):
    x = jax.random.normal(
        jax.random.key(1), (2, 4, 4, 5) if isinstance(layer, SpectralConv) else (3, 5)
    )
    variables = power_iterate(layer, x)
    params = variables["params"]
    sigma = np.linalg.svd(np.asarray(params["kernel"]).reshape(-1, 7), compute_uv=False)[0]
    scaled = {"kernel": params["kernel"] / sigma, "bias": params["bias"]}
    if isinstance(layer, SpectralConv):
        want = jax.lax.conv_general_dilated(
            x, scaled["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    else:
        want = x @ scaled["kernel"]
    got = run(layer.apply, variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_power_iteration_moves_only_in_training():
    discriminator = Discriminator(resolution=32, width=2, region_resolution=8)
    variables, images, sentence = init(discriminator)
    for train, moves in ((True, True), (False, False)):
        _, state = run(
            discriminator.apply, variables, images, sentence, train=train, mutable=["spectral"]
        )
        changed = [
            np.any(np.asarray(x) != np.asarray(y))
            for x, y in zip(
                jax.tree.leaves(variables["spectral"]),
                jax.tree.leaves(state["spectral"]),
                strict=True,
            )
        ]
        # A single output channel has the one-vector u = ±1, which may stay.
        assert (sum(changed) >= len(changed) - 1) if moves else not any(changed)


def test_gradient_of_spectral_norm_stops_at_u_and_v():
    layer, x = SpectralDense(3), jnp.eye(4)
    variables = run(layer.init, {"params": jax.random.key(0)}, x)
    w = variables["params"]["kernel"]
    u0 = variables["spectral"]["u"]
    v = u0 @ w.T / jnp.linalg.norm(u0 @ w.T)
    u = v @ w / jnp.linalg.norm(v @ w)

    def got(w):
        params = {"kernel": w, "bias": variables["params"]["bias"]}
        return jnp.sum(run(layer.apply, {**variables, "params": params}, x) ** 3)

    def want(w):
        return jnp.sum((w / jnp.squeeze(v @ w @ u.T)) ** 3)

    np.testing.assert_allclose(jax.grad(got)(w), jax.grad(want)(w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [SpectralDense(7), SpectralConv(7, 1), SpectralConv(7, 3), SpectralConv(7, 3, pool=True)],
)
@pytest.mark.parametrize("channels", [3, 8])  # Those of an image, and of a feature map.
def test_kernel_of_zeros_stays_finite(layer, channels):
    """The released code adds an epsilon to the norm; without it, 0 / 0 would be NaN."""
    shape = (3, channels) if isinstance(layer, SpectralDense) else (2, 4, 4, channels)
    x = jax.random.normal(jax.random.key(1), shape)
    variables = run(layer.init, {"params": jax.random.key(0)}, x)
    kernel = jnp.zeros_like(variables["params"]["kernel"])
    params = {"kernel": kernel, "bias": jnp.ones(7)}

    @jax.jit
    def apply(params, x):
        return layer.apply({**variables, "params": params}, x, train=True, mutable=["spectral"])

    y, pull_back, moved = jax.vjp(apply, params, x, has_aux=True)
    np.testing.assert_array_equal(y, 1.0)  # The bias alone.
    gradients = pull_back(jnp.ones_like(y))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((gradients, moved)))


def test_regions_must_be_a_feature_map():
    with pytest.raises(ValueError, match="region_resolution=5 is not a feature map.*16, 8, 4"):
        Discriminator(resolution=32, width=2, region_resolution=5)
