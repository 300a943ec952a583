"""The exception for wrong input, and errors as one line."""


class InputError(ValueError):
    """A file, option or array from outside cannot be used.

    The message is one line that says what is wrong, where, and what to do. The commands print it and
    exit with status 2; inside Python it is an ordinary `ValueError`.
    """


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line of at most 200 characters; its type if it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__
