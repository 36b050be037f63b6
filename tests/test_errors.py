"""errors.py: one line for every error, also for one that says nothing; names that were meant."""

import errno

import jax
import keras
import pytest

from xmc_jax.configs import shapes_32
from xmc_jax.errors import UserError, did_you_mean, reason
from xmc_jax.frozen.image_features import load_image_features
from xmc_jax.parallel import startup
from xmc_jax.planning import topology
from xmc_jax.run import events
from xmc_jax.training import tensorboard


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(""), "ValueError"),
        (ValueError(" \n\n "), "ValueError"),
        (ValueError("\n one\ntwo"), "one"),
        (ValueError("x" * 999), "x" * 200 + "…"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "No space left on device"),
        (OSError(), "OSError"),
    ],
)
def test_reason(error, line):
    assert reason(error) == line


def test_names_that_were_meant():
    known = ["model.generator_width", "model.discriminator_width", "model.dtype", "batch_size"]
    assert did_you_mean("batchsize", known) == "; did you mean batch_size?"
    assert did_you_mean("model.widht", known) == (
        "; did you mean model.generator_width or model.discriminator_width?"
    )
    assert did_you_mean("something.else", known) == did_you_mean("x", []) == ""


def raise_(error):
    def call(*_, **__):
        raise error

    return call


def test_a_join_that_fails_silently(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", raise_(RuntimeError("")))
    with pytest.raises(UserError, match="could not meet the other .* RuntimeError; start all"):
        startup.join("127.0.0.1:1", 2, 0)


def test_a_compiler_that_fails_silently(monkeypatch):
    monkeypatch.setattr(topology.topologies, "get_topology_desc", raise_(RuntimeError("")))
    with pytest.raises(UserError, match="--topology=v5e:2x2: RuntimeError; "):
        topology.find_devices("v5e:2x2")


def test_events_that_fail_silently(tmp_path, monkeypatch):
    monkeypatch.setattr(events.RecordWriter, "write", raise_(OSError()))
    with pytest.raises(UserError, match="cannot write .*events.* OSError; mend"):
        with tensorboard.open_writer(str(tmp_path), shapes_32.get_config(), ["a"], 1):
            pass


def test_weights_that_fail_silently(tmp_path, monkeypatch):
    path = tmp_path / "vgg.weights.h5"
    path.write_bytes(b"")
    monkeypatch.setattr(keras.Model, "load_weights", raise_(ValueError("")))
    with pytest.raises(UserError, match="does not hold the weights of vgg16: ValueError"):
        load_image_features("vgg16", str(path), 64)
