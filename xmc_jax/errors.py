"""Errors that users can mend, and the one line that an error becomes. Imports nothing heavy."""

import difflib
import re
from collections.abc import Iterable

_MAX_CHARACTERS = 200
_NEAR = 0.7  # Similarity of names that may be meant.


class UserError(ValueError):
    """A mistake that the user can mend: one line that names the thing and the mend.

    The verbs print it as ``error: …`` and exit with code 2, without a stack trace.
    """


def reason(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters.

    The operating system's words for an `OSError` that has them, otherwise the first line of the
    message that is not blank, otherwise the name of the error's type.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = (line.strip() for line in str(error).splitlines())
    text = next(filter(None, lines), type(error).__name__)
    return text[:_MAX_CHARACTERS] + "…" * (len(text) > _MAX_CHARACTERS)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean NAME?"``, with the nearest of some names; empty if none is near."""
    scores = {candidate: _similarity(name, candidate) for candidate in known}
    best = max(scores.values(), default=0.0)
    near = [candidate for candidate, score in scores.items() if score == best]
    return f"; did you mean {' or '.join(near[:2])}?" if best >= _NEAR else ""


def _similarity(name: str, candidate: str) -> float:
    """From 0 to 1: of the whole names or, on average, of each word of one to the nearest word."""

    def ratio(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one, other).ratio()

    words, others = (re.split(r"[._/]", text) for text in (name, candidate))
    by_word = sum(max(ratio(word, other) for other in others) for word in words) / len(words)
    return max(ratio(name, candidate), by_word)
