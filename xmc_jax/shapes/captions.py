"""Descriptions of a scene: five short captions, or one narrative with a mouse trace.

Every sentence comes with its logical form, a dict that can be written as JSON. `accuracy.py` checks
images against it. Its keys:

    type        exists | relation | location | count | background
    objects     objects that the sentence mentions: {"shape", "colour"} and sometimes "size"
    relation    left of | right of | above | below: where objects[0] is relative to objects[1]
    location    one of `LOCATIONS`: where objects[0] is
    count       number of objects in the whole scene
    background  one of `BACKGROUNDS`

A form has only the keys that its sentence states. A shape-colour pair occurs once in a scene,
so every mention refers to one object. A relation is stated only if one axis clearly decides it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xmc_jax.shapes.scenes import GRID, Scene, SceneObject, direction, make_scene, random_generator

Form = Mapping[str, Any]

_NUMBERS = ("no", "one", "two", "three", "four", "five")
# Phrases for each location and relation; entries at one index are of one style.
PLACES = {
    "top left": ("in the top left corner", "at the top left"),
    "top": ("at the top", "at the top center"),
    "top right": ("in the top right corner", "at the top right"),
    "left": ("on the left", "at the left edge"),
    "center": ("in the center", "in the middle"),
    "right": ("on the right", "at the right edge"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom": ("at the bottom", "at the bottom center"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
}
LOCATIONS = tuple(PLACES)  # Names of the cells, row by row.
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


class Caption(NamedTuple):
    """A sentence in lower case, and its logical form; see the module's docstring."""

    text: str
    form: Form


class Narrative(NamedTuple):
    """A long description in the Localized Narratives format.

    Attributes:
      text: The whole caption.
      forms: Logical form of each sentence.
      timed_caption: ``{"utterance", "start_time", "end_time"}`` of each sentence, in seconds.
      traces: Points ``{"x", "y", "t"}`` of the mouse during each sentence; x and y in units of the
        image's side, t in seconds.
    """

    text: str
    forms: tuple[Form, ...]
    timed_caption: tuple[dict[str, Any], ...]
    traces: tuple[tuple[dict[str, float], ...], ...]


class Example(NamedTuple):
    """A scene with five captions; the id ``<split>-<index>`` and the layout determine both."""

    id: str
    scene: Scene
    captions: tuple[Caption, ...]


def make_example(split: str, index: int, layout: str = "full") -> Example:
    """Example of a split at an index, with one caption of each type in random order.

    The scene is in one of `scenes.LAYOUTS`. Without two objects to relate, the caption of that type
    says what exists.

    Raises:
      ValueError: The split does not exist, or the index is negative.
    """
    scene, rng = make_scene(split, index, layout), random_generator(split, index, "captions")
    makers = (_say_location, _say_count, _say_background, _say_exists, _say_relation)
    captions = [make(scene, rng) for make in makers]
    shuffled = tuple(captions[i] for i in rng.permutation(len(captions)))
    return Example(f"{split}-{index:06d}", scene, shuffled)


def parse_id(example_id: str) -> tuple[str, int]:
    """Split and index of an example, from an id such as ``val-000012``.

    Raises:
      ValueError: The id does not belong to this data set.
    """
    split, _, index = example_id.rpartition("-")
    if not index.isdigit():
        raise ValueError(f"{example_id!r} is not the id of a shapes example")
    return split, int(index)


def _relation_between(one: SceneObject, other: SceneObject) -> str | None:
    """Where `one` is relative to `other`; None if both axes decide it equally."""
    (row, column), (other_row, other_column) = divmod(one.cell, GRID), divmod(other.cell, GRID)
    right, down = column - other_column, row - other_row
    return direction(right, down) if abs(right) != abs(down) else None


def _mention(item: SceneObject, rng: np.random.Generator) -> tuple[str, Form]:
    """A noun phrase for an object, and its logical form; states the size half of the time."""
    form = {"shape": item.shape, "colour": item.colour}
    if rng.integers(2):
        form["size"] = item.size
    return describe_mention(form), form


def describe_mention(mention: Form) -> str:
    """The noun phrase for an entry of a form's ``objects``, such as "a large red circle"."""
    words = [mention[name] for name in ("size", "colour", "shape") if name in mention]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def describe_count(count: int, phrase: str) -> tuple[str, str]:
    """Two captions that mention one object by a phrase and tell how many there are."""
    if count == 1:
        return f"only {phrase}", f"{phrase} and nothing else"
    number = _NUMBERS[count]
    return f"{number} shapes, one is {phrase}", f"{phrase}, {number} shapes in all"


def _pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[rng.integers(len(options))]


