"""trained_start.py: a run starts from the arrays of another model that fit."""

import jax
import numpy as np
import pytest

from tests import small_run
from xmc_jax.data.records import Records
from xmc_jax.errors import UserError
from xmc_jax.experiment import create_experiment
from xmc_jax.inference.export import export
from xmc_jax.run.config import read_config, write_config
from xmc_jax.run.folder import checkpoints_dir, text_projection_path
from xmc_jax.training.projection import fit_projection
from xmc_jax.training.trained_start import TrainedStart, _arrays, _modules


@pytest.fixture(scope="module")
def source(folder):
    return small_run.make(folder, whole=True)


@pytest.fixture(scope="module")
def config(source):
    return read_config(source)


def start(source, config, **fields):
    """The arrays of a new state, from zeros and ones, and those of the source's checkpoint."""
    experiment = create_experiment(config, source)
    started = TrainedStart(experiment, source, **({"is_partial": False, "fsdp": 1} | fields))
    blank = jax.tree.map(
        lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding), experiment.abstract_state()
    )
    tokens = experiment.tokenizer(["a red circle", "red circles"])
    return blank, started.apply(experiment, blank, tokens)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_gives_both_players(source, config):
    blank, state = start(source, config)
    trained = small_run.draw_state(create_experiment(config, source).abstract_state())
    assert_equal(_arrays(state), _arrays(trained))
    assert state.step == blank.step
    assert_equal(state.generator_optimizer, blank.generator_optimizer)
    assert_equal(state.discriminator_optimizer, blank.discriminator_optimizer)


def test_an_exported_model_gives_its_averages(source, config, folder):
    exported = folder / "exported"
    export(str(source), str(exported), standalone=False)
    blank, state = start(exported, config)
    trained = small_run.draw_state(create_experiment(config, source).abstract_state())
    assert_equal(state.ema, trained.ema)
    assert_equal({"params": state.generator, "batch_stats": state.generator_stats}, trained.ema)
    assert_equal(state.discriminator, blank.discriminator)
    buffers = [
        x.addressable_data(0).unsafe_buffer_pointer()
        for x in jax.tree.leaves((state.generator, state.ema))
    ]
    assert len(set(buffers)) == len(buffers)  # The step donates them.


def test_what_does_not_fit_is_named_and_taken_only_in_part(source, config):
    wider = config.copy_and_resolve_references()
    with wider.unlocked():
        wider.model.z_dim = 5
    unfit = r"generator/block_0/norm_1/beta/kernel, .*generator/project_noise/kernel, .*"
    with pytest.raises(UserError, match=f"does not fit: {unfit}; --init_partial takes the rest"):
        start(source, wider)
    _, state = start(source, wider, is_partial=True)
    trained = small_run.draw_state(create_experiment(config, source).abstract_state())
    assert_equal(state.discriminator, trained.discriminator)
    assert_equal(state.generator["to_rgb"], trained.generator["to_rgb"])
    assert np.all(state.generator["project_noise"]["kernel"] == 1)


def test_another_text_is_refused(source, config, tmp_path):
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.text.projection = 4
    experiment = create_experiment(other)
    with pytest.raises(UserError, match=r"text\.projection \(3 there, 4 here\), .*generator/query"):
        TrainedStart(experiment, source, is_partial=False, fsdp=1)
    started = TrainedStart(experiment, source, is_partial=True, fsdp=1)
    assert not started.copy_projection(tmp_path)


def test_a_run_that_lost_its_config_keeps_its_projection(source, config, tmp_path):
    checkpoints_dir(tmp_path).joinpath("3").mkdir(parents=True)
    nothing_to_read = object.__new__(Records)
    fit_projection(create_experiment(config), tmp_path, nothing_to_read)
    assert not text_projection_path(tmp_path).exists()


def test_the_projection_comes_along(source, config, tmp_path):
    """Also into a folder that an earlier start has left, without a checkpoint."""
    started = TrainedStart(create_experiment(config), source, is_partial=False, fsdp=1)
    copy = text_projection_path(tmp_path)
    write_config(tmp_path, config)
    copy.write_bytes(b"of another start")
    assert started.copy_projection(tmp_path)
    assert copy.read_bytes() == text_projection_path(source).read_bytes()


def test_a_folder_without_a_model_is_one_line(config, tmp_path):
    with pytest.raises(UserError, match="--init_from=.* is neither a run nor an exported model"):
        TrainedStart(create_experiment(config), tmp_path, is_partial=False, fsdp=1)


def test_modules_of_which_nothing_fits_are_named_as_one():
    arrays = [
        "generator/block_0/conv_1/kernel",
        "generator/block_0/conv_1/bias",
        "generator/block_1/conv_1/kernel",
        "generator/block_1/conv_2/kernel",
        "generator/block_10/conv_1/kernel",
        "discriminator/logit/kernel",
        "ema/params/block_0/conv_1/kernel",
    ]
    unfit = {arrays[0], arrays[2], arrays[3], arrays[5], arrays[6]}
    assert _modules(unfit, arrays) == [
        "discriminator",
        "generator/block_0/conv_1/kernel",
        "generator/block_1",
    ]
