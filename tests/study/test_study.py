"""Studies from images to results: built, rated in a real browser, and analysed."""

import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests import small_run
from tests.page import Page, assert_needs_no_network
from tests.verbs import assert_refused
from xmc_jax.errors import UserError
from xmc_jax.study import analyse, build, design

NASTY = ['=2+2, "so"', "</script><b>not bold</b>", "<!-- <script>", "größer & kleiner"]
CAPTIONS = [*NASTY, *(f"caption {i}" for i in range(8))]
RED, BLUE = (200, 30, 30), (30, 30, 200)


def write_images(folder, colour, *, suffix=".png", size=(24, 24), count=12):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, colour).save(folder / f"{index:04d}_of-secret-system_0{suffix}")
    return folder


@pytest.fixture(scope="module")
def systems(folder):
    """Folders of red and of blue images, in different formats and sizes."""
    (folder / "captions.txt").write_text("\n\n".join(CAPTIONS), encoding="utf-8")
    red = write_images(folder / "secret-red", RED)
    blue = write_images(folder / "secret-blue", BLUE, suffix=".jpg", size=(64, 48))
    return red, blue


@pytest.fixture(scope="module")
def study(folder, systems, run_verb):
    """A study that the verb built."""
    arguments = [f"--a={systems[0]}", f"--b={systems[1]}", "--raters=3"]
    arguments += [f"--captions={folder / 'captions.txt'}", f"--out={folder / 'study'}"]
    done = run_verb("study", "build", *arguments)
    assert done.returncode == 0, done.stderr
    assert "12 captions" in done.stdout
    return folder / "study"


def page_of(study):
    return study / "for_raters" / "study.html"


def test_the_page_reveals_nothing_and_needs_no_network(study):
    source = page_of(study).read_text(encoding="utf-8")
    key = json.loads((study / "key.json").read_text(encoding="utf-8"))
    assert [path.name for path in (study / "for_raters").iterdir()] == ["study.html"]
    for secret in ("secret", "red", "blue", key["secret"], "key.json", "noise", ".jpg"):
        assert not re.search(rf"(?<![a-zA-Z]){re.escape(secret)}(?![a-zA-Z])", source), secret
    assert_needs_no_network(source)
    page = Page(source)
    assert "not bold" not in "".join(page.text)  # Captions are escaped.
    assert source.count("<script") == 1
    encoded = set(re.findall(r'"(data:[^"]*)"', source))
    assert all(uri.startswith("data:image/png;base64,") for uri in encoded)
    assert len(encoded) == 3  # Red, blue and noise, all of 24 x 24 pixels.


class Rater:
    """Answers by the colours on the screen: red is better, blue fits, noise is never chosen."""

    COLOURS = {RED: "red", BLUE: "blue"}

    def __init__(self, browser, path, number, context=None):
        self.page = browser.open(path, fragment=f"#rater={number}", context=context)

    def start(self):
        self.page.get_by_role("button", name="Start").click()

    def sees(self) -> dict[str, str]:
        colour = """id => {
            const context = document.createElement("canvas").getContext("2d");
            const image = document.getElementById(id);
            context.drawImage(image, 0, 0);
            return [image.naturalWidth, ...context.getImageData(0, 0, 2, 2).data];
        }"""
        seen = {}
        for side in ("left", "right"):
            self.page.wait_for_function("id => document.getElementById(id).complete", arg=side)
            width, *pixels = self.page.evaluate(colour, side)
            assert width == 24
            flat = pixels[:4] == pixels[4:8]
            near = [
                n for c, n in self.COLOURS.items() if np.abs(np.subtract(c, pixels[:3])).max() < 8
            ]
            seen[side] = near[0] if flat and near else "noise"
        return seen

    def answer(self, wanted: str):
        seen = self.sees()
        side = next((s for s in seen if seen[s] == wanted), None)
        if side is None:  # The other system beside noise.
            side = next(s for s in seen if seen[s] != "noise")
        self.page.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight"}[side])

    def rate_pair(self):
        self.answer("red")
        self.answer("blue")

    def is_done(self) -> bool:
        return self.page.locator("#done").is_visible()

    def save(self, name, folder):
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=name).last.click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