def _say_exists(scene: Scene, rng: np.random.Generator) -> Caption:
    count = int(rng.integers(1, min(3, len(scene.objects)) + 1))
    chosen = [scene.objects[i] for i in rng.permutation(len(scene.objects))[:count]]
    phrases, objects = zip(*(_mention(item, rng) for item in chosen), strict=True)
    text = phrases[0] if count == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    opening = _pick(("", "there is ") if count == 1 else ("", "there are "), rng)
    return Caption(opening + text, {"type": "exists", "objects": list(objects)})


def _say_location(scene: Scene, rng: np.random.Generator) -> Caption:
    item = _pick(scene.objects, rng)
    phrase, mentioned = _mention(item, rng)
    location = LOCATIONS[item.cell]
    place = _pick(PLACES[location], rng)
    text = _pick((f"{phrase} {place}", f"{place} there is {phrase}"), rng)
    return Caption(text, {"type": "location", "objects": [mentioned], "location": location})


def _say_relation(scene: Scene, rng: np.random.Generator) -> Caption:
    """A relation between two objects; without any, says what exists."""
    related = [
        (one, other, relation)
        for one, other in itertools.permutations(scene.objects, 2)
        if (relation := _relation_between(one, other))
    ]
    if not related:
        return _say_exists(scene, rng)
    one, other, relation = _pick(related, rng)
    (phrase, mentioned), (other_phrase, other_mentioned) = _mention(one, rng), _mention(other, rng)
    text = f"{phrase} {_pick(RELATIONS[relation], rng)} {other_phrase}"
    form = {"type": "relation", "objects": [mentioned, other_mentioned], "relation": relation}
    return Caption(text, form)


def _say_count(scene: Scene, rng: np.random.Generator) -> Caption:
    phrase, mentioned = _mention(_pick(scene.objects, rng), rng)
    count = len(scene.objects)
    text = _pick(describe_count(count, phrase), rng)
    return Caption(text, {"type": "count", "objects": [mentioned], "count": count})


def _say_background(scene: Scene, rng: np.random.Generator) -> Caption:
    phrase, mentioned = _mention(_pick(scene.objects, rng), rng)
    colour = scene.background
    text = _pick((f"{phrase} on a {colour} background", f"{phrase} on {colour}"), rng)
    return Caption(text, {"type": "background", "objects": [mentioned], "background": colour})


def make_narrative(split: str, index: int) -> tuple[Scene, Narrative]:
    """A scene of two to five objects, and a narrative that describes one after the other.

    Raises:
      ValueError: The split does not exist, or the index is negative.
    """
    scene = make_scene(split, index, "narrative")
    rng = random_generator(split, index, "narration")
    # The word "picture" stays: prepared data sets contain this sentence.
    utterances = [f"In this picture the background is {scene.background}."]
    forms = [{"type": "background", "objects": [], "background": scene.background}]
    points = [(0.5, 0.5)]
    previous = None
    for item in (scene.objects[i] for i in rng.permutation(len(scene.objects))):
        phrase, mentioned = _mention(item, rng)
        relation = previous and _relation_between(item, previous[0])
        if relation and rng.integers(2):
            text = f"{_pick(RELATIONS[relation], rng)} it there is {phrase}."
            # "Above it there is X": "it" is the object of the previous sentence.
            form = {"type": "relation", "objects": [mentioned, previous[1]], "relation": relation}
        else:
            location = LOCATIONS[item.cell]
            text = f"{_pick(PLACES[location], rng)} I can see {phrase}."
            form = {"type": "location", "objects": [mentioned], "location": location}
        utterances.append(text[0].upper() + text[1:])
        forms.append(form)
        points.append(item.centre)
        previous = (item, mentioned)
    timed_caption, traces = _speak(utterances, points, rng)
    return scene, Narrative(" ".join(utterances), tuple(forms), timed_caption, traces)


def _speak(
    utterances: Sequence[str], points: Sequence[tuple[float, float]], rng: np.random.Generator
) -> tuple[tuple, tuple]:
    """Assigns a time to each utterance, and a mouse trace that circles the utterance's point."""
    timed_caption, traces, now = [], [], 0.0
    for utterance, (x, y) in zip(utterances, points, strict=True):
        duration = 0.35 * len(utterance.split()) + float(rng.uniform(0, 0.5))
        times = np.arange(0.0, duration, 0.1)
        angles = 2 * np.pi * times / duration + float(rng.uniform(0, 2 * np.pi))
        xs, ys = x + 0.5 / GRID * np.cos(angles), y + 0.5 / GRID * np.sin(angles)
        trace = zip(xs.tolist(), ys.tolist(), times.tolist(), strict=True)
        traces.append(
            tuple({"x": round(x, 4), "y": round(y, 4), "t": round(now + t, 3)} for x, y, t in trace)
        )
        end = round(now + duration, 3)
        timed_caption.append({"utterance": utterance, "start_time": round(now, 3), "end_time": end})
        now = end
    return tuple(timed_caption), tuple(traces)
