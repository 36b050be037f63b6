"""processes.py: two real processes of two devices are one run, as one process of one device is."""

import concurrent.futures
import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests import bert, verbs
from tests.verbs import ROOT, TINY, environment, start, wait_for_line

NAMES = ("one", "two")
RUN = [*TINY, "--config.d_steps=1", "--config.eval.num_examples=4"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def command(folder):
    """A run whose programs compile fast: no process of several devices may keep them."""
    return [*RUN, f"--config.text.encoder={bert.write_for_shapes(folder / 'bert')}"]


def start_processes(verb, *arguments, data_dir, num_processes, more=((), ())):
    """A verb in one process of one device, or in two of two devices each."""
    port, several = free_port(), num_processes > 1
    children = []
    for index in range(num_processes):
        place = [
            f"--coordinator_address=127.0.0.1:{port}",
            f"--num_processes={num_processes}",
            f"--process_id={index}",
        ]
        children.append(
            start(
                verb,
                *arguments,
                *(place if several else ()),
                *more[index],
                data_dir=data_dir,
                devices=num_processes,
            )
        )
    return children


def run_processes(*arguments, **options):
    """The same to their end: ``[(exit code, stdout, stderr), …]``."""
    return finish(start_processes(*arguments, **options))


def finish(children):
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        for child in children:
            stack.callback(child.kill)
        ends = [pool.submit(verbs.finish, child) for child in children]
        ends = [end.result(timeout=500) for end in ends]
    return [(end.returncode, end.stdout, end.stderr) for end in ends]


@pytest.fixture(scope="module")
def train(folder, command):
    """``train(name, num_processes)``: four steps in a folder of that name; what process 0 said."""

    def train(name, num_processes):
        done = run_processes(
            "train",
            *command,
            f"--workdir={folder / name}",
            "--config.num_steps=4",
            data_dir=folder / "data",
            num_processes=num_processes,
        )
        assert [code for code, _, _ in done] == [0] * num_processes, done
        assert all("step" not in said for _, said, _ in done[1:])  # The first speaks for all.
        return done[0][1]

    return train


@pytest.fixture(scope="module")
def runs(folder, train):
    """The folder with two runs, by one process and by two."""
    for num_processes, name in enumerate(NAMES, start=1):
        assert f"done: {folder / name} is at step 4" in train(name, num_processes)
    return folder


def records(workdir, kind):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_two_processes_train_as_one(runs):
    """Losses, and retrieval among negatives of both processes."""
    one, two = (records(runs / name, "train") for name in NAMES)
    assert [r["step"] for r in two] == [r["step"] for r in one] == [2, 4]
    for a, b in zip(two, one, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"kind", "steps_per_second"}:
            # Adam makes of a gradient's rounding a step of full size.
            np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-2, err_msg=name)
    grids = [np.int32(Image.open(runs / name / "samples" / "step_00000004.png")) for name in NAMES]
    assert np.mean(np.abs(grids[0] - grids[1])) < 2  # Of 255.


@pytest.mark.long  # Restoring onto other devices: also in test_sharding.
def test_checkpoints_go_from_one_process_to_two_and_back(runs, train):
    for name, num_processes in (("one", 2), ("two", 1)):
        assert f"nothing to do: {runs / name} is at step 4 of 4" in train(name, num_processes)


@pytest.mark.long
def test_two_processes_evaluate_as_one(runs):
    for num_processes in (1, 2):
        done = run_processes(
            "evaluate",
            f"--workdir={runs / 'two'}",
            "--metrics=fd_vgg16,compose",
            data_dir=runs / "data",
            num_processes=num_processes,
        )
        assert [code for code, _, _ in done] == [0] * num_processes, done
    found = {}
    for record in records(runs / "two", "eval"):
        found.setdefault(record["metric"], []).append(record["value"])
    assert {"fd_vgg16", "compose/all"} <= found.keys()
    # What is equal to the last digit is written once.
    for metric, values in found.items():
        np.testing.assert_allclose(values, values[0], rtol=1e-4, err_msg=metric)