def test_a_rater_goes_through_a_study(browser, study, tmp_path, run_verb):
    """By keyboard, with the page closed and opened again; saved, and analysed by the verb."""
    first = Rater(browser, page_of(study), 2)
    browser.assert_fits(first.page)
    first.start()
    for _ in range(5):
        first.rate_pair()
    first.page.keyboard.press("ArrowDown")  # Quality: no difference …
    first.page.keyboard.press("ArrowLeft")
    first.page.keyboard.press("ArrowUp")  # … and back to change the answer.
    assert "Pair 6 of 14" in first.page.locator("#progress").inner_text()
    first.rate_pair()
    first.answer("red")
    caption = first.page.locator("#caption").inner_text()
    context = first.page.context
    browser.assert_fits(first.page)
    first.page.close()

    again = Rater(browser, page_of(study), 2, context)
    assert "13 answers are stored" in again.page.locator("#kept").inner_text()
    again.start()
    assert again.page.locator("#caption").inner_text() == caption
    assert "Pair 7 of 14, about 1 min left" in again.page.locator("#progress").inner_text()
    again.answer("blue")  # The question without an answer.
    while not again.is_done():
        again.rate_pair()
    saved = again.save("Save answers", tmp_path)
    assert re.fullmatch(r"ratings_[0-9a-f]{12}_page_1_rater_2\.json", saved.name)
    check_table(again.save("As a table", tmp_path))
    browser.assert_fits(again.page)

    done = run_verb("study", "analyse", f"--key={study / 'key.json'}", saved)
    assert done.returncode == 0, done.stderr
    results = json.loads((study / "analysis.json").read_text(encoding="utf-8"))
    quality, alignment = (results["questions"][q] for q in ("quality", "alignment"))
    assert quality["votes"] == {"a": 12, "tie": 0, "b": 0}
    assert alignment["votes"] == {"a": 0, "tie": 0, "b": 12}
    assert quality["sign_test_p"] == pytest.approx(2 / 2**12)
    (rater,) = results["raters"]
    assert (rater["answers"], rater["expected"]) == (28, 28)
    assert (rater["attention"], rater["repeats"]) == ([2, 2], [2, 2])
    assert [row["caption"] for row in results["captions"]] == CAPTIONS
    assert results["systems"]["a"].endswith("secret-red") and "secret-red" in done.stdout
    assert "A preferred                  100.0 % [75.8, 100.0]" in done.stdout


def check_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 28 and {row["rater"] for row in rows} == {"2"}
    captions = {row["caption"] for row in rows}
    assert "'" + NASTY[0] in captions  # Spreadsheets do not read it as a formula.
    assert captions - {"'" + NASTY[0]} == set(CAPTIONS) - {NASTY[0]}
    assert all(float(row["time_ms"]) >= 0 for row in rows)


def test_by_mouse_in_a_browser_without_storage(browser, study, tmp_path):
    rater = Rater(browser, page_of(study), 1)
    rater.page.evaluate("Storage.prototype.setItem = () => { throw new Error('full'); }; 0")
    rater.start()
    assert rater.page.locator("#unkept").is_visible()
    rater.page.locator("#quality").get_by_role("button", name="Left").click()
    rater.page.locator("#alignment").get_by_role("button", name="No difference").click()
    assert "Pair 2 of 14" in rater.page.locator("#progress").inner_text()
    saved = json.loads(rater.save("Save so far", tmp_path).read_text(encoding="utf-8"))
    assert [answer["choice"] for answer in saved["answers"]] == ["left", "tie"]
    # In the other order it goes on as well, and a changed answer waits for the next question.
    rater.page.locator("#alignment").get_by_role("button", name="Left").click()
    assert "Pair 2 of 14" in rater.page.locator("#progress").inner_text()
    rater.page.locator("#quality").get_by_role("button", name="Left").click()
    assert "Pair 3 of 14" in rater.page.locator("#progress").inner_text()
    rater.page.get_by_role("button", name="Back").click()
    rater.page.locator("#quality").get_by_role("button", name="Right").click()
    assert "Pair 2 of 14" in rater.page.locator("#progress").inner_text()
    browser.assert_fits(rater.page)


