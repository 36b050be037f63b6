"""Second derivatives of each operation with a custom gradient, against plain operations."""

import jax
import jax.numpy as jnp
import pytest

from tests.derivatives import assert_same_second_derivatives
from tests.models.ops.test_normalization import make_inputs, written_out
from xmc_jax.models.ops import convolution, normalization, platforms, resampling


def convolve(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)


def convolve_pool(x, kernel):
    y = convolve(x, kernel)
    b, h, w, c = y.shape
    return y.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample_convolve(x, kernel):
    return convolve(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


MAP, IMAGE = (2, 4, 4, 9), (2, 4, 4, 3)
# The operation, plain operations, and the shapes of the inputs.
FORMS = {
    "relu": (normalization.relu, jax.nn.relu, [MAP]),
    "bias": (normalization.add_bias, lambda x, b: x + b[None, None, None], [MAP, (9,)]),
    "materialized": (normalization.materialize_gradient, lambda x: x, [MAP]),
    "by platform": (platforms.by_platform(jnp.cos, cpu=jnp.exp), jnp.exp, [MAP]),
    "1x1": (convolution.convolve, convolve, [MAP, (1, 1, 9, 10)]),
    "3x3": (convolution.convolve, convolve, [MAP, (3, 3, 9, 10)]),
    "3x3 of images": (convolution.convolve, convolve, [IMAGE, (3, 3, 3, 9)]),
    "from few": (convolution._convolve_few_channels, convolve, [IMAGE, (3, 3, 3, 9)]),
    "to few": (convolution._convolve_few_channels, convolve, [MAP, (3, 3, 9, 3)]),
    "down": (resampling.convolve_pool, convolve_pool, [MAP, (3, 3, 9, 10)]),
    "up": (resampling.upsample_convolve, upsample_convolve, [MAP, (3, 3, 9, 10)]),
}


@pytest.mark.parametrize("name", FORMS)
def test_equal_those_of_plain_operations(rng, name):
    form, plain, shapes = FORMS[name]
    inputs = [jnp.float32(rng.normal(size=shape)) for shape in shapes]
    assert_same_second_derivatives(form, plain, inputs)


@pytest.mark.parametrize("name", ["down", "up"])
def test_equal_those_of_plain_operations_if_merged(rng, monkeypatch, name):
    monkeypatch.setattr(resampling, "_SMALLEST_MERGED_ON_CPU", 1)
    form, plain, shapes = FORMS[name]
    inputs = [jnp.float32(rng.normal(size=shape)) for shape in shapes]
    assert_same_second_derivatives(form, plain, inputs)


@pytest.mark.parametrize("form", [normalization._step_by_step, normalization._in_two_passes])
def test_of_batch_normalisation_pass_through_its_statistics(rng, form):
    assert_same_second_derivatives(
        lambda *inputs: form(*inputs, 3, 1e-5)[0],
        lambda *inputs: written_out(*inputs, 3),
        make_inputs(rng, c=2),
    )
