"""Tokenizes captions into rows of WordPiece ids."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Int32

from xmc_jax.data.wordpiece import WordPiece
from xmc_jax.errors import UserError


class Tokenizer:
    """BERT's tokenizer with rows of fixed length: ``[CLS] pieces [SEP]``, then 0.

    White space is stripped at both ends and collapsed inside. A caption that is too long loses its
    last pieces; ``[SEP]`` stays.

    Args:
      vocabulary_file: WordPiece vocabulary, one piece a line.
      num_tokens: Length ``t`` of a row, at least 3.
      lowercase: Whether the vocabulary is uncased.
    """

    def __init__(self, vocabulary_file: epath.PathLike, num_tokens: int, lowercase: bool = True):
        text = epath.Path(vocabulary_file).read_text(encoding="utf-8")
        self._vocabulary = text.removesuffix("\n").split("\n")
        self.num_tokens = num_tokens
        self._split = WordPiece(self._vocabulary, lowercase)
        ids = self._split.ids
        self._cls, self._sep, self._unk = (ids[name] for name in ("[CLS]", "[SEP]", "[UNK]"))

    def __call__(self, captions: Sequence[str]) -> Int32[np.ndarray, "n t"]:
        """Token ids of each caption; raises UserError if a caption is empty."""
        tokens = np.zeros((len(captions), self.num_tokens), np.int32)
        for row, pieces in zip(tokens, self._pieces(captions), strict=True):
            pieces = [self._cls, *pieces[: self.num_tokens - 2], self._sep]
            row[: len(pieces)] = pieces
        return tokens

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Number of tokens of each caption, with [CLS] and [SEP], before truncation."""
        return [len(pieces) + 2 for pieces in self._pieces(captions)]

    def unknown_counts(self, captions: Sequence[str]) -> list[int]:
        """Number of pieces of each caption that are not in the vocabulary."""
        return [pieces.count(self._unk) for pieces in self._pieces(captions)]

    def pieces(self, tokens: Int32[np.ndarray, " t"]) -> list[str]:
        """The word pieces of a row of token ids, including [CLS] and [SEP], without padding."""
        return [self._vocabulary[token] for token in tokens if token]

    def _pieces(self, captions: Sequence[str]) -> list[list[int]]:
        pieces = list(map(self._split, captions))
        if not all(pieces):
            raise UserError("a caption is empty; every image needs words")
        return pieces
