"""plan.py: what is refused before anything is compiled, and the search for a batch size."""

import jax
import pytest

from xmc_jax.configs import shapes_32
from xmc_jax.errors import UserError
from xmc_jax.planning import plan


@pytest.mark.parametrize("largest", range(0, 40, 3))
@pytest.mark.parametrize(("unit", "first"), [(1, 8), (2, 5), (4, 100), (3, 0)])
def test_search_finds_the_largest_multiple_and_asks_once(largest, unit, first):
    asked = []

    def fits(number):
        asked.append(number)
        return number <= largest

    assert plan.largest_multiple(fits, unit, first=first) == largest // unit * unit
    assert len(set(asked)) == len(asked) and all(number % unit == 0 for number in asked)


@pytest.mark.parametrize(
    ("change", "fsdp", "words"),
    [
        ({"batch_size": 12}, 1, "batch_size=12 is not divisible by the 8 devices; use 8 or 16"),
        ({}, 3, "--fsdp=3 does not divide the 8 devices; use one of 1, 2, 4, 8"),
        ({"accumulation_steps": 3}, 1, "accumulation_steps=3 does not divide the 4 images"),
        ({"remat": "all"}, 1, "config.remat='all'"),
    ],
)
def test_what_cannot_be_divided_is_refused(change, fsdp, words):
    config = shapes_32.get_config()
    config.update(change)
    assert len(jax.devices()) == 8
    with pytest.raises(UserError, match=words):
        plan.make_plan(config, fsdp=fsdp)


def test_no_largest_batch_without_a_known_memory():
    with pytest.raises(UserError, match="the memory of a 'cpu' device is unknown; name a TPU"):
        plan.find_largest_batch(shapes_32.get_config())
