"""Names of the prepared forms of the data set: ``sq32``, ``narrative_sq64``, ``one_sq32_n400``.

A name is the layout (none for the full one), the resolution, and perhaps how many training examples
there are; the other splits shrink as much.
"""

import re
from typing import NamedTuple

from xmc_jax.errors import UserError
from xmc_jax.shapes.scenes import LAYOUTS, SPLITS

_MIN_RESOLUTION = 16
_PREFIXES = {f"{layout}_": layout for layout in LAYOUTS if layout != "full"} | {"": "full"}


class PreparedForm(NamedTuple):
    """What the name of a form says."""

    layout: str  # One of `scenes.LAYOUTS`.
    resolution: int  # Side of the images in pixels.
    fraction: float  # Of each split that is prepared, over 0 to 1.


def parse_form(name: str) -> PreparedForm:
    """What the name of a form says.

    Raises:
      UserError: There is no such form, its resolution is below 16, or it has too many examples.
    """
    match = re.fullmatch(rf"({'|'.join(_PREFIXES)})sq([1-9]\d*)(?:_n([1-9]\d*))?", name)
    if not match:
        raise UserError(
            f"no form {name!r}; forms are like sq32, narrative_sq64, one_sq32, two_sq64, sq32_n400"
        )
    resolution = int(match[2])
    fraction = int(match[3]) / SPLITS["train"] if match[3] else 1.0
    if resolution < _MIN_RESOLUTION:
        raise UserError(
            f"form {name!r}: shapes cannot be told apart below {_MIN_RESOLUTION} pixels"
        )
    if fraction > 1:
        raise UserError(f"form {name!r}: there are {SPLITS['train']} training examples")
    return PreparedForm(_PREFIXES[match[1]], resolution, fraction)
