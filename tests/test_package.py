"""The package as others install it: a source archive, the wheel built from it, and its command."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.places import ROOT

BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"


def python(*arguments, cwd):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(folder):
    """A folder with the installed wheel, made from a source archive of this checkout."""
    checkout, dist, site = folder / "checkout", folder / "dist", folder / "site"
    for name in ("xmc_jax", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    python("-c", BUILD.format("sdist", str(dist)), cwd=checkout)
    (archive,) = dist.glob("xmc_jax-*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    python("-c", BUILD.format("wheel", str(dist)), cwd=source)
    (wheel,) = dist.glob("xmc_jax-*.whl")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site]
    python(*pip, wheel, cwd=folder)
    return site


def xmc_jax(installed, *arguments):
    """The installed command, in a folder that holds no checkout."""
    return subprocess.run(
        [installed / "bin" / "xmc-jax", *map(str, arguments)],
        cwd=installed.parent / "dist",
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_what_it_should(installed):
    names = {path.name for path in installed.iterdir()}
    assert {"xmc_jax", "bin"} <= names and not names & {"configs", "tests", "benchmarks"}
    for name in ("py.typed", "configs/coco_256.py", "demo/shapes/program.stablehlo"):
        assert (installed / "xmc_jax" / name).is_file(), name
    everything = {
        path.relative_to(ROOT) for path in (ROOT / "xmc_jax").rglob("*") if path.is_file()
    }
    missing = [
        path for path in everything if path.suffix != ".pyc" and not (installed / path).is_file()
    ]
    assert not missing


def test_it_draws(installed, tmp_path):
    done = xmc_jax(installed, "sample", "--demo", "--caption=a red circle", f"--out={tmp_path}")
    assert done.returncode == 0 and done.stderr == ""
    assert len(list(tmp_path.glob("*.png"))) == 5  # Four images and grid.png.


def test_configs_are_found_by_name(installed, tmp_path):
    def refusal(*arguments):
        done = xmc_jax(installed, "train", f"--workdir={tmp_path}", *arguments)
        assert done.returncode == 2 and done.stdout == "", done.stderr
        return done.stderr

    assert refusal("--config=shapes_32:s_w", "--config.num_steps=0") == (
        "error: config.num_steps=0 must be at least 1\n"
    )
    assert "no config file shape_32; there are coco_128, coco_256" in refusal("--config=shape_32")
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from xmc_jax.configs import shapes_32\n"
        "def get_config():\n"
        "    config = shapes_32.get_config()\n"
        "    config.num_steps = -7\n"
        "    return config\n"
    )
    assert "num_steps=-7" in refusal(f"--config={mine}")


def test_the_command_lists_its_verbs(installed):
    shown = xmc_jax(installed, "--help")
    assert shown.returncode == 0 and "\n  train     Trains a text-to-image model" in shown.stdout
    bare = xmc_jax(installed)
    assert bare.returncode == 2 and bare.stdout == shown.stdout
    wrong = xmc_jax(installed, "trian")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: no verb 'trian'; there are prepare, plan, train, ")
    assert "--workdir: Folder of a run" in xmc_jax(installed, "sample", "--help").stdout


def pins(name):
    """``{package: version}`` of a file of requirements."""
    lines = (ROOT / name).read_text().splitlines()
    found = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(package): version for package, version in found}


def test_pins_are_in_the_ranges_and_complete():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    run, test = pins("requirements.txt"), pins("requirements-test.txt")
    assert not run.keys() & test.keys()
    assert not {"tensorflow", "tensorflow-text", "torch", "libtpu", "pytest"} & run.keys()
    wanted = {
        "install_requires": (setup["options"]["install_requires"], run),
        "test": (setup["options.extras_require"]["test"], run | test),
        "onnx": (setup["options.extras_require"]["onnx"], run | test),
    }
    for field, (text, pinned) in wanted.items():
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        for requirement in map(Requirement, filter(None, lines)):
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), (field, requirement)
            if requirement.name == "jax" and "tpu" in requirement.extras:
                assert "libtpu" in pinned


def test_workflows_and_hooks_use_what_is_here():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    supported = SpecifierSet(setup["options"]["python_requires"])
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert len(workflows) == 3
    for path in workflows:
        text = path.read_text()
        for job in yaml.safe_load(text)["jobs"].values():
            versions = job.get("strategy", {}).get("matrix", {}).get("python", [])
            assert all(version in supported for version in versions), path
        for script in re.findall(r"launch/\w+\.sh|requirements[\w-]*\.txt", text):
            assert (ROOT / script).exists(), script
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        (dependency,) = hook["additional_dependencies"]
        package, version = dependency.split("==")
        assert pins("requirements-test.txt")[package] == version
