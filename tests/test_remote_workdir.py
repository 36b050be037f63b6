"""A run whose folder is in a bucket: every verb but prepare and plan, by the real clients."""

import subprocess
import sys

from tests.places import ROOT
from tests.verbs import environment

# In one process, which alone has the bucket. TensorFlow has a client of its own for gs:// that only
# speaks to Google: epath goes without it.
CODE = """
import sys
from etils.epath import gpath
gpath._is_tf_installed = lambda: False
from tests import bucket
bucket.mount()

import numpy as np
import xmc_jax
from xmc_jax.configs import shapes_32
from xmc_jax.evaluation.run import evaluate
from xmc_jax.inference.export import export
from xmc_jax.inference.sample import sample
from xmc_jax.pages import compare, report
from xmc_jax.run.records import read_metrics
from xmc_jax.training.start import train

config = shapes_32.get_config()
config.text.encoder = "tests/golden/earlier/bert"
config.data.form = "sq32_n40"
config.batch_size = 4
config.log_every_steps, config.checkpoint_every_steps, config.sample_every_steps = 1, 2, 2
config.model.generator_width = config.model.discriminator_width = 1
config.eval.num_examples, config.eval.batch_size = 4, 2
workdir, data_dir = "gs://bucket/runs/one", sys.argv[1]
for config.num_steps in (2, 4):
    train(config, workdir, data_dir)
assert [r["step"] for r in read_metrics(workdir) if r["kind"] == "train"] == [1, 2, 3, 4]

records = evaluate(workdir, data_dir, ["shapes_accuracy"])
assert records[0].step == 4 and records[0].num_samples == 4
model = xmc_jax.load(workdir)
images = model.generate(["a red circle"], seed=0, num_images=2)
assert model.step == 4 and images.shape == (2, 32, 32, 3) and images.std() > 0
sample(workdir, ["a red circle"], "gs://bucket/images", num_images=2)
export(workdir, "gs://bucket/exported", standalone=False)
again = xmc_jax.load("gs://bucket/exported").generate(["a red circle"], seed=0, num_images=2)
np.testing.assert_array_equal(again, images)
report.write_report(workdir)
compare.write_comparison(compare.read_runs([workdir, "gs://bucket/exported"]), "gs://bucket/out")
written = {path.removeprefix("/bucket/") for path in bucket.Bucket.store}
files = {"images/grid.png", "exported/model.json", "runs/one/report.html", "out/compare.md"}
assert files <= written, written
names = {path.split("/")[4] for path in bucket.Bucket.store if path.startswith("/bucket/runs/one/")}
assert {"config.json", "metrics.jsonl", "samples", "checkpoints"} <= names, names
assert any(name.startswith("events.out.tfevents") for name in names), names
print("done", *sorted(names))
"""


def test_a_run_in_a_bucket(folder):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder / "data")],
        cwd=ROOT,
        env=environment(folder / "data") | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("done ")
    assert "training from step 2 to 4" in done.stdout
