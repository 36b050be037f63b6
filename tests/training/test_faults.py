"""faults.py and replay.py: what is named, what is written down, and where a run goes on."""

import pytest

from tests.verbs import TINY, assert_refused
from xmc_jax.run.folder import metrics_path, nonfinite_path
from xmc_jax.run.records import append_metrics, read_metrics
from xmc_jax.training import faults
from xmc_jax.training.faults import Fault, NotFinite

NAN = float("nan")


def test_a_term_is_named_before_its_sum_and_both_before_their_gradient():
    metrics = {"d/grad_norm": NAN, "d/loss": NAN, "d/word": 1.0, "g/loss": NAN, "g/word": NAN}
    assert faults.first_not_finite(metrics) == "g/word"
    assert faults.first_not_finite(metrics | {"g/word": 0.0}) == "d/loss"
    assert faults.first_not_finite({"d/loss": 1.0, "g/grad_norm": float("inf")}) == "g/grad_norm"
    assert faults.first_not_finite({"d/loss": 1.0}) is None
    faults.check(1, {"d/loss": 1.0})
    with pytest.raises(NotFinite, match="^d/loss is nan at step 3$") as caught:
        faults.check(3, {"d/loss": NAN})
    assert (caught.value.step, caught.value.metric) == (3, "d/loss")


def test_faults_are_written_once_and_survive_a_torn_line(tmp_path):
    first = Fault(9, 6, "g/word", "nan", [{"micro_batch": 0, "id": "a", "caption": "ä"}])
    second = Fault(5, 4, "d/loss", "inf", [])
    assert faults.read_faults(tmp_path) == []
    for fault in (first, second, first):
        faults.write_fault(tmp_path, fault)
    with nonfinite_path(tmp_path).open("a") as file:
        file.write('{"step": 1, "rest')
    assert faults.read_faults(tmp_path) == [second, first]
    third = first._replace(restored=0)
    faults.write_fault(tmp_path, third)
    assert third in faults.read_faults(tmp_path)


def test_where_a_run_goes_on():
    known = [Fault(step, restored, "d/loss", "nan", []) for step, restored in ((5, 4), (9, 4))]
    assert faults.step_after([], 4, 20) == 4
    assert faults.step_after(known, 4, 20) == 9  # The second came after the first was skipped.
    assert faults.step_after(known, 2, 20) == 2  # Another way to step 4, which may be fine.
    assert faults.step_after(known, 12, 20) == 12
    assert faults.step_after(known, 4, 9) == 5  # A step must be left to take.


@pytest.mark.long
def test_a_run_stops_is_replayed_and_skips_what_failed(folder, run_verb):
    workdir = folder / "run"
    command = [*TINY, f"--workdir={workdir}", "--config.num_steps=6"]
    hot = [
        f"--config.optimizer.{player}_learning_rate=1e15"
        for player in ("generator", "discriminator")
    ]
    done = run_verb("train", *command, *hot)
    assert_refused(done, "is nan at step 2", "checkpoints up to step 0 are good", "--replay", "=1,")
    (fault,) = faults.read_faults(workdir)
    assert (fault.step, fault.restored) == (2, 0)
    assert [x["micro_batch"] for x in fault.examples] == [0] * 4 + [1] * 4
    assert all(x["id"].startswith("train-") and x["caption"] for x in fault.examples)
    assert not any((workdir / "checkpoints").iterdir())

    done = run_verb("train", *command, *hot, "--replay")
    assert done.returncode == 0, done.stderr
    assert "step 2, on the parameters of step 1:" in done.stdout
    assert "update 1 of 2" in done.stdout and "<- not finite" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("first not finite: ")

    done = run_verb("train", *command, *hot, "--config.max_nonfinite_skips=1")
    assert_refused(done, "is nan at step 4", "skips=2,")
    done = run_verb("train", *command, *hot, "--replay")
    # Steps 1 and 2 were skipped: the parameters are those of the beginning.
    assert "step 4, on the parameters of step 3:" in done.stdout
    assert "not finite before it" not in done.stdout
    metrics_path(workdir).unlink()
    append_metrics(workdir, [{"kind": "start", "step": 0, "init_from": "runs/other"}])
    done = run_verb("train", *command, "--replay")
    assert_refused(done, "cannot replay step 4: the run started from runs/other")
    metrics_path(workdir).unlink()

    done = run_verb("train", *command, "--config.max_nonfinite_skips=2")
    assert done.returncode == 0, done.stderr
    assert "skipping steps 1 to 4" in done.stdout and "at step 6" in done.stdout
    trained = [r["step"] for r in read_metrics(workdir) if r["kind"] == "train"]
    assert trained == [6]
    assert_refused(
        run_verb("train", *command[:-2], f"--workdir={folder / 'no'}", "--replay"),
        "nothing to replay",
    )