def test_two_tabs_of_a_rater_keep_the_answers_of_both(browser, study, tmp_path):
    one = Rater(browser, page_of(study), 3)
    one.start()
    one.rate_pair()
    other = Rater(browser, page_of(study), 3, one.page.context)
    other.start()
    other.rate_pair()
    # Chromium takes a moment to tell one tab of what another stored.
    one.page.wait_for_function("JSON.stringify(localStorage).split('time_ms').length > 4")
    one.page.keyboard.press("ArrowDown")
    answers = json.loads(one.save("Save so far", tmp_path).read_text(encoding="utf-8"))["answers"]
    assert [
        (x["trial"], x["choice"] == "tie") for x in answers if x["question"] == "alignment"
    ] == [(0, False), (1, False)]
    assert len(answers) == 4  # Of the answer that both gave, the last is kept.


def test_two_raters_have_opposite_sides_and_different_orders(browser, study):
    one, other = (Rater(browser, page_of(study), number) for number in (1, 2))
    for rater in (one, other):
        rater.start()
    lefts = []
    for rater in (one, other):
        lefts.append({})
        while len(lefts[-1]) < 12:
            left, right = rater.sees().values()
            if "noise" not in (left, right):
                lefts[-1].setdefault(rater.page.locator("#caption").inner_text(), left)
            rater.page.keyboard.press("ArrowDown")
            rater.page.keyboard.press("ArrowDown")
    assert all(lefts[0][caption] != lefts[1][caption] for caption in CAPTIONS)
    assert list(lefts[0]) != list(lefts[1])


# The analysis


def make_key(num_items):
    names = {"a": "one", "b": "two"}
    pages = design.make_pages([f"c{i}" for i in range(num_items)], num_raters=2, secret="s")
    return design.make_key(pages, secret="s", names=names)


def make_ratings(path, key, choose, *, rater=1):
    """Writes a file as the page does; ``choose(caption_index, question)`` is a, tie or b."""
    answers = []
    for trial, (id, item) in enumerate(key["items"].items()):
        for question in analyse.QUESTIONS:
            wanted, left = choose(item["caption_index"], question), trial % 2
            choice = "tie" if wanted == "tie" else "right"
            if item[design.KEY_IMAGES][left] == wanted:
                choice = "left"
            answers.append({"trial": trial, "item": id, "question": question, "left": left,
                            "choice": choice, "time_ms": 1500})  # fmt: skip
    found = {"study": key["study"], "page": 1, "rater": rater, "trials": len(key["items"]),
             "answers": answers}  # fmt: skip
    path.write_text(json.dumps(found))
    return path


