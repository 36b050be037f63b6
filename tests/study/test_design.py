"""The blinded design: balanced sides, an order for each rater, checks, no hint of a system."""

import collections
import json
import zlib

import pytest

from xmc_jax.study import design

CAPTIONS = [f"caption {i}" for i in range(43)]


def make(num_captions=43, num_raters=6, secret="s"):
    return design.make_pages(CAPTIONS[:num_captions], num_raters=num_raters, secret=secret)


def first_showings(page, schedule):
    """The image on the left at the first showing of each item."""
    left = {}
    for showing in schedule:
        left.setdefault(showing.item, showing.left)
    return left


def test_every_rater_sees_every_item_and_repeats_have_swapped_sides():
    (page,) = make()
    assert design.num_extras(43) == 2
    assert collections.Counter(item.is_check for item in page.items) == {False: 43, True: 2}
    for schedule in page.schedules:
        times = collections.Counter(showing.item for showing in schedule)
        assert set(times) == set(range(45)) and sorted(times.values())[-3:] == [1, 2, 2]
        for item, count in times.items():
            shown = [i for i, showing in enumerate(schedule) if showing.item == item]
            if count == 2:
                assert not page.items[item].is_check
                assert schedule[shown[0]].left != schedule[shown[1]].left
                assert shown[1] - shown[0] > len(schedule) // 8
    orders = {tuple(showing.item for showing in schedule) for schedule in page.schedules}
    assert len(orders) == len(page.schedules)


def test_sides_are_balanced_for_each_rater_and_over_raters():
    (page,) = make()
    a_left = collections.Counter()
    for schedule in page.schedules:
        left = first_showings(page, schedule)
        pairs = [i for i, item in enumerate(page.items) if not item.is_check]
        of_this_rater = [i for i in pairs if page.items[i].images[left[i]] == "a"]
        assert len(of_this_rater) in (21, 22)
        a_left.update(of_this_rater)
        real_left = [page.items[i].images[left[i]] != "noise" for i in set(left) - set(pairs)]
        assert sum(real_left) == 1
    assert set(a_left.values()) == {3}  # Of six raters, for every caption.


def test_the_numbers_of_images_do_not_reveal_the_system():
    (page,) = make()
    first = collections.Counter(item.images[0] for item in page.items if not item.is_check)
    assert min(first["a"], first["b"]) > 10
    ids = {item.id for item in page.items}
    assert len(ids) == len(page.items)
    assert not ids & {item.id for item in make(secret="t")[0].items}


def test_a_study_is_a_function_of_its_secret():
    assert make() == make()
    assert make() != make(secret="t")
    assert design.study_id("s") != design.study_id("t")


def test_golden_study():
    """This must never change: a study can be built again from the secret in its key."""
    pages = make()
    key = design.make_key(pages, secret="s", names={"a": "x", "b": "y"})
    assert [zlib.crc32(json.dumps(x).encode()) for x in (pages, key)] == [278654035, 811758469]


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (100, [100]), (101, [51, 50])])
def test_captions_are_distributed_evenly_over_pages(count, sizes):
    pages = design.make_pages([f"c{i}" for i in range(count)], num_raters=1, secret="s")
    pairs = [[item for item in page.items if not item.is_check] for page in pages]
    assert [len(items) for items in pairs] == sizes
    assert sorted(item.caption_index for items in pairs for item in items) == list(range(count))
    key = design.make_key(pages, secret="s", names={"a": "x", "b": "y"})
    assert len(key["items"]) == sum(len(page.items) for page in pages)


def test_equal_captions_are_separate_items():
    (page,) = design.make_pages(["same", "same"], num_raters=2, secret="s")
    assert len({item.id for item in page.items}) == 2
    assert not any(item.is_check for item in page.items)  # Too few for attention checks.
