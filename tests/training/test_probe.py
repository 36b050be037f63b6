"""training/probe.py: shares by hand, scores one pair at a time, records of a run."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_experiment, small_step
from xmc_jax import losses
from xmc_jax.configs import coco_128, shapes_32
from xmc_jax.data.records import Records
from xmc_jax.images import encode_png, from_uint8
from xmc_jax.models.layers import SPECTRAL
from xmc_jax.run.records import read_metrics
from xmc_jax.shapes.captions import make_example
from xmc_jax.shapes.scenes import render
from xmc_jax.shapes.swaps import ATTRIBUTES
from xmc_jax.train_state import TrainState
from xmc_jax.training import probe

NUM_IMAGES = 40  # More than one batch, and no multiple of it.


class Rendered(Records):
    """Examples of a split as they would be read from disk."""

    def __init__(self, layout):
        self._layout = layout

    def __len__(self):
        return NUM_IMAGES

    def read(self, indices):
        examples = [make_example("val", index, self._layout) for index in indices]
        return [
            {
                "image": encode_png(render(example.scene, 32, self._layout)),
                "image/id": example.id,
                "captions": {"text": [caption.text for caption in example.captions]},
            }
            for example in examples
        ]


class Writer:
    """Keeps the scalars of TensorBoard."""

    def __init__(self):
        self.scalars = {}

    def write_scalars(self, step, values):
        self.scalars[step] = values


@pytest.fixture(scope="module")
def state():
    discriminator = small_experiment.make_experiment("").discriminator
    init = jax.jit(
        lambda key: discriminator.init(
            key, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, small_step.TEXT_WIDTH)), train=False
        )
    )
    variables = init(jax.random.key(0))
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrainState))
    return TrainState(
        **fields | {"discriminator": variables["params"], "spectral": variables[SPECTRAL]}
    )


def make_probe(workdir, num_devices=1, form="sq32"):
    experiment = small_experiment.make_experiment("", num_devices)
    config = experiment.config.copy_and_resolve_references()
    config.data.form = form
    # The tokenizer of the small experiment knows one word; this one tells all captions apart.
    words = {}

    def tokenize(captions):
        ids = [[words.setdefault(w, len(words) % 49 + 1) for w in re.findall("[a-z]+", c)]
               for c in captions]  # fmt: skip
        return np.array([(row + [0] * 20)[:20] for row in ids], np.int32)

    experiment = dataclasses.replace(experiment, config=config, tokenizer=None)
    object.__setattr__(experiment, "tokenizer", tokenize)
    layout = "one" if form.startswith("one") else "full"
    return probe.make_probe(experiment, Rendered(layout), workdir)


def test_shares_by_hand():
    scores = np.zeros((2, 4, len(ATTRIBUTES), 2), np.float32)
    stated = np.zeros((4, len(ATTRIBUTES)), bool)
    colour, size = ATTRIBUTES.index("colour"), ATTRIBUTES.index("size")
    stated[:, colour] = True
    stated[1, size] = True
    scores[0, :, colour] = [[2, 1], [1, 2], [3, 3], [0, -1]]  # Right, wrong, a guess, right.
    scores[1, :, colour] = [[2, 1]] * 4
    scores[:, 1, size] = [[1, 2], [2, 1]]
    assert probe.share_preferred(scores, stated) == {
        "sentence": {"colour": 0.625, "size": 0.0},
        "word": {"colour": 1.0, "size": 1.0},
    }


def test_scores_are_those_of_the_losses(state, tmp_path):
    """Pair by pair."""
    one = make_probe(tmp_path)
    found = one._scores(state)
    assert found.shape == (2, NUM_IMAGES, len(ATTRIBUTES), 2)
    discriminator = small_experiment.make_experiment("").discriminator
    variables = {"params": state.discriminator, SPECTRAL: state.spectral}
    frozen = small_step.make_frozen()
    ids = one._captions[:, ATTRIBUTES.index("colour"), 1]
    words, sentence, mask = small_step.encode_text(frozen.text, one._tokens[ids])
    images = from_uint8(jnp.asarray(one._images))
    discriminate = jax.jit(functools.partial(discriminator.apply, train=False))
    output = discriminate(variables, images, jnp.asarray(sentence))
    x, y = np.asarray(output.embedding), np.asarray(output.sentence)
    cosines = np.sum(x * y, 1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    by_word = np.diag(losses.word_scores(output.regions, words, jnp.asarray(mask)))
    np.testing.assert_allclose(found[0, :, 0, 1], cosines, atol=1e-5)
    np.testing.assert_allclose(found[1, :, 0, 1], by_word, atol=1e-5)
    assert np.std(cosines) > 1e-3 and np.std(by_word) > 1e-3


@pytest.mark.long  # Two processes of two devices are one run in test_processes.
def test_scores_on_eight_devices(state, tmp_path):
    one, eight = (make_probe(tmp_path, n)._scores(state) for n in (1, 8))
    np.testing.assert_allclose(eight, one, atol=1e-5)


def test_a_probe_is_a_record_scalars_and_a_line(state, tmp_path, capsys):
    writer = Writer()
    probed = make_probe(tmp_path, form="one_sq32")
    before = jax.tree.map(np.array, state)
    for step in (5, 10):
        probed.measure(step, state, writer)
    first, second = read_metrics(tmp_path)
    assert (first.pop("step"), second.pop("step")) == (5, 10) and first == second
    assert first.pop("kind") == "probe"
    attributes = ["colour", "shape", "size", "location", "background"]  # Of one object.
    assert list(first) == [f"probe/{s}/{a}" for s in probe.SCORES for a in attributes]
    assert all(0 <= share <= 1 for share in first.values())
    assert writer.scalars == {5: first, 10: first}
    line, _ = capsys.readouterr().out.splitlines()
    colour = "{probe/sentence/colour:.2f}/{probe/word/colour:.2f}".format(**first)
    begin = f"step 5/2000  swapped words (sentence/word score):  colour {colour}  shape "
    assert line.startswith(begin)
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_no_probe_without_captions_to_swap(tmp_path):
    experiment = small_experiment.make_experiment("")
    for config, form in ((coco_128, "sq128"), (shapes_32, "narrative_sq32")):
        changed = config.get_config()
        changed.data.form = form
        other = dataclasses.replace(experiment, config=changed)
        assert probe.make_probe(other, Rendered("full"), tmp_path) is None
