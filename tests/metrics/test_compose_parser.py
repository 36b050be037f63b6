"""Which claims captions make: a table by hand, and any text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmc_jax.metrics.compose import COLOURS, KINDS, Claim
from xmc_jax.metrics.compose_parser import parse_claims
from xmc_jax.metrics.soa import CLASSES


def claims(text):
    """Claims in short: ``cat`` is there, ``3 zebra``, ``red car``, ``cat above chair``.

    A colour of several objects has their number: ``2 black dog``.
    """
    found = set()
    for part in filter(None, text.split("; ")):
        relation = next((r for r in ("left of", "right of", "above", "below") if r in part), None)
        first, _, rest = part.partition(" ")
        if relation:
            one, other = part.split(f" {relation} ")
            found.add(Claim("relation", one, detail=relation, other=other))
        elif first.isdigit() and rest.partition(" ")[0] in COLOURS and " " in rest:
            colour, _, name = rest.partition(" ")
            found.add(Claim("colour", name, int(first), colour))
        elif first.isdigit():
            found.add(Claim("count", rest, int(first)))
        elif first in COLOURS and rest:
            found.add(Claim("colour", rest, detail=first))
        else:
            found.add(Claim("presence", part))
    return found


CAPTIONS = {
    # Classes.
    "A dog running on a beach": "dog",
    "A man riding a wave on top of a surfboard.": "person; surfboard",
    "a laptop computer on a bed": "laptop; bed",
    "A person on a motor bike": "person; motorcycle",
    "a photo of a Cat": "cat",
    "A teddy bear sits on a couch": "teddy bear; couch",
    # Counts.
    "three zebras": "zebra; 3 zebra",
    "4 giraffes standing in a field": "giraffe; 4 giraffe",
    "A flock of ten sheep": "sheep; 10 sheep",
    "Two people riding bikes": "person; 2 person; bicycle",
    "two young women holding three umbrellas": "person; 2 person; umbrella; 3 umbrella",
    "One bird on a branch": "bird; 1 bird",
    "two dogs, one black and one white": "dog; 2 dog",
    "two hot dogs on a plate": "hot dog; 2 hot dog",
    "Two tennis rackets and five sports balls": "tennis racket; 2 tennis racket; "
    "sports ball; 5 sports ball",
    "three oranges in a bowl": "orange; 3 orange; bowl",
    "two glasses of white wine": "wine glass; 2 wine glass",
    # No count: vague numbers, the same class again, other people, parts, pairs.
    "one or two birds": "bird",
    "twenty-two dogs in a park": "dog",
    "a hundred and two dogs": "dog",
    "1.5 pizzas": "pizza",
    "0 dogs": "",
    "a cat and two dogs": "cat; dog; 2 dog",
    "at least two cats": "cat",
    "two of the cows": "cow",
    "two men and a woman": "person",
    "two cats and another cat": "cat",
    "two people in a crowd": "person",
    "two men and three skiers": "person",
    "three orange slices on a bowl": "orange; bowl",
    "a pair of scissors": "scissors",
    "several boats": "boat",
    "Two double decker buses": "bus",
    # Colours.
    "a red car": "car; red car",
    "A GREY cat": "cat; gray cat",
    "two small black dogs": "dog; 2 dog; 2 black dog",
    "a dark red car": "car; red car",
    "a blue car and a red car": "car; blue car; red car",
    "a red fire hydrant near a road": "fire hydrant; red fire hydrant",
    "an orange cat next to a bowl of oranges": "cat; orange cat; bowl; orange",
    "a yellow banana, a green apple": "banana; yellow banana; apple; green apple",
    "a man in a black tie": "person; tie; black tie",
    "a dog and black cat": "dog; cat; black cat",
    # No colour: several at once, of something else, of what has none.
    "a red and white bus parked near a tree": "bus",
    "a red, white and blue bus": "bus",
    "a black-and-white cat": "cat",
    "a tan and white dog": "dog",
    "a glass of red wine beside a pizza": "wine glass; pizza",
    "a red wine glass": "wine glass",
    "a bottle of red wine": "bottle",
    "a white wine bottle": "bottle",
    "a yellow school bus": "bus",
    "a green traffic light": "traffic light",
    "a black man with a hat": "person",
    "a black and white photo of a red bus": "bus",
    # Positions.
    "a black cat on top of a white chair": "cat; black cat; chair; white chair; cat above chair",
    "two dogs and a red car left of a bench": "dog; 2 dog; car; red car; bench; car left of bench",
    "A red stop sign on the left of a bus": "stop sign; red stop sign; bus; stop sign left of bus",
    "a vase on the left side of a clock": "vase; clock; vase left of clock",
    "a teddy bear to the right of a cat": "teddy bear; cat; teddy bear right of cat",
    "A bird is flying above a boat": "bird; boat; bird above boat",
    "a clock right above a bench": "clock; bench; clock above bench",
    "a cat that is sitting directly under a car": "cat; car; cat below car",
    "a dog lying beneath two chairs": "dog; chair; 2 chair; dog below chair",
    # No position: of what is no class, of the same class, no clear word.
    "a laptop on top of a desk": "laptop",
    "a cat above a cat": "cat",
    "a blanket over a bed": "bed",
    "a kite over a boat": "kite; boat",
    "a bench to the right": "bench",
    "a cup on a table": "cup; dining table",
    # Nothing at all: other nouns, other things, what is not there.
    "a dog begging for a hot dog": "",  # `soa` excludes both.
    "the dog's collar is red": "",
    "a cat cafe": "",
    "a horse drawn carriage": "",
    "A painting of a horse": "",
    "a toy car on a table": "",
    "no people on the beach": "",
    "a hat like a cat": "",
    "a cake pan": "",
    "an orange and a lemon": "",
    "a cat looking into a mirror": "",
    "": "",
}


@pytest.mark.parametrize(("caption", "expected"), CAPTIONS.items())
def test_a_caption_makes_claims(caption, expected):
    found = parse_claims(caption)
    assert set(found) == claims(expected) and len(set(found)) == len(found)


SOME_WORDS = "two a red and white dog cat fire hydrant , left of on top of under is sitting orange"


@settings(deadline=None, max_examples=30)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(SOME_WORDS.split()), max_size=12).map(" ".join),
    )
)
def test_any_text_makes_claims_about_classes(text):
    for claim in parse_claims(text):
        assert claim.kind in KINDS and claim.name in CLASSES and claim.number >= 1
        assert (claim.kind in ("colour", "relation")) == (claim.detail is not None)
        assert (claim.kind == "relation") == (claim.other is not None)
        assert claim.other is None or (claim.other in CLASSES and claim.other != claim.name)
    assert parse_claims(text) == parse_claims(text.upper()) or not text.isascii()
