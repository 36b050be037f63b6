"""Compositional scores on the shapes data: claims of logical forms, and objects of a reader.

Their decisions are those of `metrics.compose`; `accuracy` has stricter ones of its own. A class is
a shape, and `ANY` has all objects.
"""

from collections.abc import Iterable

from xmc_jax.metrics.compose import Claim, Detection
from xmc_jax.shapes.accuracy import ParsedScene
from xmc_jax.shapes.captions import Form
from xmc_jax.shapes.scenes import LAYOUTS

ANY = "shape"  # What captions count: "three shapes, one is a red circle".


def form_claims(forms: Iterable[Form]) -> tuple[Claim, ...]:
    """The claims of a caption's sentences, without repetitions.

    Sizes, locations and the background are no claims of this kind.
    """
    claims = []
    for form in forms:
        for mention in form["objects"]:
            claims.append(Claim("presence", mention["shape"]))
            claims.append(Claim("colour", mention["shape"], detail=mention["colour"]))
        if "count" in form:
            claims.append(Claim("count", ANY, form["count"]))
        if "relation" in form:
            one, other = (mention["shape"] for mention in form["objects"])
            claims.append(Claim("relation", one, detail=form["relation"], other=other))
    return tuple(dict.fromkeys(claims))


def scene_detections(scene: ParsedScene, layout: str) -> list[Detection]:
    """The objects that a reader found in an image of a layout: each as its shape and as `ANY`."""
    found = []
    for item in scene.objects:
        radius = LAYOUTS[layout].radius(item.size)
        box = (item.x - radius, item.y - radius, item.x + radius, item.y + radius)
        found += [Detection(name, box, item.colour) for name in (item.shape, ANY) if name]
    return found
