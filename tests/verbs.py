"""The verbs as a user runs them: real processes, in the checkout."""

import os
import pathlib
import subprocess
import sys

from conftest import COMPILE_FAST

ROOT = pathlib.Path(__file__).parent.parent


def run(verb, *arguments, data_dir, devices=1):
    """``python -m xmc_jax.VERB`` on as many CPU devices."""
    environment = os.environ | {
        "TFDS_DATA_DIR": str(data_dir),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {COMPILE_FAST}",
    }
    return subprocess.run(
        [sys.executable, "-m", f"xmc_jax.{verb}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
