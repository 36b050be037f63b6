"""The folder of a run: configs and metrics survive what happens to files."""

import pytest
from ml_collections import ConfigDict

from tests.disks import small_disk
from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.run.config import ADDED_FIELDS, check_same_networks, flatten, read_config, write_config
from xmc_jax.run.folder import captions_path, config_path, report_path, sample_path
from xmc_jax.run.records import append_metrics, read_metrics


def make_config(**changes) -> ConfigDict:
    config = ConfigDict(
        {
            "num_steps": 10,
            "model": {"width": 8, "multipliers": (4, 2, 1), "dtype": "float32"},
            "text": {"encoder": "minilm", "num_tokens": 24},
            "augment": {},
            "optimizer": {"learning_rate": 1.0, "schedule": None},
        }
    )
    config.update_from_flattened_dict(
        {n: x for n, x in ADDED_FIELDS.items() if not n.startswith(("data", "loss", "eval"))}
    )
    config.update_from_flattened_dict(changes)
    return config


def train_record(step: int, loss: float = 1.0) -> dict:
    return {"kind": "train", "step": step, "d/loss": loss}


def test_config_round_trip_keeps_tuples_floats_and_none_and_is_locked(tmp_path):
    write_config(tmp_path, make_config())
    write_config(tmp_path, make_config())
    config = read_config(tmp_path)
    assert config.to_dict() == make_config().to_dict()
    assert isinstance(config.model.multipliers, tuple)
    assert isinstance(config.optimizer.learning_rate, float)
    with pytest.raises(AttributeError):
        config.no_such_field = 1
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


def test_an_older_config_gets_the_fields_and_the_section_that_came_later(tmp_path):
    config_path(tmp_path).write_text('{"loss": {"word_weight": 1.0}, "optimizer": {}}')
    config = read_config(tmp_path)
    assert config.loss.r1_weight == config.optimizer.clip_norm == config.optimizer.warmup_until == 0
    assert config.augment.to_dict() == {"translation": 0.0, "color": 0.0, "cutout": 0.0}
    assert "data" not in config


def test_missing_and_damaged_configs_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no run in .*config.json is missing"):
        read_config(tmp_path / "none")
    config_path(tmp_path).write_text('{"a": ')
    with pytest.raises(UserError, match="not valid JSON"):
        read_config(tmp_path)


def test_another_model_is_refused_and_its_fields_are_named(tmp_path):
    check_same_networks(tmp_path, make_config(**{"model.width": 99}))  # No run there yet.
    write_config(tmp_path, make_config())
    check_same_networks(tmp_path, make_config())
    check_same_networks(tmp_path, make_config(num_steps=99, **{"optimizer.learning_rate": 2.0}))
    with pytest.raises(UserError) as error:
        check_same_networks(
            tmp_path, make_config(**{"model.width": 16, "text.num_tokens": 64, "num_steps": 99})
        )
    check_same_networks(tmp_path, make_config(**{"model.dtype": "bfloat16"}))
    message = str(error.value)
    assert "model.width (8 there, 16 now)" in message
    assert "text.num_tokens (24 there, 64 now)" in message
    assert "num_steps" not in message and "dtype" not in message and "\n" not in message

    smaller = make_config()
    del smaller.model.dtype
    with pytest.raises(UserError, match=r"model.dtype \(float32 there, absent now\)"):
        check_same_networks(tmp_path, smaller)


def test_ensure_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    files.ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_ensure_writable_says_why_not(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file/run: Not a directory"):
        files.ensure_writable(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot write to /proc/run"):
        files.ensure_writable("/proc/run")


def test_paths_of_samples(tmp_path):
    assert sample_path(tmp_path, 500).name == "step_00000500.png"
    assert sample_path(tmp_path, 500).parent == captions_path(tmp_path).parent


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": ()}}) == {"a": 1, "b.c.d": 2, "b.e": ()}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 9999, "\xff", '{"a.b": 1}'])
def test_a_broken_config_names_the_file_and_the_mend(tmp_path, text):
    config_path(tmp_path).write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match="config.json .*; restore it from a copy, or remove it"):
        check_same_networks(tmp_path, make_config())
    assert config_path(tmp_path).read_bytes() == text.encode("latin1")


def test_a_full_disk_is_one_line_and_spoils_no_file(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        write_config(disk, make_config())
        append_metrics(disk, [train_record(1)])
        (disk / "other").write_bytes(bytes(48_000))
        large = make_config(**{"text.encoder": "x" * 20_000})
        for write in (
            lambda: write_config(disk, large),
            lambda: append_metrics(disk, [{"kind": "train", "step": 2, "x": "x" * 20_000}]),
            lambda: files.write_whole(report_path(disk), bytes(20_000)),
        ):
            with pytest.raises(UserError, match="cannot write .*disk/.*: No space left on device"):
                write()
        assert read_config(disk).to_dict() == make_config().to_dict()
        assert read_metrics(disk) == [train_record(1)]
        (disk / "other").unlink()  # The mend.
        append_metrics(disk, [train_record(2)])
        assert read_metrics(disk) == [train_record(1), train_record(2)]


def test_a_folder_that_was_removed_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write .*/run/.*: No such file.* start again"):
        append_metrics(tmp_path / "run", [train_record(1)])
