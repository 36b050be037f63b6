"""What is said of a scene of shapes: five short captions, or one narrative with a trace.

Every caption comes with its logical form, a JSON-able dict, which `metrics.shapes_accuracy` checks
images against:

    type        exists | relation | location | count | background
    objects     the objects mentioned: {"shape", "colour"} and sometimes "size"
    relation    left of | right of | above | below: objects[0] stands so to objects[1]
    location    one of `LOCATIONS`: where objects[0] is
    count       how many objects the whole scene holds
    background  one of `BACKGROUNDS`

Only the keys that the sentence states are there. A shape-colour pair occurs once in a scene, so
every mention has one referent; a relation is stated only where one axis clearly decides it.
"""

from typing import Any, NamedTuple

import numpy as np

from xmc_jax.shapes.scenes import GRID, LOCATIONS, Scene, SceneObject, make_scene, random_generator

Form = dict[str, Any]

NUM_CAPTIONS = 5
_NUMBERS = ("no", "one", "two", "three", "four", "five")
_PLACES = {
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
_RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


class Caption(NamedTuple):
    """A sentence and what it claims.

    Attributes:
      text: Lower-case English.
      form: Its logical form; see the module.
    """

    text: str
    form: Form


class Narrative(NamedTuple):
    """A long description in the Localized Narratives format.

    Attributes:
      text: The whole caption.
      forms: The logical form of each sentence.
      timed_caption: ``{"utterance", "start_time", "end_time"}`` of each piece, in seconds.
      traces: Of each piece, the mouse's points ``{"x", "y", "t"}``; x and y in units of the
        image's side.
    """

    text: str
    forms: tuple[Form, ...]
    timed_caption: tuple[dict[str, Any], ...]
    traces: tuple[tuple[dict[str, float], ...], ...]


class Example(NamedTuple):
    """One example of the data set.

    Attributes:
      id: ``<split>-<index>``, from which everything else can be made again.
      scene: What the image shows.
      captions: Five short captions.
    """

    id: str
    scene: Scene
    captions: tuple[Caption, ...]


def make_example(split: str, index: int) -> Example:
    """The example of a split at an index: a pure function.

    Raises:
      ValueError: there is no such split, or the index is negative.
    """
    scene = make_scene(split, index)
    captions = _make_captions(scene, random_generator(split, index, "captions"))
    return Example(f"{split}-{index:06d}", scene, captions)


def example_from_id(example_id: str) -> Example:
    """The example that an id names.

    Raises:
      ValueError: it is not an id of this data set.
    """
    split, _, index = example_id.rpartition("-")
    if not index.isdigit():
        raise ValueError(f"{example_id!r} is not the id of a shapes example")
    return make_example(split, int(index))


def location_of(item: SceneObject) -> str:
    """Where in the grid an object is, one of `LOCATIONS`."""
    return LOCATIONS[item.cell]


def relation_between(one: SceneObject, other: SceneObject) -> str | None:
    """How `one` stands to `other`, or None where no single axis decides it."""
    (row, column), (other_row, other_column) = divmod(one.cell, GRID), divmod(other.cell, GRID)
    down, right = row - other_row, column - other_column
    if abs(down) == abs(right):
        return None
    if abs(right) > abs(down):
        return "left of" if right < 0 else "right of"
    return "above" if down < 0 else "below"


def _make_captions(scene: Scene, rng: np.random.Generator) -> tuple[Caption, ...]:
    """One caption of each kind the scene allows, in random order, filled up to five."""
    makers = [_say_location, _say_count, _say_background, _say_exists]
    related = [
        (one, other, relation)
        for one in scene.objects
        for other in scene.objects
        if one is not other and (relation := relation_between(one, other))
    ]
    captions = [maker(scene, rng) for maker in makers]
    captions.append(
        _say_relation(*related[rng.integers(len(related))], rng)
        if related
        else _say_exists(scene, rng)
    )
    return tuple(captions[i] for i in rng.permutation(NUM_CAPTIONS))


def _mention(item: SceneObject, rng: np.random.Generator) -> tuple[str, Form]:
    """A noun phrase and the claim it makes; the size is said half of the time."""
    form = {"shape": item.shape, "colour": item.colour}
    words = [item.colour, item.shape]
    if rng.integers(2):
        form["size"] = item.size
        words.insert(0, item.size)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words]), form


