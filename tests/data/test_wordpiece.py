"""wordpiece.py against tensorflow-text, and where both leave BERT's own rules, against these."""

import itertools

import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from hypothesis import given
from hypothesis import strategies as st

from tests.places import ROOT
from xmc_jax.data.wordpiece import MAX_WORD_LENGTH, WordPiece, clean, uncase
from xmc_jax.shapes.captions import make_example

LAYOUTS = ("full", "one", "two", "narrative")
WORDS = ("a", "naïve", "ÀÉ", "straße", "ﬁre", "x=1", "don't—stop…", "½™", "赤い円", "☃", "İ")


@pytest.fixture(scope="module")
def vocabulary():
    text = (ROOT / "xmc_jax" / "demo" / "shapes" / "vocab.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


@pytest.fixture(scope="module")
def reference(vocabulary):
    """``tokenize(texts) -> ids``, with tensorflow-text's splitting; cleaned and uncased before,
    because it would fold case, which BERT's own tokenizer does not."""
    fast = tf_text.FastBertTokenizer(
        vocabulary, token_out_type=tf.int32, lower_case_nfd_strip_accents=False
    )
    return lambda texts: fast.tokenize(tf.constant(texts)).to_list()


def test_captions_of_the_data_sets(vocabulary, reference):
    examples = (make_example("train", i, layout) for i in range(640) for layout in LAYOUTS)
    captions = [c.text for c in itertools.chain.from_iterable(e.captions for e in examples)]
    assert len(captions) > 10_000
    split = WordPiece(vocabulary, lowercase=True)
    assert list(map(split, captions)) == reference([text.lower() for text in captions])


@given(words=st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=5))
def test_any_text(vocabulary, reference, words):
    for lowercase in (True, False):
        cleaned = clean(" ".join(words))
        cleaned = uncase(cleaned) if lowercase else cleaned
        assert WordPiece(vocabulary, lowercase)(" ".join(words)) == reference([cleaned])[0]


def test_words_that_are_too_long_are_unknown(vocabulary):
    """In characters, as the authors count; tensorflow-text counts bytes."""
    split = WordPiece(vocabulary, lowercase=True)
    unknown = vocabulary.index("[UNK]")
    for letter in ("x", "ж"):
        assert unknown not in split(letter * MAX_WORD_LENGTH)
        assert split(f"a {letter * (MAX_WORD_LENGTH + 1)}") == [vocabulary.index("a"), unknown]


def test_nothing_but_white_space_and_controls_has_no_pieces(vocabulary):
    assert WordPiece(vocabulary, lowercase=True)(" \t\u200b\x00\ufffd\n") == []
