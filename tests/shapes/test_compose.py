"""Claims of logical forms, and objects of a reader."""

import pytest

from xmc_jax.metrics.compose import Claim, holds
from xmc_jax.shapes.accuracy import ParsedObject, ParsedScene, read_exactly, score
from xmc_jax.shapes.captions import make_example, make_narrative
from xmc_jax.shapes.compose import form_claims, scene_detections
from xmc_jax.shapes.scenes import LAYOUTS


def test_claims_of_forms():
    red, blue = {"shape": "circle", "colour": "red"}, {"shape": "star", "colour": "blue"}
    assert form_claims([{"objects": [red, blue], "relation": "above"}, {"objects": [red]}]) == (
        Claim("presence", "circle"),
        Claim("colour", "circle", detail="red"),
        Claim("presence", "star"),
        Claim("colour", "star", detail="blue"),
        Claim("relation", "circle", detail="above", other="star"),
    )
    counted = form_claims([{"objects": [red], "count": 3}])
    assert Claim("count", "shape", 3) in counted
    assert form_claims([{"objects": [], "background": "white"}]) == ()


def test_objects_of_a_reader():
    items = (
        ParsedObject("ring", "pink", "large", 0.5, 0.5),
        ParsedObject(None, "red", "small", 0, 0),
    )
    found = scene_detections(ParsedScene("white", items), "full")
    assert [item.name for item in found] == ["ring", "shape", "shape"]  # One of no known shape.
    radius = LAYOUTS["full"].radius("large")
    assert found[0].box == found[1].box == (*(0.5 - radius,) * 2, *(0.5 + radius,) * 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_of_the_very_scene_hold(layout):
    """What the strict rules of `accuracy` accept, these accept; a scene without objects fails."""
    for index in range(60):
        if layout == "narrative":
            scene, narrative = make_narrative("val", index)
            forms = narrative.forms
        else:
            example = make_example("val", index, layout)
            scene, forms = example.scene, [caption.form for caption in example.captions]
        parsed = read_exactly(scene)
        assert all(
            hits == claims for form in forms for hits, claims in score(parsed, form).values()
        )
        found = scene_detections(parsed, layout)
        claims = form_claims(forms)
        assert {"presence", "colour"} <= {claim.kind for claim in claims}
        assert not [claim for claim in claims if not holds(claim, found)]
        assert not any(holds(claim, []) for claim in claims)
