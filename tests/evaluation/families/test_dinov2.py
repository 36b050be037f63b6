"""families/dinov2.py with the small network: the numbers, and where they are unavailable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests import presets
from tests.evaluation.families.test_shapes import image_set
from xmc_jax import images
from xmc_jax.configs import shapes_32
from xmc_jax.errors import UserError
from xmc_jax.evaluation.families import dinov2 as family
from xmc_jax.evaluation.inputs import EvalInputs
from xmc_jax.evaluation.selection import choose_metrics
from xmc_jax.frozen.dinov2 import load_dinov2
from xmc_jax.metrics import frechet, prdc
from xmc_jax.parallel import sharding

COUNT, NAMES = 12, ("fd_dinov2", "prdc_dinov2")


@pytest.fixture
def config(folder):
    config = shapes_32.get_config()
    config.eval.num_examples = config.eval.batch_size = COUNT
    config.eval.dinov2 = str(folder / "dinov2")
    return config


def test_numbers(folder, config, rng, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    network = load_dinov2(presets.write_dinov2(config.eval.dinov2))
    pixels = rng.integers(0, 256, (3, COUNT, 32, 32, 3), np.uint8)
    pixels[2] //= 2
    sets = dict(zip(("real", "other real", "generated"), pixels, strict=True))
    inputs = EvalInputs(
        config,
        (),
        *(image_set(*named) for named in sets.items()),
        lambda prompts, name: None,
        epath.Path(folder / "scratch"),
        step=7,
        generator="g",
        open_training=lambda: None,
    )
    mesh = sharding.make_mesh(jax.devices()[:1])
    records = family.make_measure(config, mesh, choose_metrics(NAMES, config))(inputs)

    apply = jax.jit(network.apply)
    real, others, generated = (
        np.asarray(apply(network.params, images.from_uint8(jnp.asarray(x)))) for x in pixels
    )
    distance, *shares = records
    assert distance.metric == "fd_dinov2" and distance.better == "lower"
    wanted = frechet.frechet_distance_of_few(generated, real)
    assert wanted > 2 * frechet.frechet_distance_of_few(others, real) > 0
    assert distance.value == pytest.approx(wanted, rel=1e-4)
    assert distance.floor == pytest.approx(frechet.frechet_distance_of_few(others, real), rel=1e-4)
    value, ceiling = prdc.prdc(generated, real), prdc.prdc(others, real)
    assert {x.metric: x.value for x in shares} == {
        f"prdc_dinov2/{part}": number for part, number in value._asdict().items()
    }
    assert [x.ceiling for x in shares] == list(ceiling)
    for record in records:
        assert record.weights == network.fingerprint and record.num_samples == COUNT
        assert "DINOv2 dinov2 at 224 px" in record.protocol and "12 real" in record.protocol


def test_where_they_are_unavailable(config):
    assert set(NAMES) <= set(choose_metrics((), config))
    config.eval.num_examples = 5
    with pytest.raises(UserError, match="prdc_dinov2 cannot .*num_examples of 6 or more"):
        choose_metrics(["prdc_dinov2"], config)
    config.eval.dinov2 = ""
    assert set(NAMES).isdisjoint(choose_metrics((), config))
    with pytest.raises(
        UserError, match="fd_dinov2 cannot .* set config.eval.dinov2 .* dinov2_large"
    ):
        choose_metrics(["fd_dinov2"], config)
