"""README.md, docs/, launch/, notebooks/ and configs/: what they name is there."""

import functools
import re

import pytest
import yaml

from tests import documents
from tests.documents import attributes_of_our_modules, code_of, commands_of, resolves, text_of
from tests.places import ROOT
from xmc_jax.configs import coco_256, shapes_32

PACKAGE = ROOT / "xmc_jax"
PAGES = [
    *sorted(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "launch" / "README.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *sorted((PACKAGE / "data" / "builders").glob("*/README.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
FOREIGN = {"mp_prefetch"}  # Identifiers of other packages that no source uses.
FILE = r"[\w.-]+\.(py|sh|md|txt|jsonl?|html|npz|onnx|safetensors|stablehlo|sbatch)"
DOCUMENTS = [
    *PAGES,
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".yaml", "")),
]


def each(paths):
    names = [str(path.relative_to(ROOT)) for path in paths]
    return pytest.mark.parametrize("path", paths, ids=names)


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each([*PAGES, ROOT / "CHANGELOG.md"])
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(path))
    for link in links:
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def missing_paths(text, folders):
    """Names below some folders of the checkout that are not there; NAME and * stand for any."""
    names = re.findall(rf"(?<![\w/$.~-])((?:{folders})/[\w./*-]*)", text)
    for name in (name.rstrip(".") for name in names):
        # `xmc_jax/launch/…` lies on a worker of a slice, whose checkout is ~/xmc_jax.
        placeholder = re.search(r"[A-Z]{4,}(?!\w*\.md)", name) or name.startswith("xmc_jax/launch/")
        if not placeholder and not list(ROOT.glob(name)):
            yield name


@each(DOCUMENTS)
def test_paths_exist(path):
    folders = "docs|configs|launch|notebooks|xmc_jax|tests|benchmarks"
    assert not list(missing_paths(text_of(path), folders))


def test_documents_that_sources_name_exist():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        missing = list(missing_paths(path.read_text(), "docs|configs|launch|notebooks"))
        assert not missing, f"{path}: {missing}"


@functools.cache
def source_words():
    """All words of the sources: the identifiers that a document may name."""
    files = [
        file
        for folder in ("xmc_jax", "configs", "benchmarks", "launch", "tests")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".sh", ".yaml", ".jinja", ".tsv")
        and not file.name.startswith("test_")
    ]
    files += [ROOT / "setup.cfg", ROOT / "requirements.txt"]
    return set(re.findall(r"\w+", " ".join(file.read_text() for file in files)))


@each(PAGES)
def test_files_and_identifiers_are_known(path):
    """``losses.py`` and ``word_weight`` in running text: some file or source has that name."""
    known = source_words()
    for kind, text in code_of(path):
        if kind != "span":
            continue
        if "NAME" in text or text in FOREIGN:
            continue
        if re.fullmatch(r"[\w-]+\.(py|sh|yaml|ipynb)", text):
            quoted = text.partition(".")[0] in known  # Written by a command, as generate.py is.
            assert quoted or list(ROOT.glob(f"*/**/{text}")), text
        elif re.fullmatch(r"[a-z]\w*_\w+|[A-Z][a-z]+[A-Z]\w+", text):
            assert text in known, text


def assert_flags_exist(module, flags):
    known = documents.flags_of(module)
    for flag in flags:
        if flag.startswith("config."):
            assert "config" in known, f"{module} has no --config"
        else:
            assert {flag, flag.removeprefix("no")} & known, f"{module} has no --{flag}"


@each(DOCUMENTS)
def test_commands_and_their_flags_exist(path):
    for code in code_of(path):
        for module, flags in commands_of(code):
            file = documents.module_file(module)
            assert file and (file.stem != "__init__" or (file.parent / "__main__.py").exists()), (
                f"no command python -m {module}"
            )
            assert_flags_exist(module, flags)


