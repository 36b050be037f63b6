"""launch/: the scripts as a user runs them; only clouds, GPUs and downloads are replaced."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.places import ROOT

LAUNCH = ROOT / "launch"
FLAGS = "--zone=z1 --project=p1"
ON_WORKERS = "gcloud compute tpus tpu-vm ssh --zone=z1 --project=p1 xmc"
TRAINING = ["--config=configs/coco_256.py", "--workdir=gs://b/run"]
ODD = ['--note=it\'s "so"', "two  spaces", "", "$HOME `pwd` \\", "two\nlines", "--x='a'", "é*"]

# Stands for xmc_jax/train.py: records its arguments; on SIGTERM it saves and exits with 0.
TRAIN = """
import json, os, signal, sys, time
if "--wrong" in sys.argv:
    sys.exit("error: no flag wrong")
if "--done" in sys.argv:
    sys.exit(0)
def save(*_):
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
with open("argv.json", "w") as file:
    json.dump(sys.argv[1:], file)
print("training, process", os.getpid(), "session", os.getsid(0),
    "on", os.environ.get("JAX_PLATFORMS"), flush=True)
time.sleep(60)
"""
# Stands for launch/setup.sh, which installs 1.5 GB.
SETUP = f"""
mkdir -p .venv/bin
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' >.venv/bin/python
chmod +x .venv/bin/python
echo "set-up: $*"
"""


@pytest.fixture(autouse=True)
def no_pythonpath(monkeypatch):
    """The scripts must find the xmc_jax of their checkout."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture(scope="module")
def checkout(folder):
    """A git checkout with the real scripts, a fast set-up and a training that waits."""
    root = folder / "a checkout"
    shutil.copytree(LAUNCH, root / "launch")
    (root / "launch" / "setup.sh").write_text(SETUP)
    (root / "xmc_jax").mkdir()
    (root / "xmc_jax" / "train.py").write_text(TRAIN)
    (root / ".gitignore").write_text("/dist/\n/.venv/\n/argv.json\n")
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


class Cloud:
    """The folder that `tests/gcloud.py` works on, and the script that calls it."""

    def __init__(self, folder: pathlib.Path, checkout: pathlib.Path):
        self.folder, self.script = folder, checkout / "launch" / "tpu_vm.sh"
        self.bin = folder / "bin"
        self.bin.mkdir()
        gcloud = self.bin / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/gcloud.py "$@"\n')
        gcloud.chmod(0o755)

    def run(self, *arguments, stdin="", **environment) -> subprocess.CompletedProcess:
        names = ("TPU_NAME", "ZONE", "PROJECT_ID", "ACCELERATOR_TYPE", "RUNTIME_VERSION")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", self.script, *arguments],
            env=kept | {"PATH": path, "CLOUD": str(self.folder)} | environment,
            input=stdin,
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[list[str]]:
        """The arguments of each call of gcloud since the last `calls`."""
        path = self.folder / "calls"
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(call) for call in calls]

    def add_workers(self, number: int) -> list[pathlib.Path]:
        homes = [self.folder / "workers" / str(i) for i in range(number)]
        for home in homes:
            home.mkdir(parents=True)
        return homes


@pytest.fixture
def cloud(tmp_path, checkout):
    return Cloud(tmp_path, checkout)


def assert_refused(done, *words):
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]


