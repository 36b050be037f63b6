"""Scenes that are found show what the caption says."""

import numpy as np

from xmc_jax.shapes.accuracy import score
from xmc_jax.shapes.captions import make_example
from xmc_jax.shapes.fitting import find_scenes
from xmc_jax.shapes.parser import make_parser
from xmc_jax.shapes.scenes import make_scene, render

SEARCHED = 1000


def test_images_of_found_scenes_are_read_as_the_caption():
    captions = [c for i in range(4) for c in make_example("test_comp", i, "two").captions]
    forms = [caption.form for caption in captions]
    found = find_scenes(forms, "test_comp", "two", wanted=3, searched=SEARCHED)
    assert all(len(scenes) <= 3 for scenes in found)
    assert sum(len(scenes) == 3 for scenes in found) > len(forms) / 2
    read = make_parser(64, "two")
    for form, scenes in zip(forms, found, strict=True):
        for scene in scenes:
            (parsed,) = read(np.stack([render(scene, 64, "two")]))
            assert score(parsed, form)["all_correct"] == (1, 1), (form, scene)


def test_the_first_scenes_are_found_and_none_is_missed():
    form = {"type": "background", "objects": [{"shape": "star", "colour": "red"}],
            "background": "black"}  # fmt: skip
    scenes = [make_scene("val", i) for i in range(SEARCHED)]
    wanted = [
        scene
        for scene in scenes
        if scene.background == "black"
        and any((item.shape, item.colour) == ("star", "red") for item in scene.objects)
    ]
    assert len(wanted) > 4
    assert find_scenes([form], "val", "full", wanted=4, searched=SEARCHED) == [wanted[:4]]
    assert find_scenes([form], "val", "full", wanted=500, searched=SEARCHED) == [wanted]
    assert find_scenes([], "val", "full", wanted=4, searched=SEARCHED) == []
