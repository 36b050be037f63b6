"""Reads the files of Localized Narratives: transcripts of long spoken descriptions of images.

Each line is a JSON object. The full files also have mouse traces and the time of each word, and
gigabytes of them; they are read line by line.

Format: https://google.github.io/localized-narratives
"""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from xmc_jax.errors import UserError, reason

ADDRESS = "https://storage.googleapis.com/localized-narratives/annotations/"


class Narrative(NamedTuple):
    """One description by one annotator; an image may have several.

    Attributes:
      dataset_id: ``"mscoco_train2017"``, ``"open_images_train"``, …
      image_id: Id of the image in its data set; without leading zeros in COCO.
      caption: The description.
    """

    dataset_id: str
    image_id: str
    caption: str


def read_narratives(path: str | os.PathLike) -> Iterator[Narrative]:
    """Yields the narratives of a file in order, without traces and times.

    The file has the captions alone (``…_captions.jsonl``) or is a full one
    (``…_localized_narratives….jsonl``).

    Raises:
      UserError: a line is not JSON or lacks a field; names the file and the line.
    """
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                narrative = Narrative(*(fields[name] for name in Narrative._fields))
                for name, value in narrative._asdict().items():
                    if not isinstance(value, str):
                        raise TypeError(f"{name} is {value!r}, not a string")
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                why = f"no field {error}" if isinstance(error, KeyError) else reason(error)
                raise UserError(
                    f"{path}, line {number} is not a narrative ({why}); download the file again "
                    f"from {ADDRESS}"
                ) from error
            yield narrative
