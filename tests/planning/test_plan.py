"""The verb plan with the real TPU compiler, against independent counts; and what it refuses."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import roofline
from tests import bert
from tests.verbs import assert_refused
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator

NUM_CHIPS, BATCH, WIDTH, Z, TOKENS = 4, 8, 8, 64, 8


@pytest.fixture(scope="module")
def arguments(folder):
    """A small experiment that compiles fast: one micro-batch and a text encoder of two layers."""
    encoder = bert.write(folder / "bert", bert.weights(np.random.default_rng(0)))
    return [
        "--config=configs/shapes_32.py",
        "--config.d_steps=1",
        f"--config.batch_size={BATCH}",
        f"--config.text.encoder={encoder}",
        f"--config.text.num_tokens={TOKENS}",
        f"--config.model.generator_width={WIDTH}",
        f"--config.model.discriminator_width={WIDTH}",
        f"--config.model.z_dim={Z}",
    ]


@pytest.fixture(scope="module")
def planned(folder, arguments, run_verb):
    """The finished process that planned for a slice of four chips."""
    return run_verb("plan", *arguments, "--topology=v4:2x2x1", f"--out={folder / 'plan.json'}")


@pytest.fixture(scope="module")
def plan(folder, planned):
    assert planned.returncode == 0, planned.stderr
    return json.loads((folder / "plan.json").read_text())


@functools.cache
def networks():
    """``name: (module, abstract parameters, abstract inputs)`` for one device's images."""
    b, d = BATCH // NUM_CHIPS, bert.CONFIG["hidden_size"]
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    sentence, mask = array((b, d)), jax.ShapeDtypeStruct((b, TOKENS), bool)
    fields = {"resolution": 32, "width": WIDTH}
    inputs = {
        Generator(z_dim=Z, **fields): (array((b, Z)), array((b, TOKENS, d)), sentence, mask),
        Discriminator(region_resolution=8, **fields): (array((b, 32, 32, 3)), sentence),
    }
    return {
        type(module).__name__.lower(): (
            module,
            jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), *given),
            given,
        )
        for module, given in inputs.items()
    }


def num_parameters(name):
    _, variables, _ = networks()[name]
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def forward_flops(name):
    """Operations of the matrix products and convolutions in one forward pass."""
    module, _, inputs = networks()[name]
    return sum(flops for _, flops, _ in roofline.tally(module, *inputs))


def test_devices_and_batch(plan):
    assert (plan["device_kind"], plan["topology"]) == ("TPU v4", "v4:2x2x1")
    assert (plan["num_devices"], plan["num_chips"], plan["fsdp"]) == (NUM_CHIPS, NUM_CHIPS, 1)
    assert (plan["batch_size"], plan["num_micro_batches"]) == (BATCH, 1)
    assert plan["config"]["model"]["generator_width"] == WIDTH
    assert plan["versions"]["libtpu"] and plan["compile_seconds"] > 1


def test_parameters_are_those_of_the_networks(plan):
    counts = {name: num_parameters(name) for name in networks()}
    text = sum(w.size for w in bert.weights(np.random.default_rng(0)).values())
    assert plan["parameters"] == counts | {"text encoder": text, "image network": 0}


def test_memory_holds_the_state(plan):
    """Parameters and moments of both players and the generator's averages, updated in place."""
    memory, limit = plan["memory"], plan["memory_limit"]
    state = 4 * (4 * num_parameters("generator") + 3 * num_parameters("discriminator"))
    assert state <= memory["aliased"] <= memory["outputs"]
    assert state <= memory["arguments"] <= memory["total"] < limit
    assert 30e9 < limit < 32 * 2**30


def test_arithmetic_is_near_that_of_the_products(plan):
    """The generator's pass and gradients; the discriminator's passes on reals and fakes with three
    pull-backs, of which the one of the generator's loss needs no gradients of parameters."""
    generator, discriminator = map(forward_flops, ("generator", "discriminator"))
    expected = 3 * generator + 7 * discriminator
    assert 0.9 * expected < plan["flops"] < 1.6 * expected
    assert plan["floor_seconds"] == pytest.approx(plan["flops"] / 275e12)


def test_devices_exchange_gradients_words_and_embeddings(plan):
    moved = plan["collective_bytes"]
    gradients = 4 * sum(map(num_parameters, networks()))
    # Convolutions that change the resolution spread 3x3 kernels and their gradients to 4x4.
    assert gradients <= moved["all-reduce"] < 16 / 9 * gradients + 30_000
    words = 4 * BATCH * TOKENS * bert.CONFIG["hidden_size"]
    embeddings = 4 * BATCH * 8 * WIDTH
    assert words <= moved["all-gather"] <= words + 3 * embeddings
    assert "all-to-all" not in moved
    largest = plan["largest_collectives"]
    assert {buffer["op"] for buffer in largest} == {"all-reduce"}
    assert not any(re.search(r"\[\d+,(\d+),\1,", buffer["shape"]) for buffer in largest)  # Maps.


def test_largest_buffers_are_sorted_and_named(plan):
    sizes = [buffer["num_bytes"] for buffer in plan["largest_buffers"]]
    assert len(sizes) == 10 and sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
    assert all(re.fullmatch(r"\w+\[[\d,]*\]", b["shape"]) for b in plan["largest_buffers"])


def test_the_table_shows_the_same_numbers(planned, plan):
    assert f"compiling a step of batch {BATCH} for 4 x TPU v4" in planned.stderr
    assert f"generator {num_parameters('generator'):,}" in planned.stdout
    assert f"{plan['memory']['total'] / 1e9:.2f} of {plan['memory_limit'] / 1e9:.2f} GB" in (
        planned.stdout
    )


def test_mistakes_are_found_at_once(folder, arguments, run_verb):
    refused = functools.partial(run_verb, "plan", *arguments)
    assert_refused(refused("--topology=v4:big"), "v4:big", "v4:2x2x4", "v5e:4x4")
    out = folder / "missing" / "plan.json"
    assert_refused(refused(f"--out={out}"), f"--out={out}", "there is no folder")
    assert_refused(refused(f"--out={folder}"), "it is a folder")
    assert_refused(run_verb("plan"), "--config is missing")
