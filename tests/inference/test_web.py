"""web/: in a real browser the page draws what `generate` generates, from its folder alone."""

import json
import os
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from etils import epath

import xmc_jax
from benchmarks.drawing_page import serve
from tests.data.test_wordpiece import WORDS
from xmc_jax.data.wordpiece import WordPiece, clean, uncase
from xmc_jax.demo import demo_folder
from xmc_jax.errors import UserError
from xmc_jax.files import cache_dir
from xmc_jax.inference import explore, exported
from xmc_jax.inference.batches import make_noise
from xmc_jax.inference.export import export
from xmc_jax.inference.web import page, runtime
from xmc_jax.run.folder import captions_path

CAPTIONS = ["a red heart", "a woman cook with dark skin", "  A full MOÔN "]
# Characters that newer versions of Unicode than Python's put into another class.
RECLASSIFIED = {"\U0001171e"}


@pytest.fixture(scope="module")
def archive():
    path = Path(cache_dir()) / runtime.ARCHIVE
    if not path.exists():
        pytest.skip(
            "NO ONNX RUNTIME FOR BROWSERS, so nobody has tried to draw in one; get it: "
            f"npm pack {runtime.PACKAGE.name} --pack-destination={path.parent}"
        )
    return path


@pytest.fixture(scope="module")
def site(folder, archive, run_verb):
    """The folder of the demo of emoji with its page."""
    out = folder / "emoji"
    arguments = f"--workdir={demo_folder('emoji')}", f"--out={out}", "--nostandalone"
    done = run_verb("export", *arguments, "--web", f"--onnxruntime_web={archive}")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def address(site):
    """Of the page, below another folder, as on GitHub Pages."""
    with serve(site.parent) as root:
        yield root.replace(exported.PAGE, f"{site.name}/{exported.PAGE}")


@pytest.fixture(scope="module")
def model():
    return xmc_jax.load_demo("emoji").networks


def wait(page):
    """Until all images are drawn."""
    page.locator('#images[aria-busy="false"]').wait_for()


def draw(page, **values):
    """Fills in controls by their ids, and waits for the images: pixels."""
    for name, value in values.items():
        page.locator(f"#{name.replace('_', '-')}").fill(str(value))
    page.locator("#caption").press("Enter")
    wait(page)
    assert page.locator("#error").is_hidden(), page.locator("#error").text_content()
    return np.stack([read_canvas(x)[..., :3] for x in page.locator("#images [role=img]").all()])


def read_canvas(locator):
    """RGBA."""
    data = locator.evaluate(
        "x => [x.width, ...x.getContext('2d').getImageData(0, 0, x.width, x.height).data]"
    )
    return np.array(data[1:], np.uint8).reshape(-1, data[0], 4)


def assert_close(images, expected):
    """The page's text encoder is stored in float16, which moves pixels by a level."""
    assert images.shape == expected.shape
    assert np.abs(images.astype(int) - expected.astype(int)).max() <= 1


def test_pixels_are_those_of_generate(browser, address, model):
    page = browser.open(address)
    wait(page)
    for caption in CAPTIONS:
        images = draw(page, caption=caption, seed=2**31 - 1, count=2)
        assert_close(images, model.generate([caption], seed=2**31 - 1, num_images=2))
    assert re.match(r"Drew 2 images in \d+\.\d\d s\.", page.locator("#status").text_content())
    assert page.faults == []


