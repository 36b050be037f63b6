"""hub.py: models go to a Hub and come from there, by the real client, to a server on loopback."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from tests import hub_server, small_run
from tests.hub_server import HubServer
from tests.places import ROOT
from tests.verbs import COMPILE_FAST, assert_refused, foreign_lines
from xmc_jax.demo import demo_folder
from xmc_jax.errors import UserError
from xmc_jax.inference import exported, hub

NAME, ADDRESS = "user/one", "hf://user/one"
WEIGHTS = "GET /weights.safetensors"

# In a process of one device; without network.
DRAW = """
import sys
import numpy as np
import xmc_jax
from xmc_jax.study.build import read_images
model = xmc_jax.load(sys.argv[1])
images = model.generate(["red circles"], seed=0, num_images=2)
np.save(sys.argv[2], images)
np.testing.assert_array_equal(read_images(sys.argv[1], ["red circles"], seed=0), images[:1])
"""
PUSH = """
import sys
from xmc_jax.inference import hub
print(hub.push(*sys.argv[1:]))
"""
LOCAL = """
import sys
import xmc_jax.sample
from xmc_jax.inference import hub, loading
hub.local_folder("somewhere")
heavy = ("httpx2", "huggingface_hub.hf_api", "huggingface_hub.errors", "tqdm")
print(*(name for name in heavy if name in sys.modules))
"""


def run(code, *arguments, **environment):
    environment = os.environ | {"XLA_FLAGS": COMPILE_FAST} | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The server, for the client of this process and of those that it starts; logged in as user."""
    constants = importlib.import_module("huggingface_hub.constants")
    with HubServer() as server, monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        patch.setenv("HF_HOME", str(tmp_path / "home"))
        patch.setenv("HF_TOKEN", "hf_user")
        patch.setenv("HF_HUB_DISABLE_XET", "1")  # The server has no such storage.
        importlib.reload(constants)
        yield server
    importlib.reload(constants)


@pytest.fixture
def published(web):
    """The demo, published. Every file is stored in git.

    The client uploads to LFS by an argument that its HTTP library warns of; subprocesses test that.
    """
    web.large = ()
    hub.push(demo_folder(), NAME)
    return web


def unwanted(folder):
    """Parts of files in a cache or a folder."""
    return [path for path in folder.rglob("*") if path.name.endswith((".incomplete", ".tmp"))]


