"""The verbs as a user runs them: real processes, in the checkout."""

import os
import pathlib
import subprocess
import sys

from conftest import COMPILE_FAST

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--config=configs/shapes_32.py",
    "--config.data.form=sq32_n40",
    "--config.batch_size=4",
    "--config.log_every_steps=2",
    "--config.sample_every_steps=4",
    "--config.checkpoint_every_steps=2",
    "--config.model.generator_width=1",
    "--config.model.discriminator_width=1",
    "--config.eval.num_examples=2",
    "--config.eval.batch_size=2",
]


def environment(data_dir, devices=1):
    """Of a verb on as many CPU devices; what it keeps for others, it keeps beside the data."""
    return os.environ | {
        "TFDS_DATA_DIR": str(data_dir),
        "XDG_CACHE_HOME": str(pathlib.Path(data_dir) / "cache"),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {COMPILE_FAST}",
    }


def run(verb, *arguments, data_dir, devices=1):
    """``python -m xmc_jax.VERB`` on as many CPU devices."""
    return subprocess.run(
        [sys.executable, "-m", f"xmc_jax.{verb}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(data_dir, devices),
        capture_output=True,
        text=True,
    )


def assert_refused(done, *words):
    """One clear line on stderr, exit code 2, no stack trace."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]
