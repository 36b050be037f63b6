"""The rules of the data set of emoji: names of forms, captions, parts and splits."""

import itertools

import pytest

from xmc_jax.data.builders.emoji import forms, phrases, splits
from xmc_jax.data.builders.emoji.packages import Emoji, parse_codes
from xmc_jax.errors import UserError

TONES = {
    "light": "1F3FB",
    "medium-light": "1F3FC",
    "medium": "1F3FD",
    "medium-dark": "1F3FE",
    "dark": "1F3FF",
}


def emoji(hexcode, label, group="objects", subgroup=0, tags=()):
    return Emoji(parse_codes(hexcode), label, group, subgroup, tuple(tags))


def with_tones(hexcode, label, **kind):
    """An emoji of a person, alone and with all skin tones; `hexcode` has ``TONE`` where they go."""
    yield emoji(hexcode.replace("-TONE", ""), label, **kind)
    for name, code in TONES.items():
        yield emoji(hexcode.replace("TONE", code), f"{label}: {name} skin tone", **kind)


def world():
    """Two thousand emoji: people of many jobs, hands, coloured shapes, animals and flags."""
    people = {"group": "people & body", "subgroup": 1}
    for i in range(60):
        for person, code in (("", "1F9D1"), ("man ", "1F468"), ("woman ", "1F469")):
            yield from with_tones(f"{code}-TONE-200D-{0x1F700 + i:X}", f"{person}job {i}", **people)
    for i in range(60):
        for person, sign in (("person", ""), ("man", "-200D-2642-FE0F"), ("woman", "-200D-2640")):
            code = f"{0x1F800 + i:X}-TONE{sign}"
            yield from with_tones(code, f"{person} sport {i}", **people | {"subgroup": 2})
    for i in range(30):
        yield from with_tones(f"{0x1FA00 + i:X}-TONE", f"hand {i}", **people | {"subgroup": 3})
    for i, colour in enumerate("red orange yellow green blue purple brown black white".split()):
        for j, shape in enumerate(("heart", "circle", "large square")):
            yield emoji(f"{0x2700 + 16 * j + i:X}", f"{colour} {shape}", subgroup=4)
    for i in range(100):
        yield emoji(f"{0x1F400 + i:X}", f"animal {i}", "animals & nature", 5 + i // 25)
        yield emoji(f"{0x1F1E6 + i:X}", f"flag: country {i}", "flags", 9)


WORLD = tuple(world())
DIVIDED = splits.divide(WORLD)
PARTS = {x.codes: splits.parse_parts(x) for x in WORLD}


def test_every_form_has_one_name():
    for form in itertools.starmap(
        forms.PreparedForm, itertools.product((16, 64, 256), forms.BACKGROUNDS, forms.LOCALES)
    ):
        assert forms.parse_form(form.name) == form
    assert len(forms.LOCALES) == 28
    assert forms.PreparedForm(64).name == "sq64"
    assert forms.parse_form("sq128_any_zh-hant") == (128, "any", "zh-hant")


@pytest.mark.parametrize(
    "name,words",
    [
        ("large", "no form 'large'; forms are like sq64, sq64_black, sq64_any, sq64_de"),
        ("sq064", "no form 'sq064'"),
        ("sq64_de_black", "no form"),
        ("sq64_xx", r"'xx' is no background \(black, any\) and no locale \(bn, da, .*, zh-hant\)"),
        ("sq64_white", "'white' is no background"),  # It would be a second name of sq64.
        ("sq64_any_en", "'en' is no background"),
        ("sq8", "emoji have 16 to 256 pixels"),
        ("sq512", "emoji have 16 to 256 pixels"),
    ],
)
def test_unknown_forms_are_refused(name, words):
    with pytest.raises(UserError, match=words) as caught:
        forms.parse_form(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "label,phrase",
    [
        ("red heart", "a red heart"),
        ("orange circle", "an orange circle"),
        ("unicorn", "a unicorn"),
        ("euro banknote", "a euro banknote"),
        ("x-ray", "an x-ray"),
        ("SOS button", "an SOS button"),
        ("NEW button", "a NEW button"),
        ("AB button (blood type)", "a blood type AB button"),
        ("Japanese “here” button", 'a Japanese "here" button'),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("dress", "a dress"),
        ("glasses", "glasses"),
        ("cooked rice", "cooked rice"),
        ("glass of milk", "a glass of milk"),
        ("fork and knife with plate", "a fork and knife with a plate"),
        ("woman’s clothes", "woman's clothes"),
        ("face with tears of joy", "a face with tears of joy"),
        ("face with open mouth", "a face with an open mouth"),
        ("smiling face with heart-eyes", "a smiling face with heart-eyes"),
        (
            "face with open eyes and hand over mouth",
            "a face with open eyes and a hand over its mouth",
        ),
        ("star-struck", "a star-struck face"),
        ("two hearts", "two hearts"),
        ("Santa Claus: dark skin tone", "Santa Claus with dark skin"),
        ("no smoking", "a no smoking sign"),
        ("Leo", "the zodiac sign Leo"),
        ("milky way", "the Milky Way"),
        ("flag: France", "the flag of France"),
        ("flag: Netherlands", "the flag of the Netherlands"),
        ("flag: Bosnia & Herzegovina", "the flag of Bosnia and Herzegovina"),
        ("flag: Congo - Kinshasa", "the flag of Congo-Kinshasa"),
        ("flag: Myanmar (Burma)", "the flag of Myanmar"),
        ("keycap: 3", "a key with the number 3"),
        ("keycap: #", "a key with the hash sign"),
        ("three o’clock", "a clock at three o'clock"),
        ("three-thirty", "a clock at half past three"),
        ("woman firefighter: dark skin tone", "a woman firefighter with dark skin"),
        ("man: medium skin tone, red hair", "a man with medium skin and red hair"),
        ("person: beard", "a person with a beard"),
        ("woman: light skin tone, bald", "a bald woman with light skin"),
        ("man running: light skin tone", "a man with light skin running"),
        (
            "man running: light skin tone, facing right",
            "a man with light skin running, facing right",
        ),
        (
            "person in motorized wheelchair: dark skin tone",
            "a person with dark skin in a motorized wheelchair",
        ),
        (
            "woman wearing turban: medium-light skin tone",
            "a woman with medium-light skin wearing a turban",
        ),
        ("index pointing up: dark skin tone", "an index finger with dark skin pointing up"),
        ("thumbs up: light skin tone", "a thumbs up with light skin"),
        ("people wrestling", "two people wrestling"),
        ("kiss", "two people kissing"),
        (
            "kiss: man, man, dark skin tone, light skin tone",
            "two men with dark and light skin kissing",
        ),
        (
            "couple with heart: woman, man, dark skin tone",
            "a woman and a man with dark skin and a heart between them",
        ),
        ("family", "a family"),
        ("family: woman, girl", "a family of a woman and a girl"),
        ("family: man, woman, girl, boy", "a family of a man, a woman, a girl and a boy"),
        ("family: man, man, girl, girl", "a family of two men and two girls"),
    ],
)
def test_labels_in_natural_words(label, phrase):
    assert phrases.describe(label) == phrase


def test_captions_add_the_category_and_two_new_keywords():
    apple = emoji(
        "1F34E", "red apple", "food & drink", tags=("apples", "diet", "red", "ripe", "AB", "woman")
    )
    phrase, with_group, with_tags = phrases.make_captions(apple, "en")
    assert phrase == "a red apple" and with_group == "food and drink: a red apple"
    assert sorted(with_tags.split(", ")) == ["a red apple", "diet", "ripe"]
    assert phrases.make_captions(apple, "en") == [phrase, with_group, with_tags]
    plain = apple._replace(label="roter Apfel", tags=("apfel", "obst", "frucht"))
    label, with_tags = phrases.make_captions(plain, "de")
    assert label == "roter Apfel" and set(with_tags.split(", ")) == {label, "obst", "frucht"}
    assert phrases.make_captions(plain._replace(tags=()), "de") == ["roter Apfel"]


@pytest.mark.parametrize(
    "hexcode,label,concept,attributes",
    [
        ("1F469-1F3FF-200D-1F692", "woman firefighter: …", "1F9D1-1F692", ("skin tone 5", "woman")),
        ("1F9D1-200D-1F692", "firefighter", "1F9D1-1F692", ()),
        (
            "1F3C3-1F3FB-200D-2642-FE0F-200D-27A1-FE0F",
            "man running…",
            "1F3C3",
            ("skin tone 1", "man"),
        ),
        ("1F468", "man", "1F9D1", ("man",)),
        ("1F469-200D-2764-FE0F-200D-1F468", "couple", "1F9D1-2764-1F9D1", ("woman and man",)),
        ("1F491", "couple with heart", "1F9D1-2764-1F9D1", ()),
        ("1F46D-1F3FD", "women holding hands", "1F9D1-1F91D-1F9D1", ("skin tone 3",)),
        ("1F63A", "grinning cat", "1F431", ()),
        ("1F525", "fire", "1F525", ()),
    ],
)
def test_parts(hexcode, label, concept, attributes):
    found = splits.parse_parts(emoji(hexcode, label))
    assert found == (parse_codes(concept), attributes)


def test_colours_and_shapes_are_parts():
    parts = [
        splits.parse_parts(emoji("1", label))
        for label in ("light blue heart", "red heart", "black large square", "broken heart")
    ]
    assert parts[0] == (parts[1].concept, ("light blue",)) and parts[2].attributes == ("black",)
    assert parts[3].attributes == ()


def test_splits_have_every_emoji_once_in_its_order():
    assert sum(map(len, DIVIDED.values())) == len(WORLD)
    order = {x.codes: i for i, x in enumerate(WORLD)}
    for members in DIVIDED.values():
        indices = [order[x.codes] for x in members]
        assert indices == sorted(indices)
    labels = [{x.label for x in members} for members in DIVIDED.values()]
    assert not any(a & b for a, b in itertools.combinations(labels, 2))


def test_concepts_of_val_are_unseen_and_have_neighbours():
    elsewhere = {PARTS[x.codes].concept for name in ("train", "test_comp") for x in DIVIDED[name]}
    assert not elsewhere & {PARTS[x.codes].concept for x in DIVIDED["val"]}
    assert {x.subgroup for x in DIVIDED["val"]} < {x.subgroup for x in DIVIDED["train"]}
    assert not any(x.group == "flags" for x in DIVIDED["val"])
    assert 0.08 < len(DIVIDED["val"]) / len(WORLD) < 0.12
    jobs = [x for x in DIVIDED["val"] if "job" in x.label]
    assert len(jobs) % 18 == 0  # With all skin tones and genders.


def test_test_comp_combines_what_training_has_seen_apart():
    seen = [{PARTS[x.codes].concept, *PARTS[x.codes].attributes} for x in DIVIDED["train"]]
    parts = set().union(*seen)
    for x in DIVIDED["test_comp"]:
        its = {PARTS[x.codes].concept, *PARTS[x.codes].attributes}
        assert len(its) > 1 and its <= parts
        assert not any(its <= others for others in seen), x.label
    kinds = {x.label.split()[0] for x in DIVIDED["test_comp"]}
    assert {"man", "woman", "hand"} <= kinds and kinds & {"red", "green", "blue", "black", "white"}
    assert 0.1 < len(DIVIDED["test_comp"]) / len(WORLD) < 0.17
