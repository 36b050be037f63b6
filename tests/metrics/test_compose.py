"""Decisions about claims: boxes drawn by hand, brute force, and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmc_jax.metrics import compose
from xmc_jax.metrics.compose import COLOURS, Claim, Detection, directions, holds
from xmc_jax.metrics.intervals import wilson_interval
from xmc_jax.metrics.soa import CLASSES

NAMES = ("cat", "dog", "car")
RELATIONS = ("left of", "right of", "above", "below")
MIRRORED = {"left of": "right of", "right of": "left of", "above": "above", "below": "below"}


def square(x, y, side=0.2):
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


SCENE = [
    Detection("cat", square(0.2, 0.5), "black"),
    Detection("cat", square(0.25, 0.5), "white"),  # Overlaps, and counts all the same.
    Detection("dog", square(0.8, 0.5), "black"),
    Detection("car", square(0.8, 0.1), None),
]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Claim("presence", "cat"), True),
        (Claim("presence", "bus"), False),
        (Claim("count", "cat", 2), True),
        (Claim("count", "cat", 1), False),  # Exactly, not at least.
        (Claim("count", "cat", 3), False),
        (Claim("count", "bus", 1), False),
        (Claim("colour", "cat", detail="black"), True),
        (Claim("colour", "cat", detail="red"), False),
        (Claim("colour", "cat", 2, "black"), False),
        (Claim("colour", "car", detail="black"), False),  # The dog's colour.
        (Claim("relation", "cat", detail="left of", other="dog"), True),
        (Claim("relation", "cat", detail="right of", other="dog"), False),
        (Claim("relation", "car", detail="above", other="dog"), True),
        (Claim("relation", "dog", detail="below", other="car"), True),
        (Claim("relation", "cat", detail="left of", other="bus"), False),
    ],
)
def test_decisions_by_hand(claim, expected):
    assert holds(claim, SCENE) == expected


def test_counts_of_boxes_drawn_by_hand():
    cat, dog, bus = (CLASSES.index(name) for name in ("cat", "dog", "bus"))
    rows = [
        (cat, 0.9, *square(0.3, 0.3)),
        (cat, 0.6, *square(0.32, 0.3)),  # Overlaps the first one.
        (cat, 0.5, *square(0.32, 0.3)),  # The same box again; the threshold itself counts.
        (cat, 0.49, *square(0.8, 0.3)),  # Below the threshold.
        (dog, 0.8, *square(0.3, 0.3)),  # Another class at the same place.
        (bus, 0.1, *square(0.5, 0.5)),
    ]
    found = compose.read_boxes(np.array(rows, np.float32), 0.5)
    assert [item.name for item in found] == ["cat", "cat", "cat", "dog"]
    np.testing.assert_allclose(found[3].box, square(0.3, 0.3), rtol=1e-6)
    for name, count in {"cat": 3, "dog": 1, "bus": 0}.items():
        assert [n for n in range(9) if holds(Claim("count", name, n), found)] == [count]


def test_counts_of_boxes_agree_with_brute_force(rng):
    for _ in range(40):
        numbers, scores = rng.integers(0, 4, 30), rng.random(30).astype(np.float32)
        rows = np.column_stack([numbers, scores, rng.random((30, 4))]).astype(np.float32)
        found = compose.read_boxes(rows, 0.7)
        for number in range(5):
            pairs = zip(numbers, scores, strict=True)
            count = sum(bool(n == number and s >= 0.7) for n, s in pairs)
            name = CLASSES[number]
            assert holds(Claim("count", name, count), found)
            assert not holds(Claim("count", name, count + 1), found)
            assert holds(Claim("presence", name), found) == (count > 0)


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        (square(0.2, 0.5), square(0.8, 0.5), {"left of"}),
        (square(0.8, 0.8), square(0.2, 0.2), {"right of", "below"}),  # A diagonal.
        (square(0.5, 0.2), square(0.6, 0.8), {"above"}),
        (square(0.5, 0.5), square(0.5, 0.5), set()),
        (square(0.53, 0.5), square(0.5, 0.5), set()),  # Less than 0.1 of 0.2 + 0.2.
        (square(0.57, 0.5), square(0.5, 0.5), set()),  # 0.03 remains of 0.07: less than half.
        (square(0.59, 0.5), square(0.5, 0.5), {"right of"}),
        (square(0.5, 0.5, 0.9), square(0.65, 0.5, 0.1), set()),  # Large boxes need larger offsets.
    ],
)
def test_directions_of_boxes(box, other, expected):
    assert directions(box, other) == expected


boxes = st.tuples(*[st.integers(0, 64).map(lambda i: i / 64)] * 4).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)
scenes = st.lists(
    st.tuples(st.sampled_from(NAMES), boxes, st.sampled_from((*COLOURS[:3], None))).map(
        lambda values: Detection(*values)
    ),
    max_size=7,
)
names = st.sampled_from(NAMES)
all_claims = st.one_of(
    st.tuples(st.just("presence"), names),
    st.tuples(st.just("count"), names, st.integers(1, 4)),
    st.tuples(st.just("colour"), names, st.integers(1, 2), st.sampled_from(COLOURS[:3])),
    st.tuples(st.just("relation"), names, st.just(1), st.sampled_from(RELATIONS), names),
).map(lambda values: Claim(*values))
quick = settings(deadline=None, max_examples=40)


@quick
@given(scenes, all_claims)
def test_decisions_agree_with_loops(found, claim):
    hits = 0
    for item in found:
        if item.name != claim.name or (claim.kind == "colour" and item.colour != claim.detail):
            continue
        if claim.kind == "relation":
            hits += any(
                other.name == claim.other and claim.detail in directions(item.box, other.box)
                for other in found
            )
        else:
            hits += 1
    assert holds(claim, found) == (
        hits == claim.number if claim.kind == "count" else hits >= claim.number
    )


@quick
@given(scenes, all_claims, st.randoms(use_true_random=False))
def test_the_order_of_boxes_changes_nothing(found, claim, random):
    assert holds(claim, random.sample(found, len(found))) == holds(claim, found)


@quick
@given(scenes, all_claims)
def test_mirroring_swaps_left_and_right(found, claim):
    mirrored = [
        item._replace(box=(1 - right, top, 1 - left, bottom))
        for item in found
        for left, top, right, bottom in [item.box]
    ]
    swapped = claim._replace(detail=MIRRORED.get(claim.detail, claim.detail))
    assert holds(swapped, mirrored) == holds(claim, found)


@quick
@given(boxes, boxes)
def test_directions_are_those_of_the_other_box_reversed(box, other):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert directions(box, other) == {opposite[name] for name in directions(other, box)}
    assert len(directions(box, other)) <= 2


def test_shares_are_of_captions():
    claims = [
        (Claim("presence", "cat"), Claim("presence", "bus")),  # One holds: the caption does not.
        (Claim("presence", "cat"), Claim("count", "cat", 2)),
        (Claim("count", "cat", 1),),
        (),
    ]
    shares = compose.summarise(compose.tabulate(claims, [SCENE] * 4), claims)
    assert set(shares) == {"presence", "count", "all"}
    assert shares["presence"] == (1 / 2, *wilson_interval(1 / 2, 2), 2, 3)
    assert shares["count"] == (1 / 2, *wilson_interval(1 / 2, 2), 2, 2)
    assert shares["all"] == (1 / 3, *wilson_interval(1 / 3, 3), 3, 5)
    assert compose.summarise(np.zeros((4, 5, 2), bool), [()] * 4) == {}


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError):
        compose.tabulate([()], [])
    with pytest.raises(ValueError, match="no kind of claims 'size'"):
        holds(Claim("size", "cat"), SCENE)
