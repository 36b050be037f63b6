"""Names of the prepared forms of the data set: ``sq64``, ``sq64_black``, ``sq128_any_de``.

A name is the resolution, the background (none for white) and the locale of the captions (none for
English). Each form has one name.
"""

import re
from typing import NamedTuple

from xmc_jax.errors import UserError

# "any" draws a colour for each training example; the other splits stay white.
BACKGROUNDS = ("white", "black", "any")
LOCALES = (
    *("en", "bn", "da", "de", "en-gb", "es", "es-mx", "et", "fi", "fr", "hi", "hu", "it", "ja"),
    *("ko", "lt", "ms", "nb", "nl", "pl", "pt", "ru", "sv", "th", "uk", "vi", "zh", "zh-hant"),
)
_MIN_RESOLUTION, _MAX_RESOLUTION = 16, 256  # The published images have 256 pixels.


class PreparedForm(NamedTuple):
    """What the name of a form says."""

    resolution: int  # Side of the images in pixels.
    background: str = BACKGROUNDS[0]
    locale: str = LOCALES[0]

    @property
    def name(self) -> str:
        """The name that `parse_form` understands."""
        background = f"_{self.background}" * (self.background != BACKGROUNDS[0])
        return f"sq{self.resolution}{background}" + f"_{self.locale}" * (self.locale != LOCALES[0])


def parse_form(name: str) -> PreparedForm:
    """What the name of a form says.

    Raises:
      UserError: There is no such form or locale, or its resolution is below 16 or above 256.
    """
    backgrounds, locales = BACKGROUNDS[1:], LOCALES[1:]
    pattern = rf"sq([1-9]\d*)(?:_({'|'.join(backgrounds)}))?(?:_([a-z]+(?:-[a-z]+)?))?"
    match = re.fullmatch(pattern, name)
    if not match:
        raise UserError(
            f"no form {name!r}; forms are like sq64, sq64_black, sq64_any, sq64_de, sq128_any_de"
        )
    resolution, background, locale = int(match[1]), match[2], match[3]
    if locale and locale not in locales:
        raise UserError(
            f"form {name!r}: {locale!r} is no background ({', '.join(backgrounds)}) and no locale "
            f"({', '.join(locales)})"
        )
    if not _MIN_RESOLUTION <= resolution <= _MAX_RESOLUTION:
        raise UserError(f"form {name!r}: emoji have {_MIN_RESOLUTION} to {_MAX_RESOLUTION} pixels")
    return PreparedForm(resolution, background or BACKGROUNDS[0], locale or LOCALES[0])
