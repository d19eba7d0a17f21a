"""Result files, whatever is in them: read one, and make its document."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from graphopt.errors import GraphoptError
from graphopt.files import parse_json
from graphopt.report import (
    benchmark,
    characterization,
    corpus,
    difference,
    explanation,
    opportunities,
    plan,
    profile,
    run,
    verification,
    what_if,
)
from graphopt.report.document import Document

DOCUMENTS: Mapping[str, Callable[[Mapping[str, Any]], Document]] = {
    "opportunities": opportunities.document,
    "characterization": characterization.document,
    "difference": difference.document,
    "explanation": explanation.document,
    "plan": plan.document,
    "verification": verification.document,
    "benchmark": benchmark.document,
    "profile": profile.document,
    "run": run.document,
    "corpus": corpus.document,
    "what-if": what_if.document,
}
"""What makes a document of each kind of file."""

SCHEMA_VERSION = 1

Made = TypeVar("Made")


def read(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        GraphoptError: it cannot be read, is no result of graphopt or one of another version.
    """
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read: {error.strerror or error}") from None
    except ValueError:
        raise GraphoptError(f"{path}: not a result file of graphopt: not JSON") from None
    if not isinstance(data, dict) or data.get("kind") not in DOCUMENTS:
        kinds = ", ".join(DOCUMENTS)
        raise GraphoptError(f"{path}: not a result file of graphopt: its kind is none of {kinds}")
    if data.get("schema_version") != SCHEMA_VERSION:
        version = data.get("schema_version")
        raise GraphoptError(f"{path}: schema_version is {version!r}; this release reads {SCHEMA_VERSION}")
    return data


def read_kind(path: Path, kind: str) -> dict[str, Any]:
    """The content of a result file of one kind.

    Raises:
        GraphoptError: as ``read``, or the file is of another kind.
    """
    data = read(path)
    check_kind(path, data, kind)
    return data


def check_kind(path: Path, data: Mapping[str, Any], kind: str) -> None:
    """Whether a file's content is of this kind.

    Raises:
        GraphoptError: it is not.
    """
    if data["kind"] != kind:
        raise GraphoptError(f"{path}: holds {data['kind']!r}, where {kind!r} is needed")


def document(path: Path, data: Mapping[str, Any]) -> Document:
    """The document of a result file.

    Args:
        path: the file, for messages.
        data: its content.

    Raises:
        GraphoptError: something is missing in it or has another form.
    """
    return checked(path, lambda: DOCUMENTS[data["kind"]](data))


def checked(path: Path, make: Callable[[], Made]) -> Made:
    """What is made of a file's content.

    Args:
        path: the file, for messages.
        make: makes it.

    Raises:
        GraphoptError: something is missing in the content or has another form.
    """
    try:
        return make()
    except KeyError as error:
        raise GraphoptError(f"{path}: not a whole result file: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise GraphoptError(f"{path}: not a valid result file: {error}") from None
