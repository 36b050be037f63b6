"""The one kind of error that is the user's to mend. Imports nothing: `--help` must not wait."""


class UserError(ValueError):
    """A mistake the user can mend: one line that names the thing and the mend.

    The verbs print it as ``error: …`` and exit with code 2, without a stack trace.
    """
