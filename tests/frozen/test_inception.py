"""inception.py against both reference implementations, with the same seeded weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import places
from tests.inception import seeded_state
from xmc_jax.frozen import inception

GOLDEN = places.GOLDEN / "inception_seeded.npz"
NAMES = ("images64", "images320")
FEEDS = {
    "pytorch_fid": inception.pytorch_fid_input,
    "torch_fidelity": inception.torch_fidelity_input,
}


def relative_error(found, wanted):
    return np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def state():
    return seeded_state()


@pytest.fixture(scope="module")
def found(golden, state):
    """Pooled features of all recorded layers: ``{reference: {dims: rows}}``."""
    fed = [np.asarray(feed(jnp.asarray(golden[name]))) for feed in FEEDS.values() for name in NAMES]

    @jax.jit
    def run(params, x):
        return inception.Inception().apply(params, x, capture_intermediates=True)

    features, seen = run(inception.params_from(state), np.concatenate(fed))
    seen = seen["intermediates"]
    early = {"64": "Conv2d_2b_3x3", "192": "Conv2d_4a_3x3"}
    layers = {dims: inception._shrink(seen[name]["__call__"][0]) for dims, name in early.items()}
    layers["768"] = seen["Mixed_6e"]["__call__"][0]
    pooled = {dims: np.mean(x, axis=(1, 2)) for dims, x in layers.items()} | {"2048": features}
    pooled = {dims: np.asarray(x) for dims, x in pooled.items()}
    return {
        "pytorch_fid": {dims: x[:3] for dims, x in pooled.items()},
        "torch_fidelity": {dims: x[3:] for dims, x in pooled.items()},
    }


@pytest.mark.parametrize("dims", ["64", "192", "768", "2048"])
def test_equals_pytorch_fid(golden, found, dims):
    wanted = np.concatenate([golden[f"pytorch_fid_{name}_{dims}_f64"] for name in NAMES])
    assert relative_error(found["pytorch_fid"][dims], wanted) < 1e-5


def test_equals_torch_fidelity(golden, found, state):
    wanted = {
        kind: np.concatenate([golden[f"torch_fidelity_{name}_{kind}_float64"] for name in NAMES])
        for kind in ("2048", "logits_unbiased", "logits")
    }
    features = found["torch_fidelity"]["2048"]
    assert relative_error(features, wanted["2048"]) < 1e-5
    logits = features @ state["fc.weight"].T
    assert relative_error(logits, wanted["logits_unbiased"]) < 1e-5
    assert relative_error(logits + state["fc.bias"][None], wanted["logits"]) < 1e-5


def test_the_two_inputs_differ(found):
    """Otherwise the tests above could not tell them apart."""
    one, other = found["pytorch_fid"]["2048"], found["torch_fidelity"]["2048"]
    assert relative_error(one, other) > 1e-3


def test_entries_are_the_published_ones():
    entries = inception.entries()
    assert len(entries) == 472
    assert entries["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert entries["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert entries["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    assert entries["fc.weight"] == (1008, 2048)
    assert sum(np.prod(shape) for shape in entries.values()) == pytest.approx(23.9e6, rel=2e-3)
