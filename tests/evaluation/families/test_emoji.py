"""families/emoji.py, and the other family that reads real data: a small run on emoji."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests import small_experiment, small_step
from tests.data.builders.test_emoji import build, pin, published  # noqa: F401
from xmc_jax.configs import emoji_64
from xmc_jax.emoji.judge import load_judge
from xmc_jax.errors import UserError
from xmc_jax.evaluation import examples
from xmc_jax.evaluation.evaluator import create_evaluator
from xmc_jax.evaluation.families import emoji as family
from xmc_jax.evaluation.inputs import Prompt
from xmc_jax.evaluation.selection import choose_metrics
from xmc_jax.train_state import init_generator

NAMES = ("emoji_retrieval", "nearest_train_vgg16")
NUM_OTHERS, COUNT, NUM_TRAINING = 3, 6, 16


def make_prompts(captions):
    return [Prompt(f"{i:x}", text, 0, np.zeros(4, np.int32)) for i, text in enumerate(captions)]


def test_where_it_is_unavailable():
    config = emoji_64.get_config()
    assert "emoji_retrieval" in choose_metrics((), config)

    def reason(prompts=None):
        return family.reason_unavailable("emoji_retrieval", config, prompts)

    # Texts that are equal but for case and white space do not compete.
    captions = [f"a caption {i}" for i in range(32)]
    assert reason(make_prompts(captions)) is None
    assert "one has 30 others" in reason(make_prompts([*captions[1:], "A  caption 2"]))
    config.eval.num_examples = 31
    assert "needs 32 prompts" in reason()
    config.data.form = "sq64_de"
    assert "captions in de" in reason()
    config.data.form = "sq64_black"
    assert "needs 32 prompts" in reason()
    config.data.eval_name = "folder"
    with pytest.raises(UserError, match="emoji_retrieval cannot .* evaluated on folder"):
        choose_metrics(["emoji_retrieval"], config)


def test_a_run_on_emoji(folder, published, monkeypatch):  # noqa: F811
    monkeypatch.setattr(family, "NUM_OTHERS", NUM_OTHERS)  # There are few captions.
    monkeypatch.setattr(examples, "_MAX_TRAINING_IMAGES", NUM_TRAINING)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    pin(monkeypatch, published)
    build(folder / "data", published, form="sq32")
    experiment = small_experiment.make_experiment("", 1)
    config = experiment.config.copy_and_resolve_references()
    config.data.name, config.data.form = "emoji", "sq32"
    config.eval.num_examples, config.eval.batch_size = COUNT, 8
    experiment = dataclasses.replace(experiment, config=config)
    init = functools.partial(init_generator, text_width=small_step.TEXT_WIDTH)
    ema = jax.jit(init, static_argnums=1)(jax.random.key(0), experiment.generator)
    evaluator = create_evaluator(
        experiment, NAMES, workdir=folder / "run", data_dir=str(folder / "data")
    )
    records = {record.metric: record for record in evaluator.measure(7, ema)}

    retrieval = records["emoji_retrieval"]
    assert retrieval.chance == 1 / (1 + NUM_OTHERS) and retrieval.num_samples == COUNT
    for number in (retrieval.value, retrieval.floor, retrieval.ceiling):
        assert number * COUNT == pytest.approx(round(number * COUNT))
    assert retrieval.low <= retrieval.value <= retrieval.high
    assert retrieval.weights == load_judge().fingerprint
    assert f"before {NUM_OTHERS} others" in retrieval.protocol and "sq32" in retrieval.protocol

    distance, near = (records[f"nearest_train_vgg16/{part}"] for part in ("distance", "near"))
    assert distance.value > 0 and distance.ceiling > 0 and 0 <= near.value <= 1
    assert f"nearest of {NUM_TRAINING} images of train" in distance.protocol
    assert "sq32" in near.protocol and len(near.weights) == 64
