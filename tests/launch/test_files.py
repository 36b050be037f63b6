"""launch/: its YAML files describe valid jobs, and shellcheck finds nothing in its scripts."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from tests.places import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), ROOT / ".ci" / "run"]


@pytest.fixture(scope="module")
def train_flags(run_verb):
    return set(re.findall(r"^  --\[?(?:no\])?(\w+)", run_verb("train", "--help").stdout, re.M))


def test_jobset_describes_one_slice(train_flags):
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    job, pod = group["template"]["spec"], group["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    hosts, chips = job["parallelism"], container["resources"]["limits"]["google.com/tpu"]
    x, y, z = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert hosts * chips == int(x) * int(y) * int(z)
    assert job["completions"] == hosts and group["replicas"] == 1
    assert container["resources"]["requests"] == container["resources"]["limits"]

    # If one host ends, all end and are restarted.
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] >= 10
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert (ROOT / container["command"][1]).exists()
    flags = dict(a[2:].split("=") for a in container["args"])
    assert flags.keys() <= train_flags
    assert flags["workdir"].startswith("gs://") and (ROOT / flags["config"]).exists()


def test_skypilot_task_recovers(train_flags):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    resources = task["resources"]
    assert resources["use_spot"] and resources["job_recovery"]["recover_on_exit_codes"] == [143]
    assert [r["accelerators"] for r in resources["any_of"]] == ["H100:1", "A100-80GB:1", "tpu-v4-8"]
    assert task["envs"]["BUCKET"] is None and (ROOT / task["envs"]["CONFIG"]).exists()
    (mount,) = task["file_mounts"]
    assert set(re.findall(r" --(\w+)=", task["run"])) <= train_flags
    assert f'--workdir="{mount}/' in task["run"]
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
        for script in re.findall(r"launch/\w+\.\w+", task[part]):
            assert (ROOT / script).exists()


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