COMMANDS = {
    f"create --name=xmc {FLAGS} --accelerator=v4-32 --spot": "gcloud compute tpus tpu-vm create "
    "--zone=z1 --project=p1 xmc --version=tpu-ubuntu2204-base --accelerator-type=v4-32 --spot",
    "create --name xmc --accelerator v4:2x2x4": "gcloud compute tpus tpu-vm create "
    "xmc --version=tpu-ubuntu2204-base --type=v4 --topology=2x2x4",
    "create --name=xmc --accelerator=v5e:4x4": "gcloud compute tpus tpu-vm create "
    "xmc --version=v2-alpha-tpuv5-lite --accelerator-type=v5litepod-16",
    "create --name=xmc --accelerator=v5p-32": "gcloud compute tpus tpu-vm create "
    "xmc --version=v2-alpha-tpuv5 --accelerator-type=v5p-32",
    "create --name=xmc --accelerator=v6e-8 --queued --spot": "gcloud compute tpus queued-resources "
    "create xmc --node-id=xmc --runtime-version=v2-alpha-tpuv6e --accelerator-type=v6e-8 --spot",
    "create --name=xmc --accelerator=v9-8 --runtime=r": "gcloud compute tpus tpu-vm create "
    "xmc --version=r --accelerator-type=v9-8",
    f"run --name=xmc {FLAGS} -- {shlex.join(TRAINING)}": f"{ON_WORKERS} --worker=all "
    "--command='bash xmc_jax/launch/tpu_worker.sh start --config=configs/coco_256.py "
    "--workdir=gs://b/run'",
    "run --name=xmc --accelerator=v4-8 -- --workdir runs/x": "gcloud compute tpus tpu-vm ssh xmc "
    "--worker=all --command='bash xmc_jax/launch/tpu_worker.sh start --workdir runs/x'",
    f"logs --name=xmc {FLAGS}": f"{ON_WORKERS} --worker=0 "
    "--command='bash xmc_jax/launch/tpu_worker.sh logs'",
    f"logs --name=xmc {FLAGS} --worker=all": f"{ON_WORKERS} --worker=all "
    """--command='bash xmc_jax/launch/tpu_worker.sh logs | sed -u "s/^/$(hostname): /"'""",
    f"stop --name=xmc {FLAGS}": f"{ON_WORKERS} --worker=all "
    "--command='bash xmc_jax/launch/tpu_worker.sh stop'",
    f"delete --name=xmc {FLAGS} --yes": "gcloud compute tpus tpu-vm delete "
    "--zone=z1 --project=p1 xmc --quiet",
    "delete --name=xmc --queued --yes": "gcloud compute tpus queued-resources delete "
    "xmc --force --quiet",
}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_tpu_vm_prints_what_it_runs(cloud, arguments):
    expected = COMMANDS[arguments]
    verb, *rest = shlex.split(arguments)
    done = cloud.run("-n", verb, *rest)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")
    assert cloud.calls() == []
    subprocess.run(["bash", "-n", "-c", expected], check=True)

    done = cloud.run(verb, *rest)
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == [shlex.split(expected)[1:]]
    assert f"+ {expected}" in done.stderr.splitlines()