def _pick(options, rng: np.random.Generator):
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
    location = location_of(item)
    place = _pick(_PLACES[location], rng)
    text = _pick((f"{phrase} {place}", f"{place} there is {phrase}"), rng)
    return Caption(text, {"type": "location", "objects": [mentioned], "location": location})


def _say_relation(
    one: SceneObject, other: SceneObject, relation: str, rng: np.random.Generator
) -> Caption:
    (phrase, mentioned), (other_phrase, other_mentioned) = _mention(one, rng), _mention(other, rng)
    text = f"{phrase} {_pick(_RELATIONS[relation], rng)} {other_phrase}"
    form = {"type": "relation", "objects": [mentioned, other_mentioned], "relation": relation}
    return Caption(text, form)


def _say_count(scene: Scene, rng: np.random.Generator) -> Caption:
    phrase, mentioned = _mention(_pick(scene.objects, rng), rng)
    count = len(scene.objects)
    if count == 1:
        text = _pick((f"only {phrase}", f"{phrase} and nothing else"), rng)
    else:
        number = _NUMBERS[count]
        text = _pick(
            (f"{number} shapes, one is {phrase}", f"{phrase}, {number} shapes in all"), rng
        )
    return Caption(text, {"type": "count", "objects": [mentioned], "count": count})


def _say_background(scene: Scene, rng: np.random.Generator) -> Caption:
    phrase, mentioned = _mention(_pick(scene.objects, rng), rng)
    colour = scene.background
    text = _pick((f"{phrase} on a {colour} background", f"{phrase} on {colour}"), rng)
    return Caption(text, {"type": "background", "objects": [mentioned], "background": colour})


def make_narrative(split: str, index: int) -> tuple[Scene, Narrative]:
    """A scene of two to five objects, and one description that walks through all of them.

    Raises:
      ValueError: there is no such split, or the index is negative.
    """
    scene = make_scene(split, index, narrative=True)
    rng = random_generator(split, index, "narration")
    utterances, forms, points = [], [], []
    utterances.append(f"In this picture the background is {scene.background}.")
    forms.append({"type": "background", "objects": [], "background": scene.background})
    points.append((0.5, 0.5))
    previous = None
    for item in (scene.objects[i] for i in rng.permutation(len(scene.objects))):
        phrase, mentioned = _mention(item, rng)
        relation = previous and relation_between(item, previous[0])
        if relation and rng.integers(2):
            text = f"{_pick(_RELATIONS[relation], rng)} it there is {phrase}."
            # "Above it there is X": it is the object of the sentence before.
            form = {"type": "relation", "objects": [mentioned, previous[1]], "relation": relation}
        else:
            location = location_of(item)
            text = f"{_pick(_PLACES[location], rng)} I can see {phrase}."
            form = {"type": "location", "objects": [mentioned], "location": location}
        utterances.append(text[0].upper() + text[1:])
        forms.append(form)
        points.append(item.centre)
        previous = (item, mentioned)
    timed_caption, traces = _speak(utterances, points, rng)
    return scene, Narrative(" ".join(utterances), tuple(forms), timed_caption, traces)


def _speak(utterances, points, rng: np.random.Generator):
    """Times each utterance, and lets the mouse circle its object meanwhile."""
    timed_caption, traces, now = [], [], 0.0
    for utterance, (x, y) in zip(utterances, points, strict=True):
        duration = 0.35 * len(utterance.split()) + float(rng.uniform(0, 0.5))
        times = np.arange(0.0, duration, 0.1)
        angles = 2 * np.pi * times / duration + float(rng.uniform(0, 2 * np.pi))
        radius = 0.5 / GRID
        traces.append(
            tuple(
                {
                    "x": round(float(x + radius * np.cos(a)), 4),
                    "y": round(float(y + radius * np.sin(a)), 4),
                    "t": round(now + float(t), 3),
                }
                for a, t in zip(angles, times, strict=True)
            )
        )
        end = round(now + duration, 3)
        timed_caption.append({"utterance": utterance, "start_time": round(now, 3), "end_time": end})
        now = end
    return tuple(timed_caption), tuple(traces)
