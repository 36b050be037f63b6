"""cli.py: what every verb does with what it is told and asked."""

import importlib.util
import os
import subprocess
import sys

from tests.places import ROOT
from tests.verbs import foreign_lines


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


def test_an_error_does_not_wait_for_threads():
    """Such as one that compiles for minutes."""
    code = (
        "import threading, time\n"
        "from xmc_jax import cli\n"
        "from xmc_jax.errors import UserError\n"
        "def main():\n"
        "    threading.Thread(target=time.sleep, args=[600]).start()\n"
        "    print('begun')\n"
        "    raise UserError('no space')\n"
        "cli.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "begun\n", "error: no space\n")


def test_jax_says_nothing_of_a_tpu_that_is_not_there():
    """Though libtpu is installed, whose compiler `plan` needs."""
    code = "from xmc_jax import cli\ncli.set_up_jax()\nimport jax\nprint(jax.default_backend())"
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert importlib.util.find_spec("libtpu") and done.returncode == 0
    assert "TPU" not in done.stderr


def test_what_libraries_say_is_seen():
    """Verbs are quiet because nothing has a reason to speak, not because nobody listens."""
    code = (
        "import logging, os, warnings\n"
        "from absl import logging as absl_logging\n"
        "from xmc_jax import cli\n"
        "def main():\n"
        "    cli.set_up_jax()\n"
        "    warnings.warn('from Python')\n"
        "    absl_logging.warning('from absl')\n"
        "    logging.getLogger('tensorflow').error('from TensorFlow')\n"
        "    os.write(2, b'from C++\\n')\n"
        "cli.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for source in ("Python", "absl", "TensorFlow", "C++"):
        assert f"from {source}\n" in done.stderr
    assert len(foreign_lines(done.stderr)) >= 4
    assert not foreign_lines("train 1200/82783  850 images/s  ETA 1:36\nnotice: x\nmeasuring ...")