def test_tpu_vm_setup_prints_what_it_runs(cloud, checkout):
    done = cloud.run("setup", "-n", *FLAGS.split(), TPU_NAME="xmc")
    head = ["git", "-C", checkout, "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True).stdout.strip()
    archive = f"dist/xmc_jax-{commit}.tar.gz"
    assert done.stdout.splitlines() == [
        f"cd '{checkout}'",
        "mkdir -p dist",
        f"git archive --format=tar.gz --output={archive} HEAD",
        f"gcloud compute tpus tpu-vm scp {FLAGS} {archive} xmc:xmc_jax.tar.gz --worker=all",
        f"{ON_WORKERS} --worker=all --command='bash -c "
        """"$(tar -xzOf xmc_jax.tar.gz launch/tpu_worker.sh)" tpu_worker.sh setup'""",
    ]
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    assert cloud.calls() == [] and not (checkout / "dist").exists()


def test_tpu_vm_reads_the_environment(cloud):
    names = {"TPU_NAME": "a", "ZONE": "z", "PROJECT_ID": "p", "ACCELERATOR_TYPE": "v4-8"}
    done = cloud.run("create", "-n", "--name=b", **names, RUNTIME_VERSION="r")
    assert done.stdout == (
        "gcloud compute tpus tpu-vm create --zone=z --project=p b --version=r "
        "--accelerator-type=v4-8\n"
    )


@pytest.mark.parametrize(
    "arguments,words",
    [
        ("", ["no verb", "create, setup, run, logs, stop, delete"]),
        ("crate", ["'crate'", "create, setup"]),
        ("create", ["--name is missing", "TPU_NAME"]),
        ("create --name=x", ["--accelerator is missing", "v4-32"]),
        ("create --name=x --accelerator=h100", ["h100", "v5litepod-16"]),
        ("create --name=x --accelerator=v5p:2x2x4", ["v5p:2x2x4", "--accelerator=v5p-32"]),
        ("create --name=x --accelerator=v9-8", ["v9-8", "--runtime=VERSION"]),
        ("create --name=x --spott", ["--spott", "--help"]),
        ("create --name=x --accelerator", ["--accelerator has no value"]),
        ("create --accelerator --name=x", ["--accelerator has no value"]),
        ("create --zone= --name=x", ["--zone has no value"]),
        ("create xmc", ["'xmc'", "--name=value"]),
        ("stop --name=x --spot", ["stop takes no --spot"]),
        ("stop --name=x -- --config=c", ["stop takes no arguments after --"]),
        ("logs --name=x --worker=two", ["--worker=two", "a number, or all"]),
        ("run --name=x", ["nothing after --", "--workdir=gs://"]),
        ("run --name=x --config=c", ["--config", "after --"]),
        ("run --name=x -- --config=c", ["no --workdir"]),
        ("run --name=x -- --workdir=runs/x", ["--workdir=runs/x", "gs://BUCKET"]),
        ("run --name=x --accelerator=v4-16 -- --workdir runs/x", ["--workdir=runs/x", "gs://"]),
    ],
)
def test_tpu_vm_mistakes_are_one_clear_line(cloud, arguments, words):
    done = cloud.run(*shlex.split(arguments))
    assert_refused(done, *words)
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert cloud.calls() == []


def test_tpu_vm_help_explains(cloud):
    done = cloud.run("--help")
    assert done.returncode == 0
    for word in ("create --accelerator=v4-32 --spot", "run -- --config=", "--queued", "TPU_NAME"):
        assert word in done.stdout


def test_creating_a_tpu_that_exists_is_refused(cloud):
    (cloud.folder / "exists").touch()
    done = cloud.run("create", "--name=xmc", "--accelerator=v4-8")
    assert_refused(done, "xmc exists already", "state: READY", "delete")
    (cloud.folder / "exists").unlink()
    assert cloud.run("create", "--name=xmc", "--accelerator=v4-8").returncode == 0


def test_delete_asks(cloud):
    for answer in ("", "\n", "n\n"):
        done = cloud.run("delete", "--name=xmc", "--zone=z1", stdin=answer)
        assert done.returncode == 2 and "not deleted; answer y" in done.stderr
        assert "Delete xmc in z1" in done.stderr
    assert cloud.calls() == []
    assert cloud.run("delete", "--name=xmc", stdin="y\n").returncode == 0
    assert [call[3] for call in cloud.calls()] == ["delete"]


def test_a_run_on_two_workers_from_setup_to_stop(cloud):
    homes = cloud.add_workers(2)
    workers = [home / "xmc_jax" for home in homes]
    assert_refused(cloud.run("run", "--name=xmc", "--", *TRAINING), "run setup first")
    done = cloud.run("setup", "--name=xmc")
    assert done.returncode == 0 and done.stdout.count("set-up: tpu") == 2, done.stderr
    (workers[0] / "xmc_jax" / "gone.py").touch()

    done = cloud.run("run", "--name=xmc", "--", *TRAINING, *ODD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training runs (process") == 2
    for worker in workers:
        assert json.loads((worker / "argv.json").read_text()) == [*TRAINING, *ODD]

    for refused in (["run", "--name=xmc", "--", *TRAINING], ["setup", "--name=xmc"]):
        done = cloud.run(*refused)
        assert done.returncode == 2 and done.stderr.count("error: ") == 2, done.stderr
        assert "stop it" in done.stderr
    assert (workers[0] / "xmc_jax" / "gone.py").exists()

    done = cloud.run("stop", "--name=xmc")
    assert done.returncode == 0 and done.stdout.count("stopped; saved") == 2
    assert cloud.run("stop", "--name=xmc").stdout.count("no training runs") == 2
    logs = cloud.run("logs", "--name=xmc", "--worker=all").stdout
    assert logs.count("on tpu,cpu") == logs.count("saved") == 2
    for process, session in re.findall(r"process (\d+) session (\d+)", logs):
        assert process == session  # So it survives the end of ssh.

    # The new commit replaces the code, and nothing else.
    assert cloud.run("setup", "--name=xmc").returncode == 0
    assert not (workers[0] / "xmc_jax" / "gone.py").exists()
    assert (workers[0] / "runs" / "train.log").exists()


def test_a_mistake_in_the_training_shows_at_once(cloud):
    cloud.add_workers(1)
    assert cloud.run("setup", "--name=xmc").returncode == 0
    done = cloud.run("run", "--name=xmc", "--", *TRAINING, "--wrong")
    assert done.returncode == 1 and "error: no flag wrong" in done.stderr
    assert cloud.run("stop", "--name=xmc").stdout.endswith("no training runs\n")


@pytest.fixture
def gpu(checkout, tmp_path):
    """``gpu(*arguments) -> Popen``: launch/gpu.sh with an nvidia-smi that lists a GPU."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def start(*arguments, **environment):
        return subprocess.Popen(
            ["bash", checkout / "launch" / "gpu.sh", *arguments],
            env={k: v for k, v in os.environ.items() if k != "XMC_VENV"} | path | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_gpu_prints_what_it_runs(gpu, checkout):
    process = gpu("-n", *TRAINING, "--process_id=1", "a b", XMC_VENV="/v")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        f"cd '{checkout}'",
        "bash launch/setup.sh gpu",
        '/v/bin/python -c \'import jax; print("GPUs:", *jax.devices("cuda"))\'',
        f"/v/bin/python -m xmc_jax.train {shlex.join(TRAINING)} --process_id=1 'a b'",
    ]
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a driver")
def test_gpu_tells_what_is_missing(gpu, tmp_path):
    out, err = gpu(*TRAINING).communicate()
    line = err.splitlines()[-1]
    assert line.startswith("error: JAX sees no GPU") and "driver 580" in line
    assert "Unknown backend" in line and "cuda" in line
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    process = gpu(*TRAINING)
    out, err = process.communicate()
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: no NVIDIA driver") and "launch/local.sh" in err
    assert gpu().communicate()[1].startswith("error: no arguments")


def test_gpu_becomes_the_training(gpu, tmp_path):
    """A signal to the script reaches the training, because it is the same process."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && echo "GPUs: one" || exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    process = gpu(*TRAINING, XMC_VENV=str(tmp_path / "venv"))
    lines = iter(process.stdout.readline, "")
    started = next(line for line in lines if line.startswith("training"))
    assert started.startswith(f"training, process {process.pid} ")
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "saved\n" and process.returncode == 0


def test_nothing_follows_a_training_that_ctrl_c_stops(checkout, ctrl_c):
    process = subprocess.Popen(
        ["bash", checkout / "launch" / "local.sh", "--config.seed=1"],
        env={k: v for k, v in os.environ.items() if k != "XMC_VENV"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("training, ") for line in lines)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate()[0] == "saved\n" and process.returncode == 130
    arguments = json.loads((checkout / "argv.json").read_text())
    assert arguments[1:] == [f"--workdir={checkout}/runs/one_shape_32", "--config.seed=1"]


@pytest.fixture
def preemptible(checkout):
    subprocess.run(["bash", "launch/setup.sh"], cwd=checkout, check=True, capture_output=True)

    def start(*arguments):
        script = checkout / "launch" / "preemptible.sh"
        return subprocess.Popen(["bash", script, *arguments], stdout=subprocess.PIPE, text=True)

    return start


def test_preempted_training_is_not_finished(preemptible, checkout, ctrl_c):
    for sent in (signal.SIGTERM, signal.SIGINT):
        with preemptible(*ODD) as process:
            (training,) = re.findall(r"process (\d+)", process.stdout.readline())
            process.send_signal(sent)
            assert process.wait() == 143
            assert not pathlib.Path("/proc", training).exists()  # The script waited for the save.
            assert process.stdout.read() == "saved\n"
        assert json.loads((checkout / "argv.json").read_text()) == ODD
    for argument, status in (("--done", 0), ("--wrong", 1)):
        with preemptible(argument) as process:
            assert process.wait() == status


def test_setup_installs_what_is_asked_for_once(tmp_path):
    """The real set-up, with a Python that records installations instead of making them."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\n[ "$5" = install ] && echo "$@" >>{tmp_path}/installs ||'
        f' exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    def set_up(*arguments):
        environment = os.environ | {"XMC_VENV": str(tmp_path)}
        command = ["bash", LAUNCH / "setup.sh", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        installs = tmp_path / "installs"
        lines = installs.read_text().splitlines() if installs.exists() else []
        installs.unlink(missing_ok=True)
        return done, [line.partition(" install ")[2] for line in lines]

    assert_refused(set_up("rocm")[0], "'rocm'", "gpu, tpu, test")
    pins = "-c requirements.txt -c requirements-test.txt jax"
    first = set_up("gpu")[1]
    assert first[0] == "--no-deps -r requirements.txt" and len(first) == 4
    assert first[-1].startswith(f"{pins}[cuda13]==")
    assert set_up("gpu")[1] == []
    (second,) = set_up("tpu")[1]
    assert second.startswith(f"{pins}[tpu]==")
    assert set_up("test")[1] == ["--no-deps -r requirements-test.txt"]
