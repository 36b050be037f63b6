"""Names of forms: layout, resolution and fraction."""

import pytest

from xmc_jax.errors import UserError
from xmc_jax.shapes.forms import parse_form


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("sq32", ("full", 32, 1.0)),
        ("sq32_n400", ("full", 32, 0.01)),
        ("narrative_sq64", ("narrative", 64, 1.0)),
        ("one_sq32", ("one", 32, 1.0)),
        ("two_sq100_n20000", ("two", 100, 0.5)),
    ],
)
def test_names(name, form):
    assert parse_form(name) == form


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one", "no form 'one'; forms are like .*one_sq32, two_sq64"),
        ("one_two_sq32", "no form"),
        ("_sq32", "no form"),
        ("sq32_n0", "no form"),
        ("one_sq8", "below 16 pixels"),
        ("two_sq32_n40001", "40000 training examples"),
    ],
)
def test_other_names_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        parse_form(name)