@functools.cache
def all_flags():
    """The flags of every command, of the launch scripts and of the tests."""
    modules = [f"xmc_jax.{path.stem}" for path in PACKAGE.glob("*.py")] + ["xmc_jax.study"]
    modules += [f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")]
    modules = [name for name in modules if not name.endswith("__")] + ["tests.conftest"]
    flags = set().union(*map(documents.flags_of, modules))
    for script in (ROOT / "launch").glob("*.sh"):
        flags |= set(re.findall(r"--([a-z_]+)", script.read_text()))
    return flags


@each(PAGES)
def test_flags_in_text_exist(path):
    """``--fsdp=4`` alone, or ``sample --step=N`` without ``python -m xmc_jax.``."""
    for kind, text in code_of(path):
        verb, _, rest = text.partition(" ")
        if kind == "span" and (PACKAGE / f"{verb}.py").exists() and rest.startswith("--"):
            assert_flags_exist(f"xmc_jax.{verb}", re.findall(r"--([\w.]+)", rest))
        elif kind == "span" and (flag := re.match(r"--((?!xla_)[a-z_]+)(?![\w.-])", text)):
            assert {flag[1], flag[1].removeprefix("no")} & all_flags(), text


@functools.cache
def base_configs():
    return [module.get_config() for module in (coco_256, shapes_32)]


def has_field(config, name):
    for part in name.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


@each(DOCUMENTS)
def test_config_fields_exist(path):
    """``config.a.b`` and ``--config.a.b=…``; also ``a.b`` alone in running text."""
    sections = [name for name, value in base_configs()[0].items() if hasattr(value, "items")]
    for kind, text in code_of(path):
        if path.suffix == ".sh":
            names = []  # Their commands are tests' own: `config.x` stands for any field.
        else:
            names = re.findall(r"\bconfig\.((?:[a-z]\w*\.)*[a-z]\w*)(?![\w/])", text)
        if kind == "span" and re.fullmatch(rf"({'|'.join(sections)})\.\w+", text):
            names += [] if re.fullmatch(FILE, text) else [text]
        for name in names:
            placeholder = re.search("[A-Z]", name) or name in ("section.field", "field")
            is_file = name in ("json", "py") or name.startswith("json.")
            if not (placeholder or is_file or resolves(f"xmc_jax.{name}")):
                assert all(has_field(config, name) for config in base_configs()), name


@each(PAGES)
def test_dotted_names_lead_to_something(path):
    """``xmc_jax.losses.info_nce`` and ``losses.info_nce``."""
    by_stem = documents.modules_by_stem()
    for kind, text in code_of(path):
        if kind == "python":
            for name in attributes_of_our_modules(_without_magics(text)):
                assert resolves(name), name
            continue
        for name in re.findall(r"(?<![\w./-])(?:xmc_jax|benchmarks)(?:\.[a-z]\w*)+", text):
            assert resolves(name) or name.endswith(".git"), name
        name = re.match(r"(?:[a-z]\w*\.)+\w+(?=$|\()", text) if kind == "span" else None
        if not name or re.fullmatch(FILE, text) or "NAME" in text:
            continue
        stem, _, rest = name[0].partition(".")
        is_field = stem == "config" or all(has_field(c, name[0]) for c in base_configs())
        if stem in by_stem and not is_field and not rest.endswith(".org"):
            assert any(resolves(f"{module}.{rest}") for module in by_stem[stem]), text


def _without_magics(source):
    return "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))


def test_the_diagram_shows_the_layers():
    """`python -m tests.documents` draws it again."""
    text = documents.CODE_MD.read_text()
    assert text == documents.with_diagram(text)
    assert documents.diagram([{"train", "plan"}, {"losses"}]).splitlines()[1:-1] == [
        "flowchart TD",
        '    layer1["plan · train"]',
        '    layer2["losses"]',
        "    layer1 --> layer2",
    ]


def test_the_drawing_of_the_data_flow_names_files():
    names = re.findall(r"[\w/]+\.py", (ROOT / "docs" / "data_flow.svg").read_text())
    assert len(names) >= 6 and not [name for name in names if not (PACKAGE / name).exists()]


def test_every_folder_is_in_the_layout():
    text = documents.CODE_MD.read_text()
    for init in PACKAGE.glob("*/__init__.py"):
        assert f"      {init.parent.name}/ " in text, init.parent.name
    for path in PACKAGE.glob("*.py"):
        assert path.name in text or path.name == "__init__.py", path.name


def test_the_citation_is_of_the_released_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.M)[1]
    assert citation["version"] == version
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`python -m xmc_jax.train --config=c --nofsdp [--step=N]`", ("span", "xmc_jax.train")),
        (
            "    python -m xmc_jax.train --config=c \\\n      --nofsdp [--step=N]  # --x\n",
            ("shell",),
        ),
    ],
)
def test_commands_are_read_whole(tmp_path, text, found):
    page = tmp_path / "page.md"
    page.write_text(text)
    (code,) = code_of(page)
    assert code.kind == found[0]
    assert commands_of(code) == [("xmc_jax.train", ["config", "nofsdp", "step"])]


def test_what_is_not_there_is_found():
    assert resolves("xmc_jax.losses.info_nce") and resolves("xmc_jax.losses")
    assert not resolves("xmc_jax.losses.no_such_loss") and not resolves("xmc_jax.no_such_module")
    with pytest.raises(AssertionError, match="has no --workdirr"):
        assert_flags_exist("xmc_jax.train", ["workdirr"])
    assert not has_field(base_configs()[0], "model.no_such_field")
