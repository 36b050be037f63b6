"""README.md, docs/ and notebooks/: links lead somewhere, and commands have the flags they name."""

import re

import pytest
import yaml

from tests.places import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch/README.md"]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    local = [link for link in links if "://" not in link]
    assert links or path.name not in ("README.md", "faq.md")
    for link in local:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_commands_have_the_flags_they_name(path):
    sources = "".join(file.read_text() for file in (ROOT / "xmc_jax").glob("*.py"))
    known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', sources))
    text = path.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        for verb, rest in re.findall(r"xmc_jax\.(\w+)((?: +[\[-].*)?)$", line):
            if (ROOT / "xmc_jax" / f"{verb}.py").exists():
                for flag in re.findall(r"--(\w+)", rest):
                    flag = flag if flag in known else flag.removeprefix("no")
                    assert flag in known | {"config", "help"}, line


def test_the_citation_is_of_the_released_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.M)[1]
    assert citation["version"] == version
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text()
