"""The one error that users see: what is wrong, with which file, in a line."""

from collections.abc import Iterator
from contextlib import contextmanager


class GraphoptError(Exception):
    """Bad input. The command line prints its message as one line and exits with code 3."""


@contextmanager
def about(subject: object) -> Iterator[None]:
    """Errors of the block begin with what they are about (a file, most often), unless they do already.

    Raises:
        GraphoptError: the block did.
    """
    try:
        yield
    except GraphoptError as error:
        text = str(error)
        raise GraphoptError(text if text.startswith(f"{subject}: ") else f"{subject}: {text}") from None
