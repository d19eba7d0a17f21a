"""Writing files so that a reader finds either the old file or the new one, whole, whenever the writer is stopped.

And reading JSON that anybody may have written.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError


def token() -> str:
    """A part of a file name that no other process, on any machine, comes up with."""
    return secrets.token_hex(6)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Folders that are missing are made. What stands at the temporary path is removed on any error, interruption
    included; the temporary name starts with a dot and keeps the suffix, for programs that look at it.

    Args:
        path: the file to write.

    Yields:
        The path to write to; nothing stands there yet.

    Raises:
        GraphoptError: the folder or the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraphoptError(f"{path.parent}: cannot make the folder: {error.strerror or error}") from None
    temporary = path.with_name(f".{path.stem}.{token()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary, os.fsencode(temporary)):
            raise GraphoptError(f"{path}: cannot write: {error.strerror or error}") from None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole.

    Args:
        path: the file; its folder is made when missing.
        content: what it shall hold.

    Raises:
        GraphoptError: it cannot be written.
    """
    with staged(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file whole, with line ends as they are.

    Args:
        path: the file; its folder is made when missing.
        content: what it shall hold.

    Raises:
        GraphoptError: it cannot be written.
    """
    write_bytes(path, content.encode("utf-8"))


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is not JSON, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