def test_sliders_and_maps_are_those_of_explore(browser, address, model):
    page = browser.open(address)
    wait(page)
    first, second = CAPTIONS[:2]
    fields = {"caption": first, "seed": 3, "other_seed": 8, "other_caption": second, "count": 1}
    found = explore.attention_maps(model, first, seed=3)
    draw(page, **fields)
    words = page.locator("#words button")
    assert words.all_text_contents() == ["(start)", "a", "red", "heart", "(end)"]
    assert page.locator("#images .map").is_hidden()
    words.nth(3).hover()
    shade = read_canvas(page.locator("#images .map"))[..., 3]
    np.testing.assert_allclose(shade, 190 * (1 - found.maps[3] / found.maps[3].max()), atol=1)

    noises = explore.interpolate_noise(model, first, seeds=(3, 8), num_images=3)
    captions = explore.interpolate_captions(model, (first, second), seed=3, num_images=3)
    for share, noise, caption in zip((0, 50, 100), noises, captions, strict=True):
        assert_close(draw(page, noise_share=share, caption_share=0)[0], noise)
        images = draw(page, noise_share=0, caption_share=share)
        exact = {0: first, 100: second}  # There explore.py repeats words of the shorter caption.
        ends = model.generate([exact[share]], seed=3)[0] if share in exact else caption
        assert_close(images[0], ends)
        assert (words.count() == 0) == (share == 50) == page.locator("#no-maps").is_visible()


def test_it_works_by_keyboard_alone_and_on_a_phone(browser, address, model):
    page = browser.open(address, width=390)
    wait(page)

    def go_to(name):
        for _ in range(40):
            page.keyboard.press("Tab")
            found = "document.activeElement.id || document.activeElement.textContent"
            if page.evaluate(found) == name:
                return
        raise AssertionError(f"Tab does not reach {name}")

    def images():
        wait(page)
        return np.stack([read_canvas(x) for x in page.locator("#images [role=img]").all()])

    go_to("caption")
    page.keyboard.press("Control+A")
    page.keyboard.type(CAPTIONS[1])
    page.keyboard.press("Enter")
    assert_close(images()[..., :3], model.generate([CAPTIONS[1]], seed=0, num_images=4))
    go_to("a red apple")
    page.keyboard.press("Enter")
    assert page.locator("#caption").input_value() == "a red apple"
    before = images()
    go_to("new-seed")
    page.keyboard.press("Enter")
    assert np.any(images() != before)
    go_to("count")
    page.keyboard.press("End")
    page.locator("figure").nth(15).wait_for()
    assert len(images()) == 16
    go_to("apple")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    assert page.locator("#words [aria-pressed=true]").all_text_contents() == ["apple"]
    assert page.locator("#images .map").first.is_visible()
    page.keyboard.press("Shift+Tab")
    with page.expect_download() as download:
        for _ in range(40):
            page.keyboard.press("Shift+Tab")
            label = page.evaluate("document.activeElement.getAttribute('aria-label')")
            if label == "Save image 16 as PNG":
                break
        page.keyboard.press("Enter")
    assert re.fullmatch(r"a-red-apple_\d+_15\.png", download.value.suggested_filename)
    go_to("noise-share")
    before = images()
    page.keyboard.press("End")
    page.locator("#noise-value", has_text="100 %").wait_for()
    page.locator('#images[aria-busy="true"]').wait_for()
    assert np.any(images() != before)
    browser.assert_fits(page)


def test_wrong_input_is_told_and_forgotten(browser, address):
    page = browser.open(address)
    wait(page)
    error = page.locator("#error")
    for name, value, words in (
        ("caption", " \t", "A caption is empty"),
        ("seed", "-1", "A seed is a whole number from 0 to 2147483647."),
        ("seed", "", "A seed is a whole number from 0 to 2147483647."),
    ):
        page.locator(f"#{name}").fill(value)
        error.filter(has_text=words).wait_for()
        page.locator(f"#{name}").fill("1")
        error.wait_for(state="hidden")
    draw(page, caption=" ".join(["☃ heart"] * 40))
    status = page.locator("#status").text_content()
    assert "word pieces; the last" in status and "does not know" in status
    assert page.faults == []


