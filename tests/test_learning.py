"""The whole method learns: a tiny model overfits 16 captioned images."""

import json
import os
import subprocess
import sys

import pytest

from tests.places import ROOT


def overfit(width, num_steps):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.overfit", str(width), str(num_steps)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_caption_finds_its_image():
    """In a minute. By chance, one of 16 would."""
    learned = overfit(width=3, num_steps=700)
    assert learned["d/sentence_accuracy"] == learned["g/sentence_accuracy"] == 1.0, learned
    assert learned["nearest_is_its_own"] >= 14 / 16, learned


@pytest.mark.long  # Four minutes. The analytic reader wants sharp edges.
def test_nearly_each_image_is_what_its_caption_says():
    learned = overfit(width=5, num_steps=3000)
    assert learned["nearest_is_its_own"] == 1.0, learned
    assert learned["all_correct"] >= 14 / 16, learned
