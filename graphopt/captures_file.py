"""``captures.toml``: which models of a corpus ran, at which input shapes, how often."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from graphopt.errors import GraphoptError, about
from graphopt.graph import Shape
from graphopt.model_inputs import Range
from graphopt.views import VIEWS, ViewName

NAME = "captures.toml"
SCHEMA_VERSION = 1
_KEYS = {"model", "executions", "shapes", "ranges", "view"}


@dataclass(frozen=True)
class Entry:
    """One ``[[capture]]``.

    Attributes:
        model: path of the model's file, relative to the corpus folder, with slashes.
        shapes: input name to shape; inputs whose shape the model declares may be missing.
        executions: how many times the model ran with these shapes.
        ranges: input name to (low, high) of its values.
        view: the view that the stored file already is; None when it is as exported.
    """

    model: str
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    executions: int = 1
    ranges: Mapping[str, Range] = field(default_factory=dict)
    view: ViewName | None = None


def read(path: Path) -> tuple[Entry, ...]:
    """The entries of a file, in its order.

    Raises:
        GraphoptError: it cannot be read, is not TOML, or says something that is not understood.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GraphoptError(f"{path}: not a TOML file: {error}") from None
    version = document.pop("schema_version", None)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise GraphoptError(f"{path}: schema_version is {version!r}; this release reads {SCHEMA_VERSION}")
    rows = document.pop("capture", [])
    if document:
        raise GraphoptError(f"{path}: unknown key {min(document)!r}")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GraphoptError(f"{path}: capture must be an array of tables, [[capture]]")
    with about(path):
        return tuple(entry(row) for row in rows)


def entry(row: Mapping[str, object]) -> Entry:
    """An entry from the keys and values of a ``[[capture]]``.

    Raises:
        GraphoptError: a key is unknown, or a value is not what it must be.
    """
    model = row.get("model")
    if not isinstance(model, str) or not model:
        raise GraphoptError("a capture does not name its model")
    if unknown := sorted(row.keys() - _KEYS):
        raise GraphoptError(f"capture of {model}: unknown key {unknown[0]!r}")
    path = PurePosixPath(model.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise GraphoptError(f"capture of {model}: the model must be inside of the corpus folder")
    executions = row.get("executions", 1)
    if not isinstance(executions, int) or isinstance(executions, bool) or executions < 1:
        raise GraphoptError(f"capture of {model}: executions must be a whole number above 0")
    view = row.get("view")
    if view is not None and view not in VIEWS:
        raise GraphoptError(f"capture of {model}: view must be one of {', '.join(VIEWS)}")
    shapes = {name: _shape(model, name, value) for name, value in _table(model, row, "shapes").items()}
    ranges = {name: _range(model, name, value) for name, value in _table(model, row, "ranges").items()}
    return Entry(str(path), shapes, executions, ranges, view)


def _table(model: str, row: Mapping[str, object], key: str) -> Mapping[str, object]:
    table = row.get(key, {})
    if not isinstance(table, dict):
        raise GraphoptError(f"capture of {model}: {key} must be a table")
    return table


def _shape(model: str, name: str, value: object) -> Shape:
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value):
        raise GraphoptError(f"capture of {model}: the shape of {name!r} must be a list of whole numbers")
    return tuple(value)


def _range(model: str, name: str, value: object) -> Range:
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not isinstance(value, list) or not numbers or len(value) != 2 or not value[0] <= value[1]:
        raise GraphoptError(f"capture of {model}: the range of {name!r} must be [low, high]")
    return (value[0], value[1])


def text(entries: Sequence[Entry]) -> str:
    """The file's content for these entries; entries of the same model, shapes, ranges and view are added up."""
    lines = [f"schema_version = {SCHEMA_VERSION}"]
    for entry in merged(entries):
        lines += ["", "[[capture]]", f"model = {_quoted(entry.model)}", f"executions = {entry.executions}"]
        if entry.view is not None:
            lines.append(f"view = {_quoted(entry.view)}")
        if entry.shapes:
            lines.append("[capture.shapes]")
            lines += [f"{_quoted(name)} = {list(shape)}" for name, shape in entry.shapes.items()]
        if entry.ranges:
            lines.append("[capture.ranges]")
            lines += [f"{_quoted(name)} = {list(bounds)}" for name, bounds in entry.ranges.items()]
    return "\n".join(lines) + "\n"


def merged(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Entries with the same model, shapes, ranges and view as one with the sum of their executions; order is kept."""
    found: dict[object, Entry] = {}
    for entry in entries:
        key = (entry.model, entry.view, tuple(sorted(entry.shapes.items())), tuple(sorted(entry.ranges.items())))
        before = found[key].executions if key in found else 0
        found[key] = Entry(entry.model, entry.shapes, before + entry.executions, entry.ranges, entry.view)
    return tuple(found.values())


def _quoted(name: str) -> str:
    """A TOML basic string: JSON's escapes, and DEL, which JSON lets through."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007F")