def test_images_stand_together_only_with_those_of_their_caption(browser, address):
    page = browser.open(address)
    draw(page, caption="a red apple", count=16, noise_share=100, other_seed=9)
    page.locator("#caption").fill("a cat face")
    page.locator('#images [aria-label="Image 1: a cat face"]').wait_for()
    page.locator("#caption").fill("")
    page.locator("#error", has_text="A caption is empty").wait_for()
    labels = [x.get_attribute("aria-label") for x in page.locator("#images [role=img]").all()]
    assert labels and all(label.endswith("a cat face") for label in labels)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save image 1 as PNG").click()
    assert download.value.suggested_filename == "a-cat-face_9_0.png"


@pytest.mark.parametrize("name", [f"web/{runtime.WASM}", "vocab.txt", "web/noise.js"])
def test_a_missing_file_is_told(browser, site, tmp_path, name):
    out = shutil.copytree(site, tmp_path / "out", copy_function=os.link)
    (out / name).unlink()
    with serve(out) as address:
        page = browser.open(address)
        page.locator("#error", has_text="" if name.endswith(".js") else name).wait_for()
    words = "a file of the folder web/ is missing" if name.endswith(".js") else "answers 404"
    assert words in page.locator("#error").text_content()
    assert page.locator("#loading").is_hidden() and page.locator("#status").text_content() == ""


def test_a_damaged_file_is_told(browser, site, tmp_path):
    out = shutil.copytree(site, tmp_path / "out", copy_function=os.link)
    (out / "vocab.txt").unlink()
    (out / "vocab.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    with serve(out) as address:
        page = browser.open(address)
        error = page.locator("#error", has_text="copy it again")
        error.wait_for()
    assert re.match(r"vocab.txt has 43 bytes, not \d+:", error.text_content())


def test_the_tokenizer_is_that_of_python(browser, address, rng):
    page = browser.open(address.replace(exported.PAGE, "web/wordpiece.js"))  # Loads no model.
    characters = {c: unicodedata.category(c) for c in map(chr, range(sys.maxunicode))}
    kinds = [
        c
        for c, kind in characters.items()
        if kind not in ("Cn", "Cs")  # Unassigned, and halves of characters.
        and (kind not in ("Lo", "Co") or ord(c) % 20 == 0)  # Hundreds of thousands are alike.
        and c not in RECLASSIFIED
    ]
    parts = [kinds[i : i + 50] for i in range(0, len(kinds), 50)]
    texts = [*WORDS, "x" * 100, "x" * 101, "ΑΣ ΣΑΣ", *(f"a{'b a'.join(part)}b" for part in parts)]
    mixed = rng.integers(len(kinds), size=(500, 12))
    texts += ["".join(kinds[i] for i in row) + str(rng.choice(WORDS)) for row in mixed]
    vocabulary = (demo_folder("emoji") / "vocab.txt").read_text().removesuffix("\n").split("\n")
    found = page.evaluate(
        """async json => {
          const [texts, vocabulary] = JSON.parse(json);
          const { WordPiece, clean, uncase } = await import(location.href);
          const [uncased, cased] = [true, false].map(x => new WordPiece(vocabulary, x));
          return JSON.stringify(texts.map(text =>
            [uncase(clean(text)), uncased.split(text).join(" "), cased.split(text).join(" ")]));
        }""",
        json.dumps([texts, vocabulary]),
    )
    splits = [WordPiece(vocabulary, lowercase) for lowercase in (True, False)]
    for text, (plain, *ids) in zip(texts, json.loads(found), strict=True):
        assert plain == uncase(clean(text)), repr(text)
        assert ids == [" ".join(map(str, split(text))) for split in splits], repr(text)


def test_the_noise_is_that_of_jax(browser, address):
    page = browser.open(address.replace(exported.PAGE, "web/noise.js"))
    seeds, indices, z_dim = (0, 1, 12345, 2**31 - 1), (0, 1, 15), 3000
    found = page.evaluate(
        """async ([seeds, indices, zDim]) => {
          const { makeNoise } = await import(location.href);
          return seeds.map(seed => indices.map(index => [...makeNoise(zDim, seed, index)]));
        }""",
        [seeds, indices, z_dim],
    )
    for seed, rows in zip(seeds, found, strict=True):
        expected = np.asarray(make_noise(16, z_dim, seed, 0))[list(indices)]
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_the_page_belongs_to_the_folder(site):
    config = json.loads(
        re.search(r'id="config">(.*?)</script>', (site / exported.PAGE).read_text())[1]
    )
    assert {name: (site / name).stat().st_size for name in config["files"]} == config["files"]
    ours = [*(site / "web").glob("*.js"), site / exported.PAGE]
    assert len(ours) == 6 and not any("://" in path.read_text() for path in ours)
    assert "Permission is hereby granted" in (site / "web" / "LICENSE.onnxruntime").read_text()
    front = yaml.safe_load((site / "README.md").read_text().split("---\n")[1])
    assert front["sdk"] == "static" and front["title"] == site.name
    hashes = exported.read_manifest(site)["sha256"]
    assert {exported.PAGE, f"web/{runtime.WASM}", exported.ONNX_GENERATOR} <= hashes.keys()


def test_a_model_without_page_replaces_one_with_page(tmp_path):
    names = (exported.PAGE, exported.NO_JEKYLL, f"{exported.PAGE_FILES}/page.js")
    folder = epath.Path(tmp_path)
    exported.write(folder, {"step": 1}, dict.fromkeys(names, b"x"))
    assert all((folder / name).exists() for name in names)
    exported.write(folder, {"step": 2}, {})
    assert {path.name for path in folder.iterdir()} == {"model.json"}


def test_a_folder_named_web_of_somebody_else_stays(tmp_path):
    folder = epath.Path(tmp_path)
    exported.write(folder, {"step": 1}, {})
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "mine.txt").write_text("mine")
    exported.write(folder, {"step": 2}, {})
    assert (tmp_path / "web" / "mine.txt").read_text() == "mine"


