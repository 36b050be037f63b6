"""Captions in text files and JSON objects."""

import re

# The caption files of Tux Paint's stamps have an English line, then translations like these.
_TRANSLATION = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?(@[a-z]+)?\.utf8=")


def parse_lines(data: bytes) -> list[str]:
    """The lines of a caption file, without translations; raises UnicodeDecodeError."""
    lines = data.decode("utf-8-sig").splitlines()
    return [line for line in lines if not _TRANSLATION.match(line)]


def parse_fields(fields: object) -> list[str]:
    """The ``captions`` (a list) or ``caption`` (a string) of an object; raises ValueError."""
    captions = None
    if isinstance(fields, dict):
        captions = fields.get("captions", fields.get("caption"))
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ValueError('no "captions"')
    return captions
