"""The verbs, asked for what cannot be: real processes, one clear line, nothing written."""

import pytest

from tests.test_imports import VERBS
from tests.verbs import TINY, assert_refused, finish


def test_wrong_settings_are_one_clear_line(folder, run_verb):
    workdir = f"--workdir={folder / 'bad'}"
    done = run_verb("train", *TINY, workdir, "--config.model.widht=4")
    assert_refused(done, "no field model.widht; did you mean", "model.generator_width")
    assert_refused(
        run_verb("train", *TINY, workdir, "--config.batchsize=4"), "batchsize", "batch_size?"
    )
    assert_refused(
        run_verb("train", *TINY, workdir, "--config.batch_size=many"), "batch_size", "many"
    )
    assert_refused(run_verb("train", *TINY, workdir, "--wrokdir=x"), "wrokdir")
    assert_refused(run_verb("train", *TINY, workdir, "stray"), "stray")
    assert_refused(
        run_verb("train", "--config=configs/none.py", workdir), "configs/none.py", "shapes_32"
    )
    assert_refused(run_verb("train", "--config=configs/shapes_32.py:x", workdir), "'x'", "s_w")
    assert_refused(run_verb("train", *TINY), "--workdir is missing")
    assert_refused(run_verb("train", workdir), "--config is missing")
    own = folder / "own_32.py"
    for text, words in (
        ("def get_config():\n    return {'num_steps': 1}\n", "a dict; make it a ConfigDict"),
        ("def get_config():\n    return undefined\n", "NameError: name 'undefined'"),
        ("def get_config(:\n", "SyntaxError: "),
    ):
        own.write_text(text)
        assert_refused(run_verb("train", f"--config={own}", workdir), str(own), words)
    assert not (folder / "bad").exists()


@pytest.mark.long  # Also in test_text_encoder.
def test_a_value_that_cannot_work(folder, run_verb):
    """See `test_configs` for the others."""
    change, words = "--config.text.encoder=/no/such", ["/no/such", "minilm"]
    assert_refused(run_verb("train", *TINY, f"--workdir={folder / 'bad'}", change), *words)


@pytest.mark.long  # Also in test_sharding.
def test_indivisible_batch(folder, run_verb):
    done = run_verb("train", *TINY, f"--workdir={folder / 'bad'}", devices=3)
    assert_refused(done, "batch_size=4", "3 devices", "use 3 or 6")


@pytest.mark.long  # Also in test_image_features.
def test_pretrained_term_without_weights(folder, run_verb):
    arguments = [
        "--config.loss.image_pretrained_weight=1",
        "--config.loss.image_pretrained_weights=",
    ]
    done = run_verb("train", *TINY, f"--workdir={folder / 'bad'}", *arguments)
    assert_refused(done, "no weights for vgg16", "set the loss's weight to 0")


def test_unwritable_workdir(folder, run_verb):
    (folder / "file").write_text("")
    assert_refused(run_verb("train", *TINY, f"--workdir={folder / 'file' / 'run'}"), "file/run")


@pytest.mark.long  # The verb also runs in test_folder and test_ln_open_images.
def test_prepare(folder, run_verb):
    arguments = ["--dataset=shapes", f"--data_dir={folder / 'p'}", "--form=sq32_n8"]
    assert "built" in run_verb("prepare", *arguments).stdout
    assert_refused(run_verb("prepare", "--dataset=imagenet"), "imagenet", "shapes")


@pytest.mark.long  # Also in test_catalog.
def test_what_is_prepared_is_not_prepared_again(folder, run_verb):
    arguments = ["--dataset=shapes", f"--data_dir={folder / 'p2'}", "--form=sq32_n8"]
    assert run_verb("prepare", *arguments).returncode == 0
    assert "already built" in run_verb("prepare", *arguments).stdout


def test_help_explains_and_waits_for_nothing_heavy(start_verb):
    verbs = sorted({*VERBS, "study", "shapes.train_scorer", "emoji.train_judge"})
    children = [start_verb(verb, "--help", python=["-X", "importtime"]) for verb in verbs]
    for verb, done in zip(verbs, list(map(finish, children)), strict=True):
        assert done.returncode == 0, verb
        assert f"python -m xmc_jax.{verb}" in done.stdout and "--" in done.stdout
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {"jax", "flax", "tensorflow", "keras", "orbax", "grain"}, verb