def test_examples_are_the_shortest_captions_of_the_run(model, tmp_path):
    names = (runtime.MODULE, runtime.WASM, exported.VOCABULARY)
    names += (exported.ONNX_GENERATOR, exported.ONNX_TEXT_ENCODER)
    files = dict.fromkeys(names, b"x")

    def examples():
        built = page.build_page(model, tmp_path, name="<x>", files=files)[exported.PAGE].decode()
        assert "<title>&lt;x&gt;</title>" in built
        return re.findall(r'<button type="button" class="plain">(.*)</button>', built)

    assert len(examples()) == 6 and "a red apple" in examples()
    captions_path(tmp_path).parent.mkdir()
    captions = ["a circle that is large", "a </script> circle", "red", "red", *8 * ["x" * 99]]
    captions_path(tmp_path).write_text(json.dumps({"captions": captions, "columns": 2}))
    assert examples()[:3] == ["red", "a &lt;/script&gt; circle", "a circle that is large"]
    assert len(examples()) == 4
    captions_path(tmp_path).write_text("{")
    assert "a red apple" in examples()


def test_archives_that_cannot_be_had_are_one_line(tmp_path, monkeypatch):
    other = tmp_path / "other.tgz"
    other.write_bytes(b"x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dead = runtime.PACKAGE._replace(address=f"http://127.0.0.1:9/{runtime.ARCHIVE}")
    monkeypatch.setattr(runtime, "PACKAGE", dead)
    for given, words in (
        (tmp_path / "none.tgz", "--onnxruntime_web=.* is no file; make it"),
        (other, "other.tgz is not the published package, or damaged .SHA-512"),
        (None, r"cannot download .* \(or name it with --onnxruntime_web\)"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            export("anywhere", tmp_path / "out", web=True, onnxruntime_web=given)
        message = str(caught.value)
        assert "\n" not in message and f"npm pack {runtime.PACKAGE.name}" in message
    assert not (tmp_path / "out").exists()
