"""Scenes are pure functions of split and index, and their captions are true."""

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest

from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.frozen.text_encoder import load_text_encoder
from xmc_jax.shapes import captions, scenes

EXAMPLES = [captions.make_example("val", i) for i in range(400)]
EXAMPLES_OF = {
    layout: [captions.make_example("val", i, layout) for i in range(200)]
    for layout in scenes.LAYOUTS
}
NARRATIVES = [captions.make_narrative("val", i) for i in range(100)]

GOLDEN = {
    "head": ("train-000000", "black"),
    "objects": [("cross", "blue", "small", 5), ("cross", "yellow", "large", 4)],
    "captions": [
        "a large yellow cross and a blue cross",
        "a blue cross on black",
        "a small blue cross right of a large yellow cross",
        "two shapes, one is a yellow cross",
        "on the right there is a blue cross",
    ],
    "narrative": (
        "In this picture the background is black. At the top right I can see a small green star. "
        "Left of it there is a large red circle. In the top left corner I can see a purple star."
    ),
    "crc32": [1773683489, 2593612737, 3706507769],
}


def test_examples_are_the_same_in_another_process():
    program = (
        "from xmc_jax.shapes import captions, scenes\n"
        "import zlib\n"
        "example = captions.make_example('train', 7)\n"
        "print(zlib.crc32(repr((example, captions.make_narrative('val', 3))).encode()),"
        " zlib.crc32(scenes.render(example.scene, 32).tobytes()))"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    example, narrative = captions.make_example("train", 7), captions.make_narrative("val", 3)
    image = scenes.render(example.scene, 32).tobytes()
    here = zlib.crc32(repr((example, narrative)).encode()), zlib.crc32(image)
    assert tuple(map(int, there.stdout.split())) == here


def test_golden_example():
    """This must never change: prepared data sets and published numbers depend on it."""
    example = captions.make_example("train", 0)
    assert (example.id, example.scene.background) == GOLDEN["head"]
    assert [(o.shape, o.colour, o.size, o.cell) for o in example.scene.objects] == GOLDEN["objects"]
    assert [c.text for c in example.captions] == GOLDEN["captions"]
    narrative = captions.make_narrative("train", 0)
    assert narrative[1].text == GOLDEN["narrative"]
    images = [scenes.render(example.scene, resolution).tobytes() for resolution in (32, 64)]
    found = [json.dumps(narrative).encode(), *images]
    assert [zlib.crc32(data) for data in found] == GOLDEN["crc32"]


def test_ids_name_split_and_index():
    assert captions.parse_id(EXAMPLES[5].id) == ("val", 5)
    for wrong in ("val", "val-x"):
        with pytest.raises(ValueError, match="is not the id of a shapes example"):
            captions.parse_id(wrong)


def test_objects_are_distinct_and_inside_their_cells():
    for example in EXAMPLES:
        objects = example.scene.objects
        assert 1 <= len(objects) <= 4
        assert len({o.cell for o in objects}) == len({(o.shape, o.colour) for o in objects})
        assert len({o.cell for o in objects}) == len(objects)
        for o in objects:
            radius = scenes.SIZES[o.size]
            assert all(abs(v) + radius < 0.5 for v in o.offset)
    for scene, _ in NARRATIVES:
        assert 2 <= len(scene.objects) <= 5


def test_every_value_occurs():
    objects = [o for e in EXAMPLES for o in e.scene.objects]
    assert {o.shape for o in objects} == set(scenes.SHAPES)
    assert {o.colour for o in objects} == set(scenes.COLOURS)
    assert {o.size for o in objects} == set(scenes.SIZES)
    assert {o.cell for o in objects} == set(range(9))
    assert {e.scene.background for e in EXAMPLES} == set(scenes.BACKGROUNDS)
    assert {len(e.scene.objects) for e in EXAMPLES} == {1, 2, 3, 4}


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_held_out_pairs_occur_in_test_comp_only(layout):
    def pairs(split):
        made = (scenes.make_scene(split, i, layout) for i in range(300))
        return [{(o.shape, o.colour) for o in scene.objects} for scene in made]

    assert len(scenes.HELD_OUT_PAIRS) == 6
    for split in ("train", "val", "test"):
        assert not any(p & scenes.HELD_OUT_PAIRS for p in pairs(split))
    assert all(p & scenes.HELD_OUT_PAIRS for p in pairs("test_comp"))


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_numbers_of_objects(layout):
    smallest, largest = scenes.LAYOUTS[layout].counts
    found = {len(example.scene.objects) for example in EXAMPLES_OF[layout]}
    assert found == set(range(smallest, largest + 1))


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_objects_lie_in_the_image_and_their_centres_in_their_ninths(layout):
    for example in EXAMPLES_OF[layout]:
        for item in example.scene.objects:
            row, column = divmod(item.cell, scenes.GRID)
            assert [int(scenes.GRID * v) for v in item.centre] == [column, row]
            radius = scenes.LAYOUTS[layout].radius(item.size)
            assert all(radius < v < 1 - radius for v in item.centre)


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_objects_do_not_overlap_or_touch_the_border(layout):
    """As rendered: the pixels that objects cover are those of each alone, and none is cut off."""
    for example in EXAMPLES_OF[layout][:50]:
        background = np.array(scenes.BACKGROUNDS[example.scene.background])

        def covered(*objects, scene=example.scene, background=background):
            image = scenes.render(scene._replace(objects=objects), 64, layout)
            return np.any(image != background, axis=-1)

        objects = example.scene.objects
        apart = np.sum([covered(item) for item in objects], axis=0)
        assert apart.max() == 1
        np.testing.assert_array_equal(apart, covered(*objects))


def test_larger_layouts_have_larger_objects():
    def widths(layout):
        """Of the bounding boxes of the small and the large size, in pixels at 32 pixels."""
        return [round(64 * scenes.LAYOUTS[layout].radius(size)) for size in scenes.SIZES]

    assert [widths(layout) for layout in ("full", "two", "one")] == [[6, 9], [8, 13], [10, 14]]
    item = scenes.SceneObject("square", "red", "large", 4, (0.0, 0.0))
    for layout in scenes.LAYOUTS:
        image = scenes.render(scenes.Scene("gray", (item,)), 96, layout)
        side = 2 * 0.84 * scenes.LAYOUTS[layout].radius("large") * 96
        red = np.sum(np.all(image == scenes.COLOURS["red"], axis=-1))
        assert (side - 2) ** 2 <= red <= side**2


def test_two_objects_stand_anywhere_but_next_to_each_other():
    pairs = [e.scene.objects for e in EXAMPLES_OF["two"] if len(e.scene.objects) == 2]
    places = np.array([[divmod(item.cell, 3) for item in pair] for pair in pairs])
    assert np.abs(places[:, 0] - places[:, 1]).max(axis=-1).min() == 2
    # All cells but the middle one, which has only neighbours.
    assert len(np.unique(places.reshape(-1, 2), axis=0)) == 8


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_a_scene_looks_the_same_at_any_resolution(layout):
    for example in EXAMPLES_OF[layout][:10]:
        small, large = (scenes.render(example.scene, r, layout).astype(float) for r in (32, 128))
        averaged = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
        assert np.mean(np.abs(averaged - small)) < 2.0


def test_render_uses_the_palette_and_the_size():
    item = scenes.SceneObject("square", "red", "large", 4, (0.0, 0.0))
    image = scenes.render(scenes.Scene("gray", (item,)), 48)
    assert tuple(image[0, 0]) == scenes.BACKGROUNDS["gray"]
    assert tuple(image[24, 24]) == scenes.COLOURS["red"]
    # Half the side is 0.84 times 0.42 cells of 16 pixels.
    side = 2 * 0.84 * 0.42 * 16
    red = np.mean(np.all(image == scenes.COLOURS["red"], axis=-1)) * 48**2
    assert (side - 2) ** 2 <= red <= side**2  # Pixels on the edge are blends.


def test_silhouettes_differ_in_shape_more_than_in_area():
    grid = np.linspace(-1, 1, 81)
    masks = [scenes.silhouette(s, grid[None, :], grid[:, None]) for s in scenes.SHAPES]
    for i, one in enumerate(masks):
        assert 0.15 < one.mean() < 0.85
        for other in masks[:i]:
            assert np.sum(one & other) / np.sum(one | other) < 0.85
    with pytest.raises(ValueError, match="no shape 'blob'"):
        scenes.silhouette("blob", grid[None, :], grid[:, None])


def find(scene, mention):
    found = [o for o in scene.objects if all(getattr(o, k) == v for k, v in mention.items())]
    assert len(found) == 1, "every mention has exactly one referent"
    return found[0]


def check_form(scene, form):
    """Checks a claim against the scene itself."""
    objects = [find(scene, m) for m in form["objects"]]
    if "relation" in form:
        (ax, ay), (bx, by) = objects[0].centre, objects[1].centre
        right, down = ax - bx, ay - by
        claims = {
            "left of": right < 0 and abs(right) > abs(down),
            "right of": right > 0 and abs(right) > abs(down),
            "above": down < 0 and abs(down) > abs(right),
            "below": down > 0 and abs(down) > abs(right),
        }
        assert claims[form["relation"]]
    if "location" in form:
        assert form["location"] == captions.LOCATIONS[objects[0].cell]
    if "count" in form:
        assert form["count"] == len(scene.objects)
    if "background" in form:
        assert form["background"] == scene.background


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_captions_are_true(layout):
    kinds = set()
    for example in EXAMPLES_OF[layout]:
        assert len(example.captions) == 5
        for caption in example.captions:
            check_form(example.scene, caption.form)
            assert json.loads(json.dumps(caption.form)) == caption.form
            assert caption.text == caption.text.lower().strip()
            for mention in caption.form["objects"]:
                assert mention["shape"] in caption.text and mention["colour"] in caption.text
            kinds.add(caption.form["type"])
    assert kinds | {"relation"} == {"exists", "relation", "location", "count", "background"}
    assert ("relation" in kinds) == (scenes.LAYOUTS[layout].counts[1] > 1)


def test_captions_fit_the_default_length():
    encoder = load_text_encoder("minilm")
    texts = [c.text for e in EXAMPLES for c in e.captions]
    lengths = Tokenizer(encoder.vocabulary_file, 20).lengths(texts)
    assert max(lengths) <= 20


def test_narratives_are_true_and_traced():
    for scene, narrative in NARRATIVES:
        for form in narrative.forms:
            check_form(scene, form)
        mentioned = {(m["shape"], m["colour"]) for f in narrative.forms for m in f["objects"]}
        assert mentioned == {(o.shape, o.colour) for o in scene.objects}
        spoken = " ".join(piece["utterance"] for piece in narrative.timed_caption)
        assert spoken == narrative.text
        assert len(narrative.traces) == len(narrative.timed_caption) == len(narrative.forms)
        for piece, trace in zip(narrative.timed_caption, narrative.traces, strict=True):
            times = [point["t"] for point in trace]
            assert times == sorted(times)
            assert piece["start_time"] <= times[0] and times[-1] <= piece["end_time"]


def test_unknown_examples_are_refused():
    for split, index in (("dev", 0), ("val", -1)):
        with pytest.raises(ValueError, match="splits are train, val"):
            captions.make_example(split, index)