SHARED_WORK = """
import sys
import jax, numpy as np
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from etils import epath
from xmc_jax.parallel import processes, sharding
from xmc_jax.evaluation.distances import global_moments
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.image_sets import ImageSet, make_shards

sent = np.float64([1 + 2.0**-40, jax.process_index()])
np.testing.assert_array_equal(processes.gather(sent), [[1 + 2.0**-40, 0], [1 + 2.0**-40, 1]])

pixels = np.random.default_rng(0).integers(0, 256, (21, 4, 4, 3)).astype(np.uint8)
shards = make_shards(8)
parts = [pixels[part.start : part.stop] for part in shards.ranges(21)]
images = ImageSet("i", 21, "x", shards, lambda: (part for part in parts))
apply = lambda params, x: x.astype("float32").mean(axis=(1, 2)) * params
features = Features(Network("means", apply, np.float32(2), "w"), sharding.make_mesh())
own = features(images, epath.Path(sys.argv[3]), keep=True)
assert len(own) == sum(map(len, shards.ranges(21))) < 21
wanted = 2 * pixels.mean(axis=(1, 2))
np.testing.assert_allclose(images.gather(own), wanted, rtol=1e-6)
total = global_moments(own)
assert total.count == 21
np.testing.assert_allclose(total.covariance, np.cov(wanted.T), rtol=1e-6)
everyone = processes.gather(total.scatter)
np.testing.assert_array_equal(everyone[0], everyone[1])
print("shared")
"""


def test_two_processes_share_images_and_merge_moments(tmp_path):
    """Features come back in the order of the images, float64 to the last bit."""
    port = str(free_port())
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED_WORK, port, str(index), str(tmp_path / "work")],
            cwd=ROOT,
            env=environment(tmp_path, 4) | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for child in children:
        said, errors = child.communicate(timeout=300)
        assert child.returncode == 0 and said.endswith("shared\n"), errors


@pytest.mark.long
@pytest.mark.parametrize("failing", [0, 1])
def test_all_stop_when_one_cannot_go_on(folder, failing):
    more = [(), ()]
    more[failing] = ["--config.loss.contrastive_group_size=3"]
    begin = time.monotonic()
    done = run_processes(
        "train",
        *RUN,
        f"--workdir={folder / 'refused'}",
        data_dir=folder / "data",
        num_processes=2,
        more=more,
    )
    assert [code for code, _, _ in done] == [2, 2], done
    fault = "config.loss.contrastive_group_size=3 does not divide config.batch_size=4"
    own, other = (done[i][2].splitlines()[-1] for i in (failing, 1 - failing))
    assert own.startswith(f"error: {fault}")
    assert other.startswith(f"error: process {failing} stopped: {fault}")
    assert time.monotonic() - begin < 120  # And not the minutes that a collective would wait.


ENDLESS = [*RUN, "--config.num_steps=100000", "--config.checkpoint_every_steps=100000"]


@pytest.mark.long
def test_a_signal_to_one_saves_in_all_at_the_same_step(folder):
    children = start_processes(
        "train",
        *ENDLESS,
        f"--workdir={folder / 'stopped'}",
        data_dir=folder / "data",
        num_processes=2,
    )
    wait_for_line(children[0], "step 2/")
    children[1].send_signal(signal.SIGTERM)
    (code, out, _), (other, _, errors) = finish(children)
    assert (code, other) == (0, 0), (out, errors)
    assert "SIGTERM: saving" in errors and "stopped before 100000, and saved" in out
    (step,) = (folder / "stopped" / "checkpoints").iterdir()
    assert out.rstrip().endswith(f"at step {step.name}")


WAITING = """
import sys, time
from xmc_jax.parallel import startup, stopping
stopping._DEAD_SECONDS = 5.0  # Instead of a minute.
startup.join(sys.argv[1], 2, int(sys.argv[2]))
print("joined", flush=True)
time.sleep(300)  # As in a collective: nothing comes back from it.
"""


def test_when_one_is_killed_the_other_ends_and_says_why():
    pairs = []  # Two runs of two processes, side by side: most of their time is waiting.
    for _ in range(2):
        address = f"127.0.0.1:{free_port()}"
        pairs.append(
            [
                subprocess.Popen(
                    [sys.executable, "-c", WAITING, address, str(index)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for index in (0, 1)
            ]
        )
    for child in itertools.chain(*pairs):
        wait_for_line(child, "joined")
    time.sleep(3)  # Signs of life go to and fro.
    for killed, pair in enumerate(pairs):
        pair[killed].kill()
    ends = finish([*itertools.chain(*pairs)])
    # Process 0 holds what the others ask for: without it JAX aborts them, with many lines.
    code, _, errors = ends[1]
    assert code == -signal.SIGABRT and "another task died" in errors
    code, _, errors = ends[2]
    assert code == 1, errors
    assert errors.splitlines()[-1] == (
        "error: process 1 of 2 died, or cannot be reached any more; start all processes again: "
        "the run resumes from its last checkpoint"
    )


def test_places_in_a_run_are_checked(folder):
    for arguments, words in (
        (["--num_processes=2"], "--coordinator_address, --process_id is missing"),
        (
            ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 is not one of 2 processes",
        ),
    ):
        child = start("train", *RUN, "--workdir=/no", *arguments, data_dir=folder, devices=1)
        _, errors = child.communicate(timeout=100)
        assert child.returncode == 2 and words in errors.splitlines()[-1], errors
