"""Errors that users can mend, and the one line that an error becomes. Imports nothing heavy."""

_MAX_CHARACTERS = 200


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
