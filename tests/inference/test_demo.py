"""The models that come with the package are small, and their images show what captions say."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import xmc_jax
from xmc_jax.demo import COMMANDS, demo_folder
from xmc_jax.emoji.judge import load_judge
from xmc_jax.evaluation.families.shapes import make_reader
from xmc_jax.images import from_uint8
from xmc_jax.inference import exported
from xmc_jax.inference.program import ProgramModel
from xmc_jax.shapes import captions as shapes_captions
from xmc_jax.shapes.accuracy import count_claims, shuffle_captions, summarise

LAYOUTS = {"shapes": "one", "scenes": "full"}  # Of the demos that draw shapes.
NUM_CAPTIONS = 100
MAX_BYTES = 12_000_000  # All together.
EMOJI = (
    "a red heart",
    "a green heart",
    "a blue circle",
    "a yellow square",
    "a purple square",
    "a man with dark skin",
    "a woman with light skin",
    "a woman police officer with medium-dark skin",
    "a man cook with light skin",
    "a grinning face",
    "a crying face",
    "an angry face with horns",
    "a cat face",
    "a dog face",
    "a thumbs up with dark skin",
    "clapping hands with light skin",
    "a taxi",
    "a bus",
    "a sailboat",
    "a red apple",
    "a watermelon",
    "a sunflower",
    "a clock at three o'clock",
    "a key",
    "an umbrella",
    "a full moon",
    "a star",
    "a snowman",
    "the flag of France",
    "the flag of Japan",
    "an SOS button",
    "a no entry sign",
)


def run_program(folder):
    """The model by its program, whatever the number of devices."""
    folder, manifest = epath.Path(folder), exported.read_manifest(folder)
    return ProgramModel(folder, manifest, batch_size=NUM_CAPTIONS, load_networks=lambda: None)


@functools.cache
def captions_for(name):
    """Of the validation split, with their meanings, in the layout of the demo."""
    layout = LAYOUTS[name]
    examples = [shapes_captions.make_example("val", index, layout) for index in range(NUM_CAPTIONS)]
    return [example.captions[index % 5] for index, example in enumerate(examples)]


@functools.cache
def generated_by(name):
    """The demo's images of these captions, by its program."""
    texts = [caption.text for caption in captions_for(name)]
    return run_program(demo_folder(name)).generate(texts, seed=0)


def test_they_are_small():
    files = [file for name in COMMANDS for file in demo_folder(name).iterdir()]
    assert sum(file.stat().length for file in files) < MAX_BYTES


def test_the_judge_finds_the_captions_of_emoji():
    """Among 32 names, which are in the training split or near others there."""
    judge = load_judge()
    images = run_program(demo_folder("emoji")).generate(EMOJI, seed=0)
    seen = judge.embed_images(judge.params, from_uint8(jnp.asarray(images)))
    scores = seen @ judge.embed_captions(EMOJI).T
    assert np.mean(np.argmax(scores, axis=1) == np.arange(len(EMOJI))) > 0.6


@pytest.mark.parametrize(("name", "all_correct"), [("shapes", 0.45), ("scenes", 0.3)])
def test_images_follow_the_caption(name, all_correct):
    images = generated_by(name)
    forms = [(caption.form,) for caption in captions_for(name)]
    scenes = make_reader("shapes_accuracy", images.shape[1], LAYOUTS[name]).read(images)
    accuracy = summarise(count_claims(scenes, forms))
    others = [forms[index] for index in shuffle_captions(NUM_CAPTIONS, seed=0)]
    floor = summarise(count_claims(scenes, others))
    for attribute, least in {"colour": 0.9, "background": 0.9, "all_correct": all_correct}.items():
        assert accuracy[attribute].value > least, accuracy
        assert floor[attribute].value < 0.7, floor  # Of few captions with backgrounds.


def test_its_program_is_what_an_export_of_today_generates(tmp_path, run_verb):
    arguments = f"--workdir={demo_folder()}", f"--out={tmp_path / 'demo'}"
    done = run_verb("export", *arguments, "--dtype=float16", "--nostandalone")
    assert done.returncode == 0, done.stderr
    texts = [caption.text for caption in captions_for("shapes")]
    again = run_program(tmp_path / "demo").generate(texts, seed=0)
    networks = xmc_jax.load_demo().networks.generate(texts, seed=0)
    for images in (again, networks):
        assert np.abs(images.astype(int) - generated_by("shapes").astype(int)).max() <= 1


def test_images_of_one_caption_differ():
    images = run_program(demo_folder()).generate(["a red circle"], num_images=8, seed=0)
    assert len(np.unique(images, axis=0)) == 8
