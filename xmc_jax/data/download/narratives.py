"""The files of Localized Narratives: long spoken descriptions of pictures, written down.

One JSON object a line. The full files hold a mouse trace and times for every word besides, and
are gigabytes long; nothing of them but what is used stays in memory.

Format: https://google.github.io/localized-narratives
"""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from xmc_jax.errors import UserError

ADDRESS = "https://storage.googleapis.com/localized-narratives/annotations/"


class Narrative(NamedTuple):
    """One description by one annotator; a picture may have several.

    Attributes:
      dataset_id: ``"mscoco_train2017"``, ``"open_images_train"``, …
      image_id: As the data set has it; without leading zeros in COCO.
      caption: The description.
    """

    dataset_id: str
    image_id: str
    caption: str


def read_narratives(path: str | os.PathLike) -> Iterator[Narrative]:
    """The narratives of a file, in its order; traces and times are passed over.

    Args:
      path: A file of captions (``…_captions.jsonl``) or a full one
        (``…_localized_narratives….jsonl``).

    Raises:
      UserError: a line is no JSON, or lacks a field; names the file and the line.
    """
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                narrative = Narrative(*(fields[name] for name in Narrative._fields))
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else error
                raise _bad_line(path, number, reason) from error
            for name, value in zip(Narrative._fields, narrative, strict=True):
                if not isinstance(value, str):
                    raise _bad_line(path, number, f"{name} is {value!r}, not a string")
            yield narrative


def _bad_line(path: str | os.PathLike, number: int, reason: object) -> UserError:
    return UserError(
        f"{path}, line {number} is not a narrative ({reason}); download the file again from "
        f"{ADDRESS}"
    )
