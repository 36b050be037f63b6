"""BERT's WordPiece tokenizer (Devlin et al. 2019), with the standard library alone.

Exported models take this file along: it imports nothing of the package.
"""

import functools
import unicodedata

# Longer words are unknown, as in the authors' tokenizer.
MAX_WORD_LENGTH = 100

# Blocks of Chinese characters, each of which is a word.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Turns text into the ids of word pieces, without ``[CLS]`` and ``[SEP]``.

    Text is split at white space and around punctuation. Each word becomes the longest pieces of the
    vocabulary, from the left; or ``[UNK]``, if no pieces make it up.

    Args:
      vocabulary: The pieces, in the order of their ids.
      lowercase: Whether the vocabulary is uncased: text loses case and accents.
    """

    def __init__(self, vocabulary: list[str], lowercase: bool):
        self.ids = {piece: index for index, piece in enumerate(vocabulary)}
        self._lowercase = lowercase
        self._split_word = functools.lru_cache(maxsize=2**16)(self._split_word)  # Words repeat.

    def __call__(self, text: str) -> list[int]:
        """The ids of a text's pieces; none if it holds nothing but white space and controls."""
        text = clean(text)
        if self._lowercase:
            text = uncase(text)
        spaced = "".join(f" {c} " if _stands_alone(c) else c for c in text)
        return [index for word in spaced.split() for index in self._split_word(word)]

    def _split_word(self, word: str) -> tuple[int, ...]:
        if len(word) > MAX_WORD_LENGTH:
            return (self.ids["[UNK]"],)
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                if (piece := prefix + word[start:end]) in self.ids:
                    break
            else:
                return (self.ids["[UNK]"],)
            found.append(self.ids[piece])
            start = end
        return tuple(found)


def clean(text: str) -> str:
    """Collapses white space and drops control and format characters."""
    if not text.isascii() or not text.isprintable():
        text = "".join(c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
        text = text.replace("\ufffd", "")
    return " ".join(text.split())


def uncase(text: str) -> str:
    """Lower case without accents. Ligatures stay: folding case would make two letters of them."""
    text = text.lower()
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


@functools.lru_cache(maxsize=2**12)
def _stands_alone(c: str) -> bool:
    """Whether a character is a word by itself: punctuation, an ASCII symbol, an ideograph."""
    ascii_symbol = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    ideograph = any(low <= ord(c) <= high for low, high in _IDEOGRAPHS)
    return ascii_symbol or ideograph or unicodedata.category(c)[0] == "P"
