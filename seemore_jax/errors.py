"""The one exception that means: something given to this program is wrong."""


class InputError(ValueError):
    """A file, option or array from outside cannot be used.

    The message is one line that says what is wrong, where, and what to do. The commands print it and
    exit with status 2; inside Python it is an ordinary `ValueError`.
    """
