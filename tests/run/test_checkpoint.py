"""Checkpoints: what is kept, what is read back, and what happens when something is broken."""

import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.disks import small_disk
from tests.places import ROOT
from xmc_jax.errors import UserError
from xmc_jax.parallel.sharding import make_mesh
from xmc_jax.run import checkpoint
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.train_state import TrainState

# A failed read closes the event loop that TensorStore's other reads still want to call, which is
# told whenever rubbish is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_state(step: int, width: int = 8) -> TrainState:
    """A small state whose every array depends on the step."""
    keys = iter(jax.random.split(jax.random.key(step), 4))
    params = [{"kernel": jax.random.normal(next(keys), (width, 8))} for _ in range(3)]
    stats = {"mean": jax.random.normal(next(keys), (width,))}
    tx = optax.adam(1e-3, b1=0.5)
    return TrainState(
        step=jnp.array(step, jnp.int32),
        generator=params[0],
        generator_stats=stats,
        discriminator=params[1],
        spectral={"u": jnp.full(width, float(step))},
        ema={"params": params[2], "batch_stats": jax.tree.map(lambda x: x + 1, stats)},
        generator_optimizer=tx.init(params[0]),
        discriminator_optimizer=tx.init(params[1]),
    )


def abstract_state(width: int = 8) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(0, width))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save(directory, *steps: int, **options) -> None:
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step))


def truncate(item) -> None:
    """Halves every file of an item's data; not the descriptions beside them."""
    files = [f for f in item.rglob("*") if f.is_file() and f.parent.name in ("d", "manifest")]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_round_trip_restores_every_array_and_the_newest_step(tmp_path):
    save(tmp_path, 1, 2)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.latest_step() == 2
        assert_equal(checkpoints.restore(abstract_state()), make_state(2))
        assert_equal(checkpoints.restore(abstract_state(), 1), make_state(1))


def test_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("run/checkpoints", 3)
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()


def test_a_state_may_be_donated_while_it_is_being_saved(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + 7, s), donate_argnums=0)
    state = make_state(1, width=20_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        jax.block_until_ready(overwrite(state))
        checkpoints.wait()
        assert_equal(checkpoints.restore(abstract_state(20_000)), make_state(1, width=20_000))


def test_ema_is_read_without_the_rest(tmp_path):
    save(tmp_path, 1, 2)
    for step in "12":
        shutil.rmtree(tmp_path / step / "state")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        step, ema = checkpoints.restore_ema(abstract_state().ema)
        assert step == 2
        assert_equal(ema, make_state(2).ema)
        step, ema = checkpoints.restore_ema(abstract_state().ema, 1)
        assert step == 1
        assert_equal(ema, make_state(1).ema)


def test_the_latest_stay(tmp_path):
    for step in range(1, 5):  # A process each.
        with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
            checkpoints.save(step, make_state(step))
    assert Checkpoints(tmp_path, read_only=True).steps() == [3, 4]


def test_saving_a_step_that_is_there_does_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, make_state(1))
        assert not checkpoints.save(1, make_state(2))
        checkpoints.wait()
        assert_equal(checkpoints.restore(abstract_state()), make_state(1))


def test_a_clock_set_forth_in_mid_save_harms_nothing(tmp_path, monkeypatch):
    real_time, steps = time.time, range(1, 11)
    with Checkpoints(tmp_path, keep_latest=len(steps)) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step))
            shift = 2 * 86_400 * step
            monkeypatch.setattr(time, "time", lambda shift=shift: real_time() + shift)
        checkpoints.wait()
        assert checkpoints.steps() == list(steps)
        assert_equal(checkpoints.restore(abstract_state(), 10), make_state(10))


def test_missing_steps_are_named(tmp_path):
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        with pytest.raises(UserError, match="no checkpoint in .*none.*train first"):
            checkpoints.restore(abstract_state())
    assert not (tmp_path / "none").exists()
    save(tmp_path, 10, 20)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(UserError, match="no checkpoint of step 15 in .*; there are 10, 20"):
            checkpoints.restore(abstract_state(), 15)
        with pytest.raises(ValueError, match="read_only"):
            checkpoints.save(30, make_state(30))


def test_another_model_is_refused_by_name_and_not_taken_for_damage(tmp_path, capsys):
    save(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"another model.*\[8\].*there and \[\[9\]"):
            checkpoints.restore(abstract_state(9))
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16"), make_state(1).ema)
        with pytest.raises(UserError, match="float32.*bfloat16"):
            checkpoints.restore_ema(half)
        fewer = abstract_state().replace(spectral={})
        with pytest.raises(UserError, match="'spectral.*absent in the config"):
            checkpoints.restore(fewer)
    assert capsys.readouterr().err == ""


def exchange_state(newest, older):
    """Sound files with other numbers in them: what only a checksum can tell."""
    shutil.rmtree(newest / "state")
    shutil.copytree(older / "state", newest / "state")


DAMAGES = {
    "arrays truncated": lambda newest, _: truncate(newest / "state"),
    "ema truncated": lambda newest, _: truncate(newest / "ema"),
    "item missing": lambda newest, _: shutil.rmtree(newest / "state"),
    "manifest truncated": lambda newest, _: truncate(newest / "manifest"),
    "metadata truncated": lambda newest, _: (newest / "state" / "_METADATA").write_text("{"),
    "numbers changed": exchange_state,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_reported_passed_over_and_replaced(tmp_path, capsys, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "2", tmp_path / "1")

    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(abstract_state()), make_state(1))
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if "checkpoint 2" in line and "damaged" in line]
        with pytest.raises(UserError, match="checkpoint 2 .* is damaged; others are 1"):
            checkpoints.restore(abstract_state(), 2)
        (tmp_path / "2.damaged").mkdir()  # Of an earlier accident.
        assert checkpoints.save(2, make_state(2))

    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert_equal(checkpoints.restore(abstract_state()), make_state(2))
    assert (tmp_path / "2.damaged" / "ema").is_dir()


