"""topology.py: names of TPU slices; test_plan uses their compiler."""

import jax
import pytest

from xmc_jax.errors import UserError
from xmc_jax.planning import topology


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v9:2x2", "v9:2x2 is not a TPU slice; slices are written like v3:4x4, v4:2x2x4, v5e:4x4"),
        ("v4-32", "slices are written like"),
        ("v4:2x-2x1", "slices are written like"),
        ("v5e:2x2x2", "v5e has 2 axes, as v5e:4x4"),
        ("v4:4x4", "v4 has 3 axes, as v4:2x2x4"),
        ("v4:2x0x4", "v4 comes as 1 to 4096 chips"),
        ("v5e:32x32", "v5e comes as 1 to 256 chips"),
        ("v5e:3x2", "the first two axes must be even"),
    ],
)
def test_slices_that_do_not_exist(name, words):
    with pytest.raises(UserError, match=words):
        topology.find_devices(name)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"-m pip install .jax\[tpu\]=="):
        topology.find_devices("v4:2x2x4")


def test_attached_devices_are_those_of_jax():
    assert topology.find_devices("attached") == jax.devices()
    assert topology.find_chip(jax.devices()[0]) is None
