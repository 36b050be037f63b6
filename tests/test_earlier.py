"""What an earlier version wrote still restores, generates, evaluates and resumes.

`golden/make_earlier.py` made the files with that version: a run of four steps, an exported model,
and the images that it generated with both.
"""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import xmc_jax
from tests.golden.make_earlier import CAPTIONS, SETTINGS, machine
from tests.places import GOLDEN, ROOT
from tests.verbs import assert_refused, environment
from xmc_jax.errors import UserError
from xmc_jax.run import config_checks

EARLIER = GOLDEN / "earlier"
# On the machine that made the files every number is equal to the last bit; elsewhere to rounding.
SAME_MACHINE = machine() == json.loads((EARLIER / "machine.json").read_text())


# In a process of one device, as the earlier version had it.
CODE = """
import sys
import numpy as np
import xmc_jax
from tests.golden.make_earlier import CAPTIONS
from xmc_jax.evaluation.run import evaluate
from xmc_jax.run.config import read_config
from xmc_jax.training.start import train

written, evaluated, resumed, data_dir, out = sys.argv[1:]
images = {
    name: xmc_jax.load(f"{written}/{name}").generate(CAPTIONS, seed=0, num_images=2)
    for name in ("run", "exported")
}
np.savez(out, **images)
evaluate(evaluated, data_dir)
train(read_config(resumed), resumed, data_dir)
"""


@pytest.fixture(scope="module")
def written(folder):
    """The folder with ``run`` and ``exported``."""
    with tarfile.open(EARLIER / "written.tar.xz") as archive:
        archive.extractall(folder / "written", filter="data")
    return folder / "written"


@pytest.fixture(scope="module")
def used(folder, written):
    """This version's images, and its runs: ``evaluated``, and ``resumed`` from step 2."""
    for name in ("evaluated", "resumed"):
        shutil.copytree(written / "run", folder / name)
    shutil.rmtree(folder / "resumed" / "checkpoints" / "4")
    paths = [written, folder / "evaluated", folder / "resumed", folder / "data", folder / "out.npz"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, paths)],
        cwd=ROOT,
        env=environment(folder / "data"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "training from step 2 to 4" in done.stdout
    return folder


def copy(written, folder, name="run"):
    shutil.rmtree(folder / name, ignore_errors=True)
    return shutil.copytree(written / name, folder / name)


def change(workdir, edit):
    """Edits config.json as another version would have written it."""
    path = workdir / "config.json"
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))


def records(workdir, kind):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: x for name, x in line.items() if name != "steps_per_second"}
        for line in lines
        if line["kind"] == kind
    ]


def manifest(workdir, step):
    """Shape, type and checksum of every array of a checkpoint."""
    path = workdir / "checkpoints" / str(step) / "manifest" / "metadata"
    found = json.loads(path.read_text())
    found.pop("checksum", None)  # Of the manifest itself; the earlier version wrote none.
    return found


def generate(folder):
    images = xmc_jax.load(folder).generate(CAPTIONS, seed=0, num_images=2)
    return images.astype(int)


def expected(name):
    with np.load(EARLIER / "images.npz") as images:
        return images[name].astype(int)


@pytest.mark.parametrize("name", ["run", "exported"])
def test_the_same_pixels(used, name):
    with np.load(used / "out.npz") as images:
        difference = np.abs(images[name].astype(int) - expected(name))
    assert difference.max() == 0 if SAME_MACHINE else np.mean(difference) < 1


def test_the_exported_program_still_runs(written):
    """Through `generate.py` of that version, which needs nothing of this package."""
    spec = importlib.util.spec_from_file_location("g", written / "exported" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generated = module.load(written / "exported")(np.repeat(CAPTIONS, 2).tolist(), seed=0)
    assert np.mean(np.abs(generated.astype(int) - expected("exported"))) < 1


def test_it_evaluates_to_the_same_records(used, written):
    before, after = records(written / "run", "eval"), records(used / "evaluated", "eval")
    if SAME_MACHINE:
        # Equal records are not written twice; metrics of later versions come after them.
        assert after[: len(before)] == before
    later = {r["metric"] for r in after} - {r["metric"] for r in before}
    assert {name.partition("/")[0] for name in later} == {"shapes_diversity", "compose"}
    assert {r["metric"] for r in before} <= {r["metric"] for r in after}


def test_it_resumes_to_the_same_state(used, written):
    found, wanted = manifest(used / "resumed", 4), manifest(written / "run", 4)
    assert {name: entry[:2] for item in found.values() for name, entry in item.items()} == {
        name: entry[:2] for item in wanted.values() for name, entry in item.items()
    }
    if SAME_MACHINE:
        assert found == wanted
        assert records(used / "resumed", "train") == records(written / "run", "train")


def test_fields_that_generating_does_not_need_may_be_absent_unknown_or_wrong(folder, written):
    for name in ("run", "exported"):
        images = generate(written / name)
        other = copy(written, folder, name)

        def edit(fields):
            del fields["loss"], fields["optimizer"], fields["batch_size"]
            del fields["model"]["bn_group_size"]  # As before it existed.
            fields["model"]["of_a_newer_version"] = 1
            fields["d_steps"] = "many"
            fields["newer"] = {"section": True}

        change(other, edit)
        if name == "exported":
            _seal(other)
        np.testing.assert_array_equal(generate(other), images)


def test_training_names_the_field(folder, written, run_verb):
    workdir = copy(written, folder)
    change(workdir, lambda fields: fields["model"].update(of_a_newer_version=1))
    done = run_verb("train", *SETTINGS, f"--workdir={workdir}")
    assert_refused(done, "model.of_a_newer_version (1 there, absent now)")


def test_a_new_checked_field_of_training_stops_no_model_from_generating(written, monkeypatch):
    images = generate(written / "exported")
    new = config_checks.Field(float, minimum=0)
    monkeypatch.setitem(config_checks.FIELDS, "loss.new_weight", new)
    np.testing.assert_array_equal(generate(written / "exported"), images)
    config = xmc_jax.load(written / "run").experiment.config
    with pytest.raises(UserError, match="the config lacks the field loss.new_weight"):
        config_checks.check_training(config)


def _seal(exported):
    """Renews the checksum of an exported folder's config."""
    path = exported / "model.json"
    manifest = json.loads(path.read_text())
    digest = hashlib.sha256((exported / "config.json").read_bytes()).hexdigest()
    manifest["sha256"]["config.json"] = digest
    path.write_text(json.dumps(manifest))
