"""Which way imports point, what may be imported where, and how long files may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import ROOT

PACKAGE = ROOT / "xmc_jax"
MAX_FILE_LINES = 400
MAX_LINES, MAX_CODE_LINES = 23_650, 14_820  # Code: without blank lines, comments and docstrings.
MAX_ROOT_FILES = 22
MAX_INNER_IMPORTS = 25

VERBS = {"train", "evaluate", "sample", "prepare", "plan", "report", "compare", "export"}
# Imports point down this list only, or stay in one folder. A folder counts as one part. The diagram
# in docs/code.md is drawn from it.
LAYERS = [
    VERBS,
    {"training"},
    {"evaluation", "study"},
    {"inference", "planning"},
    {"experiment", "pages"},
    {"run", "emoji"},
    {"data"},
    {"shapes", "train_step"},
    {"objectives", "train_state", "cli"},
    {"models", "losses", "frozen", "metrics", "parallel"},
    {"attention", "accumulation", "images", "files", "demo"},
    {"types", "errors", "console", "configs"},
]
RANK = {part: rank for rank, layer in enumerate(reversed(LAYERS)) for part in layer}

# What runs where only these exist: the mathematics.
PURE = {"types", "errors", "attention", "accumulation", "images", "models", "losses", "metrics"}
PURE |= {"parallel", "train_state", "objectives", "train_step"}
PURE_NEEDS = {"jax", "flax", "optax", "numpy", "jaxtyping", "scipy"}  # jax itself needs scipy.

# Who may import what at the top of a file.
HEAVY = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "keras", "keras_hub", "grain"}
AT_TOP = dict.fromkeys(HEAVY, {"data", "frozen"})
AT_TOP |= {"tensorflow": set(), "tensorflow_text": set()}  # Those who need it load it themselves.
AT_TOP |= {
    "ml_collections": VERBS
    | {"configs", "run", "cli", "experiment", "planning", "training", "evaluation", "inference"},
    "absl": VERBS | {"cli", "study", "shapes", "emoji"},
    "onnx": {"inference"},
    "huggingface_hub": {"inference"},
    "orbax": {"run"},
    "tensorboard": {"run"},
}


class Import(NamedTuple):
    file: str
    line: int
    part: str  # Of the importing file: "models", "train", …
    name: str  # What is imported: "xmc_jax.models.layers", "jax", …
    at_top: bool

    def __str__(self):
        return f"{self.file}:{self.line} imports {self.name}"


def part_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def imports_of(source: str, file: str, part: str) -> list[Import]:
    tree = ast.parse(source)
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            names = [node.module]
            if node.module == "xmc_jax":
                names = [f"xmc_jax.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(file, node.lineno, part, name, node not in inside) for name in names]
    return found


def faults_of(imports: list[Import]) -> list[str]:
    faults = []
    for found in imports:
        root = found.name.split(".")[0]
        if root == "xmc_jax":
            target = part_of(found.name)
            if target and target != found.part and RANK[target] >= RANK[found.part]:
                faults.append(f"{found}: imports point down")
        elif root in sys.stdlib_module_names:
            continue
        elif found.part in PURE and found.at_top and root not in PURE_NEEDS:
            faults.append(f"{found}: the mathematics needs only {sorted(PURE_NEEDS)}")
        elif root in AT_TOP:
            if found.part not in AT_TOP[root]:
                faults.append(str(found))
    return faults


def files() -> list[tuple[Path, str]]:
    """Python files of the package and the part each belongs to."""
    found = []
    for path in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "configs").glob("*.py")]):
        relative = path.relative_to(PACKAGE)
        if relative != Path("__init__.py"):
            found.append((path, relative.parts[0].removesuffix(".py")))
    return found


def test_every_file_has_its_place():
    unknown = {part for _, part in files()} - RANK.keys()
    assert not unknown, f"not in LAYERS: {sorted(unknown)}"
    assert len(files()) > 10


def test_imports_point_down_and_stay_where_they_belong():
    faults = [
        fault
        for path, part in files()
        for fault in faults_of(
            imports_of(path.read_text(), str(path.relative_to(PACKAGE.parent)), part)
        )
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "from xmc_jax import losses"),
        ("losses", "import xmc_jax.data.catalog"),
        ("types", "from xmc_jax.images import to_uint8"),
        ("train_state", "from xmc_jax.train_step import make_train_step"),
        ("run", "def f():\n  from xmc_jax.train import train"),
        ("sample", "from xmc_jax import evaluate"),
        ("losses", "import sklearn"),
        ("data", "import tensorflow as tf"),
        ("metrics", "def f():\n  import keras"),
        ("training", "import tensorflow_datasets as tfds"),
        ("train", "from tensorboard.plugins.hparams import api"),
        ("train_step", "from ml_collections import ConfigDict"),
        ("data", "import ml_collections"),
        ("data", "from absl import flags"),
    ],
)
def test_the_rules_catch(part, source):
    assert len(faults_of(imports_of(source, "file.py", part))) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "from xmc_jax.models import layers\nfrom xmc_jax import attention"),
        ("train_step", "from xmc_jax import images, losses\nimport optax, functools"),
        ("data", "import grain\nimport tensorflow_datasets as tfds"),
        ("run", "from tensorboard.plugins.hparams import api"),
        ("run", "import ml_collections\nfrom xmc_jax.data import catalog"),
        ("images", "def f():\n  from PIL import Image"),
    ],
)
def test_the_rules_allow(part, source):
    assert faults_of(imports_of(source, "file.py", part)) == []


def test_the_mathematics_loads_none_of_the_heavy_packages():
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path, part in files()
        if part in PURE
    ]
    assert "xmc_jax.train_step" in modules
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"jax", "flax", "xmc_jax"} <= loaded
    assert not loaded & (HEAVY | {"tensorboard", "ml_collections"})


def test_nothing_unpickles():
    """But for the one reader that takes arrays alone, of a file whose hash is known."""
    risky = (
        r"pickle\.loads?\(|allow_pickle=True|import (torch|joblib|dill|marshal)\b"
        r"|torch\.load\(|\beval\(|\bexec\("
    )
    found = {
        f"{path.name}: {line.strip()}"
        for path, _ in files()
        for line in path.read_text().splitlines()
        if re.search(risky, line.partition("#")[0])
    }
    assert found == set()


def num_code_lines(source: str) -> int:
    """Lines of a file that are neither blank, nor comment, nor docstring."""
    tree = ast.parse(source)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in docstrings
        for number, line in lines
    )


def test_files_and_library_stay_short():
    sources = {path: path.read_text() for path, part in files() if part != "configs"}
    lines = {path: len(source.splitlines()) for path, source in sources.items()}
    long = [f"{path.relative_to(PACKAGE)}: {n}" for path, n in lines.items() if n > MAX_FILE_LINES]
    assert not long
    assert sum(lines.values()) <= MAX_LINES
    assert sum(map(num_code_lines, sources.values())) <= MAX_CODE_LINES


def test_the_root_stays_small_and_folders_say_what_lives_in_them():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ROOT_FILES
    for path in PACKAGE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text, path
        if path.parent != PACKAGE:
            assert len(text.splitlines()) <= 5, path  # Three lines, apart from blank ones.


def test_few_imports_stand_inside_functions_and_each_has_a_reason():
    found, unexplained = 0, []
    for path, part in [(PACKAGE / "__init__.py", "train"), *files()]:
        source = path.read_text()
        lines = source.splitlines()
        for inner in imports_of(source, str(path.relative_to(PACKAGE)), part):
            if not inner.at_top:
                found += 1
                first = inner.line - 1  # Imports that follow each other share their reason.
                while lines[first - 1].lstrip().startswith(("import ", "from ")):
                    first -= 1
                if "#" not in lines[first] + lines[first - 1]:
                    unexplained.append(str(inner))
    assert not unexplained, "\n".join(unexplained)
    assert found <= MAX_INNER_IMPORTS


def test_lines_of_code():
    source = '"""Doc.\n\nMore."""\n\n# Why.\nx = """a\nb"""  # Code.\n\ndef f():\n    "Doc."\n'
    assert num_code_lines(source) == 3