def test_the_verbs_publish_and_draw(web, folder, tmp_path, run_verb):
    workdir, out = small_run.make(folder), tmp_path / "one"
    done = run_verb("export", f"--workdir={workdir}", f"--out={out}", f"--push={NAME}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f'published at {web.url}/{NAME}: xmc_jax.load("{ADDRESS}")\n')
    assert not foreign_lines(done.stderr) and "uploading" in done.stderr
    local = {path.name: path.read_bytes() for path in out.iterdir()}
    assert web.files(NAME) == local | {".gitattributes": web.files(NAME)[".gitattributes"]}
    card = local["README.md"].decode()
    assert f'xmc_jax.load("{ADDRESS}")\n' in card and "\n# one\n" in card
    assert sum(line.endswith("/commit/main") for line in web.log) == 1

    images = [f"--workdir={ADDRESS}", "--caption=red circles", "--num_images=2"]
    done = run_verb("sample", *images, f"--out={tmp_path / 'images'}")
    assert done.returncode == 0, done.stderr
    assert not foreign_lines(done.stderr) and "notice: " not in done.stderr
    web.log.clear()
    done = run(DRAW, ADDRESS, tmp_path / "images.npy", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert f"notice: {ADDRESS} is taken from the cache" in done.stderr and not web.log
    generated = np.load(tmp_path / "images.npy")
    for index, image in enumerate(generated):
        written = Image.open(tmp_path / "images" / f"0000_red-circles_{index}.png")
        np.testing.assert_array_equal(written, image)
    assert generated.std() > 0

    pages = [ADDRESS, out, "--nopictures", f"--out={tmp_path / 'pages'}"]
    done = run_verb("compare", *pages, f"--captions_file={ROOT / 'LICENSE'}")
    assert done.returncode == 0, done.stderr
    assert "user/one" in (tmp_path / "pages" / "compare.md").read_text()


def test_what_needs_a_folder_is_refused(web, run_verb):
    assert_refused(run_verb("evaluate", f"--workdir={ADDRESS}"), ADDRESS, "hf download")
    with pytest.raises(UserError, match="is on the Hugging Face Hub: this needs a folder"):
        exported.open_folder(ADDRESS)
    assert not web.log


def test_a_local_folder_does_not_load_the_client():
    done = run(LOCAL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"


def test_only_what_loading_reads_is_fetched_and_only_once(published):
    found = Path(hub.local_folder(ADDRESS))
    manifest = exported.read_manifest(demo_folder())
    assert {path.name for path in found.iterdir()} == {*manifest["sha256"], exported.MANIFEST}
    for path in found.iterdir():
        assert path.read_bytes() == (Path(demo_folder()) / path.name).read_bytes()
    published.log.clear()
    assert Path(hub.local_folder(ADDRESS)) == found
    assert not any("/resolve/" in line for line in published.log)
    assert hub.local_folder(str(found)) == str(found)


def test_a_revision(published):
    first = list(published.commits[NAME])[-1]
    hub.push(demo_folder("emoji"), NAME)
    steps = [
        exported.read_manifest(hub.local_folder(address))["step"]
        for address in (f"{ADDRESS}@{first}", ADDRESS)
    ]
    assert steps == [exported.read_manifest(demo_folder(x))["step"] for x in ("shapes", "emoji")]
    with pytest.raises(UserError, match=r"@none: the Hub answers 404 .*rev.*; check the name"):
        hub.local_folder(f"{ADDRESS}@none")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (hub_server.changed(lambda data: data[:-9]), "weights.safetensors"),
        (hub_server.changed(lambda data: bytes(9) + data[9:]), "weights.safetensors is not the"),
        (hub_server.status(403), "answers 403"),
    ],
)
def test_what_arrives_damaged_is_named_and_fetched_again(published, tmp_path, fault, words):
    published.faults[WEIGHTS] = fault
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{ADDRESS}: .*{words}") as error:
            hub.local_folder(ADDRESS)
        assert len(str(error.value).splitlines()) == 1
    assert not unwanted(tmp_path)
    published.faults.clear()
    hub.local_folder(ADDRESS)


def test_a_connection_that_breaks_is_resumed(published):
    published.faults[WEIGHTS] = hub_server.hung_up_once()
    hub.local_folder(ADDRESS)
    assert sum(line.endswith("/weights.safetensors") for line in published.log) == 3


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_damaged_cache_heals(published, name):
    path = (Path(hub.local_folder(ADDRESS)) / name).resolve()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{name} .*; its copy in the cache is removed"):
        hub.local_folder(ADDRESS)
    hub.local_folder(ADDRESS)


def test_a_hub_out_of_reach(published, capsys):
    fault = published.faults["GET /user/one"] = hub_server.status(500)
    with pytest.raises(UserError, match=r"is not in the cache as a whole, .*500"):
        hub.local_folder(ADDRESS)
    published.faults.clear()
    found = hub.local_folder(ADDRESS)
    published.faults["GET /user/one"] = fault
    assert hub.local_folder(ADDRESS) == found
    published.close()
    capsys.readouterr()
    assert hub.local_folder(ADDRESS) == found
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines if "..." not in line][-1] == "notice"
    with pytest.raises(UserError, match=r"hf://user/two is not in the cache .*refused"):
        hub.local_folder("hf://user/two")
    Path(found, "vocab.txt").unlink()
    with pytest.raises(UserError, match="is not in the cache as a whole"):
        hub.local_folder(ADDRESS)
    with pytest.raises(UserError, match=r"--push=user/one: .*refused"):
        hub.open_repository(NAME)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://user/none", "404 Not Found .*; check the name"),
        ("hf://user/other", "holds no exported model"),
        ("hf://one", "write hf://USER/NAME"),
        ("hf://datasets/user/one", "is not the address of a model"),
        ("hf://user/one/x", "is not the address of a model"),
        ("hf://user/one@", "write hf://USER/NAME"),
    ],
)
def test_addresses_of_nothing(web, tmp_path, address, words):
    web.commit("user/other", {"config.json": b"{}", "large.bin": b"of another library"})
    with pytest.raises(UserError, match=words):
        hub.local_folder(address)
    assert not any(path.name == "large.bin" for path in tmp_path.rglob("*"))


