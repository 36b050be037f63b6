"""benchmarks/measure.py: the cost of a program, and timing in turns."""

import jax.numpy as jnp

from benchmarks import measure


def test_cost_of_a_program():
    program = measure.compile_program("square", lambda x: x @ x, jnp.ones((8, 8)))
    assert program.gigaflops == 2 * 8**3 / 1e9
    assert program.compile_seconds > 0 and program.megabytes >= 0
    assert (program.run(jnp.ones((8, 8))) == 8).all()


def test_calls_of_a_turn_share_its_time():
    calls = []
    runs = [lambda name=name: calls.append(name) for name in "ab"]
    seconds = measure.time_in_turns(runs, repeats=2, calls_a_turn=3)
    assert "".join(calls) == "ab" + 2 * "aaabbb"
    assert len(seconds) == 2 and all(s < 1 for s in seconds)