def test_nothing_usable_is_an_error_and_nothing_is_lost(tmp_path, capsys):
    save(tmp_path, 1)
    truncate(tmp_path / "1" / "state")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match="no usable checkpoint"):
            checkpoints.restore(abstract_state())
    assert (tmp_path / "1").is_dir()
    assert "checkpoint 1" in capsys.readouterr().err


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_restores_onto_another_number_of_devices(tmp_path, num_devices):
    def spread(state, devices):
        mesh = make_mesh(devices)
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        shardings = jax.tree.map(lambda x: split if x.shape == (8, 8) else whole, state)
        return shardings, jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
        )

    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(state, spread(state, jax.devices()[:4])[0]))
    shardings, abstract = spread(state, jax.devices()[:num_devices])
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore(abstract)
    assert_equal(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == shardings


def test_checksum_sees_every_bit_and_no_sharding():
    values = np.zeros((8, 3), np.float32)
    clean = checkpoint._checksum(jnp.asarray(values))
    seen = {int(clean)}
    for place in range(values.size):
        for bit in (0, 12, 31):
            flipped = values.copy()
            flipped.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            seen.add(int(checkpoint._checksum(jnp.asarray(flipped))))
    assert len(seen) == 1 + 3 * values.size

    split = NamedSharding(make_mesh(), PartitionSpec("data"))
    assert checkpoint._checksum(jax.device_put(values, split)) == clean
    for dtype in ("bool", "uint8", "bfloat16", "int32"):
        zeros, ones = jnp.zeros(5, dtype), jnp.ones(5, dtype)
        assert checkpoint._checksum(zeros) != checkpoint._checksum(ones)


def run_child(tmp_path, code: str) -> subprocess.CompletedProcess:
    """Runs code, with the names of this file at hand, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    names = f"from tests.run.test_checkpoint import *\ndirectory = {str(tmp_path)!r}\n"
    return subprocess.run(
        [sys.executable, "-c", names + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("moment", ["state.orbax-checkpoint-tmp", "2.orbax-checkpoint-tmp"])
def test_kill_in_mid_save_leaves_the_older_checkpoint(tmp_path, moment):
    # Killed when an item, or the last thing missing of the whole checkpoint, is about to be named.
    child = run_child(
        tmp_path,
        f"""
save(directory, 1)
def kill(event, arguments):
    if event == "os.rename" and os.path.basename(arguments[0]) == {moment!r}:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
save(directory, 2)
""",
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "2.orbax-checkpoint-tmp").is_dir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_equal(checkpoints.restore(abstract_state()), make_state(1))
        checkpoints.save(2, make_state(2))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["1", "2"]


def test_a_disk_that_is_full_leaves_the_older_checkpoint(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=2000) as disk:
        save(disk / "run", 1)
        (disk / "other").write_bytes(bytes(1_500_000))
        with Checkpoints(disk / "run") as checkpoints:
            with pytest.raises(
                UserError, match=r"needs .* MB in .* and .* MB are free; make room.*\(1\)"
            ):
                checkpoints.save(2, make_state(2, width=4000))
        (disk / "other").unlink()
        with Checkpoints(disk / "run") as checkpoints:
            assert_equal(checkpoints.restore(abstract_state()), make_state(1))
            checkpoints.save(2, make_state(2))
        assert Checkpoints(disk / "run", read_only=True).steps() == [1, 2]


def test_a_folder_that_was_removed_is_one_error(tmp_path):
    with pytest.raises(UserError, match="cannot save .*: No such file or directory; .*start again"):
        with Checkpoints(tmp_path / "run") as checkpoints:
            checkpoints.save(1, make_state(1))
            checkpoints.wait()
            shutil.rmtree(tmp_path / "run")
            checkpoints.save(2, make_state(2))


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_never_restored(tmp_path, capsys, seed):
    """Of any file of the checkpoint; in some it changes nothing that is restored."""
    save(tmp_path, 1, 2)
    rng = np.random.default_rng(seed)
    files = sorted(f for f in (tmp_path / "2").rglob("*") if f.is_file() and f.stat().st_size)
    for file in rng.permutation(files)[:4]:
        data = bytearray(file.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(data)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore(abstract_state())
    assert_equal(restored, make_state(int(restored.step)))
    assert ("checkpoint 2" in capsys.readouterr().err) == (int(restored.step) == 1)


def test_no_flipped_bit_of_the_manifest_is_taken_for_another_model(tmp_path, capsys):
    save(tmp_path, 1, 2)
    file = tmp_path / "2" / "manifest" / "metadata"
    data, rng = file.read_bytes(), np.random.default_rng(0)
    for place in rng.choice(len(data), 20, replace=False):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            assert int(checkpoints.restore(abstract_state()).step) in (1, 2)
    assert "checkpoint 2 in" in capsys.readouterr().err


def test_a_full_disk_is_refused_before_the_first_byte(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"needs .* MB in .* and 0 MB are free.*\(1\)"):
            checkpoints.save(2, make_state(2))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["1"]


def test_a_failing_write_is_one_error_and_leaves_the_older_checkpoint(tmp_path):
    child = run_child(
        tmp_path,
        """
import resource
save(directory, 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # As a disk that fills up.
try:
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(2, make_state(2, width=100_000))
except UserError as error:
    print(error)
""",
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert "cannot save a checkpoint in" in child.stdout
    assert "File too large" in child.stdout and len(child.stdout.splitlines()) == 1
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(abstract_state()), make_state(1))
