"""Finds scenes that captions are true of: the real images that a caption could have drawn."""

import collections
import itertools
from collections.abc import Sequence

from xmc_jax.shapes.accuracy import read_exactly, score
from xmc_jax.shapes.captions import Form
from xmc_jax.shapes.scenes import Scene, make_scene


def find_scenes(
    forms: Sequence[Form], split: str, layout: str, *, wanted: int, searched: int
) -> list[list[Scene]]:
    """The first scenes of a split that each of some forms is true of.

    Args:
      forms: Logical forms of captions that mention an object.
      split: One of `scenes.SPLITS`. The search goes on beyond its size, where its scenes are like
        those before.
      layout: One of `scenes.LAYOUTS`.
      wanted: Number of scenes for each form.
      searched: Number of scenes to search.

    Returns:
      For each form `wanted` scenes, or fewer if the search found fewer.
    """
    found: list[list[Scene]] = [[] for _ in forms]
    # A form can be true only of scenes with the object that it mentions first.
    unfinished = collections.defaultdict(set)
    for index, form in enumerate(forms):
        unfinished[_pair(form)].add(index)
    for number in range(searched):
        scene = make_scene(split, number, layout)
        parsed = read_exactly(scene)
        pairs = ((item.shape, item.colour) for item in scene.objects)
        for index in list(itertools.chain(*(unfinished.get(pair, ()) for pair in pairs))):
            if score(parsed, forms[index])["all_correct"] == (1, 1):
                found[index].append(scene)
                if len(found[index]) == wanted:
                    unfinished[_pair(forms[index])].remove(index)
        if not any(unfinished.values()):
            break
    return found


def _pair(form: Form) -> tuple[str, str]:
    return form["objects"][0]["shape"], form["objects"][0]["colour"]
