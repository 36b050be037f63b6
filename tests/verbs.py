"""The verbs as a user runs them: real processes, in the checkout."""

import concurrent.futures
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

from tests.places import ROOT

# Tests compile much and run little: code that is not optimised, loops emitted the plain way (newer
# versions have one way), and all of a program in one piece compile in a third of the time.
COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    COMPILE_FAST += " --xla_cpu_use_fusion_emitters=false"
# Fake devices on busy cores meet late: XLA would end the process after 40 s.
PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300"
    " --xla_cpu_collective_call_terminate_timeout_seconds=1200"
    " --xla_cpu_collective_timeout_seconds=1200"
)
TINY = [
    "--config=configs/shapes_32.py",
    "--config.data.form=sq32_n40",
    "--config.batch_size=4",
    "--config.d_steps=2",
    "--config.log_every_steps=2",
    "--config.sample_every_steps=4",
    "--config.checkpoint_every_steps=2",
    "--config.model.generator_width=1",
    "--config.model.discriminator_width=1",
    "--config.eval.num_examples=2",
    "--config.eval.batch_size=2",
]

# What verbs write to stderr, line by line.
OURS = re.compile(
    r"(notice|error): .+"
    r"|.+ \d+(/\d+)?  [\d.]+ [\w ]+/s(  ETA [\w:]+)?(  .+)?"  # Progress.
    r"|.+ \.\.\.|.+: \d+(:\d\d)+( so far)?"  # Waiting.
    r"|building \S+ in .+ \(once\)|using .+|stopped; to go on, .+"
    r"|SIG\w+: saving; a second signal ends at once|.+; the same command (resumes|starts again.*)"
)


def environment(data_dir, devices=1):
    """Of a verb on as many CPU devices; what it keeps for others, it keeps beside the data."""
    return os.environ | {
        "TFDS_DATA_DIR": str(data_dir),
        "XDG_CACHE_HOME": str(pathlib.Path(data_dir) / "cache"),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {COMPILE_FAST} {PATIENT}",
    }


def start(verb, *arguments, data_dir, devices=1, python=()):
    """``python -m xmc_jax.VERB`` on as many CPU devices, as a process that goes on."""
    return subprocess.Popen(
        [sys.executable, *python, "-m", f"xmc_jax.{verb}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(data_dir, devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child):
    """Waits for a process of `start`, and has what it said since `wait_for_line`."""
    with child, concurrent.futures.ThreadPoolExecutor() as pool:
        # `communicate` would lose lines read.
        texts = list(pool.map(lambda stream: stream.read(), (child.stdout, child.stderr)))
    return subprocess.CompletedProcess(child.args, child.returncode, *texts)


def run(verb, *arguments, data_dir, devices=1):
    """``python -m xmc_jax.VERB`` on as many CPU devices, to its end; it prints our lines alone."""
    done = finish(start(verb, *arguments, data_dir=data_dir, devices=devices))
    assert done.returncode not in (0, 2) or not foreign_lines(done.stderr), done.stderr
    return done


def foreign_lines(stderr):
    """Lines that no code of this package wrote: logs and warnings of libraries."""
    return [line for line in stderr.splitlines() if not OURS.fullmatch(line)]


def wait_for_line(child, words):
    """Reads what a process prints, up to a line that has these words."""
    for line in child.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended without {words!r}: {child.stderr.read()}")


def assert_refused(done, *words):
    """One clear line on stderr, exit code 2, no stack trace."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]
