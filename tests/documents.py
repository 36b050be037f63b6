"""What the documents say, in a form that tests can check; and the diagram of the layers.

python -m tests.documents    # draws the diagram in docs/code.md again
"""

import ast
import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

from tests.places import ROOT
from tests.test_imports import LAYERS, PACKAGE

CODE_MD = ROOT / "docs" / "code.md"
_BEGIN, _END = "<!-- layers: begin -->\n", "<!-- layers: end -->\n"

# Packages whose modules can be run or imported in a document.
_OURS = ("xmc_jax", "benchmarks", "tests", "configs")


class Code(NamedTuple):
    """A piece of code in a document.

    Attributes:
      kind: ``"span"`` (in a line of text), ``"shell"`` or ``"python"`` (a block).
      text: The code; the lines of a shell block are joined where they end in a backslash.
    """

    kind: str
    text: str


def text_of(path: Path) -> str:
    """A document as text; of a notebook, the text cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n\n".join("".join(cell["source"]) for cell in _cells(path, "markdown"))


def code_of(path: Path) -> list[Code]:
    """The code spans and code blocks of a document, and the code cells of a notebook."""
    if path.suffix == ".py":  # A config: its docstring.
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        return [Code("shell", docstring)]
    found = []
    if path.suffix == ".ipynb":
        found += [Code("python", "".join(cell["source"])) for cell in _cells(path, "code")]
    text = text_of(path)
    if path.suffix not in (".md", ".ipynb"):  # A script: all of it.
        return [Code("shell", re.sub(r"\\\n *#? *", " ", text))]
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
    for language, block in fence.findall(text):
        if language in ("python", ""):
            found.append(Code("python" if language else "shell", block.replace("\\\n", " ")))
    text = fence.sub("", text)
    indented = re.compile(r"(?:^    +\S.*\n?(?:^\n(?=    +\S))?)+", re.M)
    found += [Code("shell", block.replace("\\\n", " ")) for block in indented.findall(text)]
    spans = re.findall(r"`([^`]+)`", indented.sub("\n", text))
    return found + [Code("span", " ".join(span.split())) for span in spans]


def _cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def commands_of(code: Code) -> list[tuple[str, list[str]]]:
    """The ``python -m`` commands in a piece of code: module and names of flags, in order."""
    found = []
    for line in code.text.splitlines():
        # A command ends at a comment, a closing parenthesis or quote, and other shell syntax.
        for module, rest in re.findall(r"python3? -m ([\w.]+)((?: [^#;|&`)]*)?)", line):
            if module.split(".")[0] in _OURS:
                found.append((module, re.findall(r"(?<=[ \[])--([\w.]+)", rest)))
    return found


def module_file(name: str) -> Path | None:
    """The file of one of our modules by its dotted name; of a package, its ``__init__.py``."""
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.exists():
            return file
    return None


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def names_of(path: Path) -> frozenset[str]:
    """The names that a module defines or imports at its top level, and a package's modules."""
    names = {file.stem for file in path.parent.iterdir()} if path.name == "__init__.py" else set()
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return frozenset(names)


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to one of our modules or to a top-level name of one.

    What follows the top-level name (a method, an attribute) is not looked up.
    """
    parts = dotted.split(".")
    file = module_file(parts[0])
    for end in range(2, len(parts) + 1):
        longer = module_file(".".join(parts[:end]))
        if longer is None:
            return file is not None and parts[end - 1] in names_of(file)
        file = longer
    return file is not None


@functools.cache
def modules_by_stem() -> dict[str, list[str]]:
    """The dotted names of the package's modules by the last part of their names."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found.setdefault(parts[-1], []).append(".".join(parts))
    return found


@functools.cache
def flags_of(module: str) -> frozenset[str]:
    """The flags of a module's command line, by its source: its own and those that it asks for."""
    file = module_file(module)
    if file.name == "__init__.py":
        file = file.parent / "__main__.py"
    flags = _defined_flags(_tree(file))
    used = {node.attr for node in ast.walk(_tree(file)) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(_tree(file)) if isinstance(node, ast.Name)}
    for name in _imports(_tree(file)):
        other = module_file(name) if name.split(".")[0] in _OURS else None
        for node in _tree(other).body if other else []:
            if not isinstance(node, ast.FunctionDef) or node.name in used:
                flags |= _defined_flags(node)
    return frozenset(flags | {"help"})


def _defined_flags(tree: ast.AST) -> set[str]:
    """The first arguments of ``DEFINE_…`` and ``add_argument``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            name = node.args[0]
            if node.func.attr.startswith("DEFINE_") or node.func.attr == "add_argument":
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    found.add(name.value.lstrip("-"))
    return found


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def attributes_of_our_modules(source: str) -> list[str]:
    """The dotted names that Python code reads from our modules, and those that it imports."""
    tree = ast.parse(source)
    modules, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                (f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names
            ]
        else:
            continue
        for dotted, name in names:
            if dotted.split(".")[0] in _OURS:
                found.append(dotted)
                modules[name] = dotted if "." not in name else name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module and module_file(module):
                found.append(f"{module}.{node.attr}")
    return found


def diagram(layers: list[set[str]]) -> str:
    """The layers as a Mermaid diagram, which GitHub renders: the topmost may import all others."""
    lines = ["```mermaid", "flowchart TD"]
    for number, layer in enumerate(layers, start=1):
        parts = [f"{part}/" if (PACKAGE / part).is_dir() else part for part in sorted(layer)]
        lines.append(f'    layer{number}["{" · ".join(parts)}"]')
    arrow = " --> ".join(f"layer{number}" for number in range(1, len(layers) + 1))
    return "\n".join([*lines, f"    {arrow}", "```", ""])


def with_diagram(text: str) -> str:
    """A document with the diagram of `LAYERS` between its markers."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{diagram(LAYERS)}{_END}{after}"


if __name__ == "__main__":
    CODE_MD.write_text(with_diagram(CODE_MD.read_text()))
