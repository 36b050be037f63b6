"""profile.py: which steps, and that the files are what Perfetto and TensorBoard open."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from xmc_jax.errors import UserError
from xmc_jax.training.profile import Profiler, parse_steps


def test_steps_are_written_as_step_and_count():
    assert parse_steps("100:5") == range(100, 105) and not parse_steps("")
    for wrong in ("100", "0:5", "5:0", "a:b", "1:2:3", "-1:2"):
        with pytest.raises(UserError, match="is not STEP:COUNT, e.g. 100:5"):
            parse_steps(wrong)


def test_the_steps_asked_for_are_in_the_trace(tmp_path, capsys):
    @jax.jit
    def train_step(x):
        return jnp.sin(x @ x)

    x = jnp.ones((50, 50))
    profiler = Profiler(tmp_path, parse_steps("2:2"))
    for number in range(1, 6):
        with profiler.step(number):
            x = train_step(x)
        profiler.end(number, x)
        assert any(tmp_path.iterdir()) == (number >= 3)
    profiler.close()  # Nothing is left to write.
    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    assert str(folder) in capsys.readouterr().out
    assert list(folder.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress((folder / "perfetto_trace.json.gz").read_bytes()))
    steps = [e["args"]["step_num"] for e in events["traceEvents"] if e.get("name") == "train"]
    assert sorted(map(int, steps)) == [2, 3]


def test_a_run_that_ends_early_leaves_what_it_has(tmp_path):
    profiler = Profiler(tmp_path, parse_steps("1:100"))
    with profiler.step(1):
        pass
    profiler.end(1, ())
    assert not any(tmp_path.iterdir())
    profiler.close()
    assert any(tmp_path.iterdir())


def test_without_steps_nothing_is_written(tmp_path):
    profiler = Profiler(tmp_path)
    with profiler.step(1):
        pass
    profiler.end(1, ())
    profiler.close()
    assert not any(tmp_path.iterdir())
