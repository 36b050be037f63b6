"""cli.py: what every verb does with what it is told and asked."""

import importlib.util
import os
import subprocess
import sys

from tests.places import ROOT


def test_ctrl_c_is_one_line_and_exit_code_130(ctrl_c):
    code = (
        "import os, signal\n"
        "from xmc_jax import cli\n"
        "def main():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('went on')\n"
        "cli.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == "interrupted; the same command starts again or resumes\n"


def test_jax_says_nothing_of_a_tpu_that_is_not_there():
    """Though libtpu is installed, whose compiler `plan` needs."""
    code = "from xmc_jax import cli\ncli.set_up_jax()\nimport jax\nprint(jax.default_backend())"
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert importlib.util.find_spec("libtpu") and done.returncode == 0
    assert "TPU" not in done.stderr