def test_a_private_model_needs_a_token(published, monkeypatch):
    published.private.add(NAME)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"hf://user/one: .*401 .*`hf auth login` or set HF_TOKEN"):
        hub.local_folder(ADDRESS)
    monkeypatch.setenv("HF_TOKEN", "hf_user")
    hub.local_folder(ADDRESS)


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("one", "hf_user", "is not the name of a repository: write --push=USER/NAME"),
        ("user/one@v1", "hf_user", "is not the name of a repository"),
        ("a b/c", "hf_user", "must use alphanumeric chars"),
        ("user/one", "", "needs a token that may write there: log in with `hf auth login`"),
        ("user/one", "hf_!", "401 .*; check the name, and log in"),
        ("user/other", "hf_user", r"holds something else \(config.json, and no model.json\)"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_the_export(web, monkeypatch, name, token, words):
    web.commit("user/other", {"config.json": b"{}", "README.md": b"of mine"})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words):
        hub.open_repository(name)
    assert web.commits.keys() == {"user/other"}


def test_the_verb_refuses_it_before_jax(web, tmp_path, monkeypatch, run_verb):
    monkeypatch.delenv("HF_TOKEN")
    out = tmp_path / "out"
    done = run_verb("export", f"--workdir={demo_folder()}", f"--out={out}", f"--push={NAME}")
    assert_refused(done, "--push=user/one needs a token")
    assert not any(out.iterdir())


def test_a_new_model_replaces_the_old_one_and_leaves_the_rest(published):
    old = published.files(NAME)
    mine = {"LICENSE": b"mine", "web/mine.txt": b"mine"}
    published.commit(NAME, old | mine | {exported.SCRIPT: b"of an older model"})
    hub.open_repository(NAME)
    hub.push(demo_folder("emoji"), NAME)
    new = {path.name: path.read_bytes() for path in Path(demo_folder("emoji")).iterdir()}
    rest = {".gitattributes": old[".gitattributes"]}
    assert published.files(NAME) == new | mine | rest
    published.commit(NAME, published.files(NAME) | {exported.PAGE: b"of an older model"})
    hub.push(demo_folder("emoji"), NAME)
    assert published.files(NAME) == new | {"LICENSE": b"mine"} | rest  # `web` was of its page.


@pytest.mark.parametrize(
    ("path", "fault", "words"),
    [
        ("POST /commit/main", hub_server.status(500), "answers 500 .*; try again"),
        ("POST /commit/main", hub_server.status(409, "busy"), r"\(busy\); somebody else"),
        ("POST /validate-yaml", hub_server.status(400), "Invalid metadata in README.md"),
        ("POST /preupload/main", None, "412 .*A commit has happened since.*; somebody else"),
    ],
)
def test_a_push_that_fails_changes_nothing(published, path, fault, words):
    def overtake(handler):
        published.commit(NAME, published.files(NAME) | {"LICENSE": b"mine"})
        return True

    before = published.files(NAME)
    published.faults[path] = fault or overtake
    with pytest.raises(UserError, match=f"--push=user/one: .*{words}") as error:
        hub.push(demo_folder("emoji"), NAME)
    assert len(str(error.value).splitlines()) == 1
    assert {x: published.files(NAME)[x] for x in before} == before


def test_a_large_file_that_is_refused(web):
    web.faults["PUT /large"] = hub_server.status(403)
    done = run(PUSH, demo_folder(), NAME)
    assert "UserError: --push=user/one: the Hub answers 403 Forbidden" in done.stderr
    assert web.files(NAME).keys() == {".gitattributes"}


def test_a_token_that_may_only_read(published, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_user_read")
    with pytest.raises(UserError, match=r"403 Forbidden \(You don't have the rights"):
        hub.push(demo_folder("emoji"), NAME)


@pytest.mark.parametrize("name", ["shapes", "emoji"])
def test_cards_of_the_demos_are_valid(web, name):
    card = huggingface_hub.ModelCard((Path(demo_folder(name)) / exported.CARD).read_text())
    card.validate()
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-to-image"