def test_results_of_a_small_study_counted_by_hand(tmp_path):
    """Four captions, two raters: quality aa, aa, ab, a and tie; alignment always a tie."""
    key = make_key(4)
    votes = {1: ["a", "a", "a", "a"], 2: ["a", "a", "b", "tie"]}
    ratings = [
        analyse.read_ratings(
            make_ratings(
                tmp_path / f"{rater}.json",
                key,
                lambda i, q, rater=rater: votes[rater][i] if q == "quality" else "tie",
                rater=rater,
            ),
            key,
        )
        for rater in votes
    ]
    results = analyse.analyse(key, ratings)
    quality = results["questions"]["quality"]
    assert quality["votes"] == {"a": 6, "tie": 1, "b": 1}
    assert quality["preference"]["rate"] == pytest.approx((1 + 1 + 0.5 + 0.75) / 4)
    assert quality["preference_without_ties"]["rate"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert quality["captions_ahead"] == {"a": 3, "b": 0, "even": 1}
    assert quality["sign_test_p"] == pytest.approx(0.25)
    # 8 values. Observed: one pair a-b, one a-tie. Expected: from 6 a, 1 tie, 1 b.
    assert quality["alpha_nominal"] == pytest.approx(1 - (4 / 8) / (26 / 56))
    alignment = results["questions"]["alignment"]
    assert alignment["preference"]["rate"] == 0.5 and alignment["alpha_nominal"] is None
    assert alignment["preference_without_ties"]["rate"] is None
    assert [row["quality"]["a"] for row in results["captions"]] == [2, 2, 1, 1]
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    text = analyse.format_text(results)
    assert "quality: 8 votes: A 6, no difference 1, B 1" in text and "no votes" in text


def test_refuses_files_that_do_not_belong(tmp_path):
    key = make_key(3)
    good = make_ratings(tmp_path / "good.json", key, lambda i, q: "a")
    twice = make_ratings(tmp_path / "twice.json", key, lambda i, q: "b")
    ratings = [analyse.read_ratings(path, key) for path in (good, twice)]
    with pytest.raises(UserError, match=r"good.json and .*twice.json are both of rater 1"):
        analyse.analyse(key, ratings)

    found = json.loads(good.read_text())
    bad = tmp_path / "bad.json"
    for change, message in (
        ({"study": "other"}, "is of study other"),
        ({"rater": "x"}, "damaged"),
        ({"answers": [found["answers"][0] | {"choice": "up"}]}, "damaged.*no such answer"),
        ({"answers": [found["answers"][0] | {"item": "?"}]}, "damaged"),
    ):
        bad.write_text(json.dumps(found | change))
        with pytest.raises(UserError, match=message):
            analyse.read_ratings(bad, key)
    bad.write_text("study,page")
    with pytest.raises(UserError, match="not JSON.*not the CSV"):
        analyse.read_ratings(bad, key)
    with pytest.raises(UserError, match="not the key"):
        analyse.read_key(good)
    bad.write_text(json.dumps(found | {"answers": []}))
    with pytest.raises(UserError, match="no answer yet"):
        analyse.analyse(key, [analyse.read_ratings(bad, key)])


def test_refuses_images_that_do_not_match_the_captions(systems, tmp_path):
    red, _ = systems
    with pytest.raises(UserError, match=r"no image for caption 12, 13: .* from 0 to 13"):
        build.read_images(str(red), [*CAPTIONS, "one", "two"], 0)
    with pytest.raises(UserError, match="an image for caption 11, and there are 3 captions"):
        build.read_images(str(red), CAPTIONS[:3], 0)
    with pytest.raises(UserError, match="no folder /nowhere"):
        build.read_images("/nowhere", CAPTIONS, 0)
    (tmp_path / "0_a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="0_a.png cannot be decoded"):
        build.read_images(str(tmp_path), ["a"], 0)


def test_images_are_cropped_and_resized():
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, 24:72] = 255  # The middle square is white.
    png = build.uniform_png(wide, 24)
    assert png.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (24, 24) and image.info == {}
        assert (np.asarray(image)[:, 1:-1] == 255).all()


def test_a_model_generates_images(tmp_path):
    """A run's checkpoint against a folder of images, for two captions."""
    workdir = small_run.make(tmp_path)
    captions = ["a red circle", "a blue square"]
    blue = write_images(tmp_path / "blue", BLUE, count=2)
    (page,) = build.build([str(workdir), str(blue)], captions, tmp_path / "s", num_raters=1)
    data = re.search(r"const study = (\{.*\});", page.read_text(encoding="utf-8"))[1]
    assert len({uri for item in json.loads(data)["items"] for uri in item["images"]}) == 3
    key = json.loads((tmp_path / "s" / "key.json").read_text())
    assert key["systems"] == {"a": str(workdir), "b": str(blue)} and key["side"] == 24
    with pytest.raises(UserError, match="there is a study in .* already"):
        build.build([str(workdir), str(blue)], captions, tmp_path / "s")


def test_refuses_mistakes(folder, study, run_verb):
    assert_refused(run_verb("study"), "a command is missing", "study build")
    assert_refused(run_verb("study", "guess"), "'guess'", "study analyse")
    assert_refused(run_verb("study", "build", "--a=x", "--b=y"), "--out is missing")
    assert_refused(run_verb("study", "analyse", f"--key={study / 'key.json'}"), "no ratings")
    remote = run_verb("study", "build", "--a=x", "--b=y", "--out=gs://bucket/study")
    assert_refused(remote, "gs://bucket/study is not on this machine")
