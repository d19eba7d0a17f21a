"""Folders and archives of models, with a list of the shapes at which each one ran and how often."""

import csv
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from graphopt import captures_file
from graphopt.captures_file import Entry
from graphopt.errors import GraphoptError, about

LISTINGS = (captures_file.NAME, "captures.csv")
"""Names under which a folder's own list is looked for."""

MOST_GROWTH = 200
"""An archive may unpack to so many times its own size; weights hardly shrink, and text by less than this."""
LEAST_LIMIT = 2**28
"""Bytes that any archive may unpack to."""
MOST_FILES = 100_000

_BLOCK = 2**20


# ---------------------------------------------------------------------------------------------------- listings


def read_listing(path: Path) -> tuple[Entry, ...]:
    """The captures that a file lists: a ``captures.toml``, or CSV.

    CSV has the columns ``model`` (a path in the folder), ``executions`` and ``shapes``
    (``x=8x3x224x224;scale=``, as ``--shape`` takes them; empty: as the model declares them).

    Raises:
        GraphoptError: it cannot be read, or says something that is not understood.
    """
    if path.suffix.lower() != ".csv":
        return captures_file.read(path)
    try:
        with about(path), path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            known = {"model", "executions", "shapes"}
            if unknown := sorted(set(rows.fieldnames or ()) ^ known):
                raise GraphoptError(f"its columns must be model, executions and shapes; {unknown[0]!r} differs")
            return tuple(_entry(row, rows.line_num) for row in rows)
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise GraphoptError(f"{path}: not a CSV file: {error}") from None


def _entry(row: dict[str, str | None], line: int) -> Entry:
    model, executions, shapes = (row.get(column) for column in ("model", "executions", "shapes"))
    if model is None or executions is None or shapes is None or None in row:
        raise GraphoptError(f"line {line} does not have three columns")
    with about(f"line {line}"):
        return captures_file.entry({"model": model, "executions": _number(executions), "shapes": _shapes(shapes)})


def _number(text: str) -> int | str:
    return int(text) if text.strip().isdecimal() else text


def _shapes(text: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for part in text.split(";") if text.strip() else ():
        name, _, sizes = part.strip().rpartition("=")
        numbers = sizes.split("x") if sizes else []
        if not name or not all(number.isdecimal() for number in numbers):
            raise GraphoptError(f"{part.strip()!r} is not NAME=1x3x224x224")
        if name in shapes:
            raise GraphoptError(f"{name!r} has two shapes")
        shapes[name] = [int(number) for number in numbers]
    return shapes


def entries_of(folder: Path, listing: Path | None = None) -> dict[str, list[Entry]]:
    """Entries of a folder by model; every ``.onnx`` file of one without a list, at its declared shapes.

    Args:
        folder: the models.
        listing: the list; None looks for one of ``LISTINGS`` in the folder.

    Raises:
        GraphoptError: as ``read_listing``; nothing is listed, and no model is there.
    """
    if listing is None:
        listing = next((folder / name for name in LISTINGS if (folder / name).is_file()), None)
    if listing is not None:
        entries = captures_file.merged(read_listing(listing))
    else:
        models = sorted(path.relative_to(folder) for path in folder.rglob("*.onnx") if path.is_file())
        entries = tuple(
            Entry(path.as_posix()) for path in models if not any(part.startswith(".") for part in path.parts)
        )
    if not entries:
        raise GraphoptError(f"{listing or folder}: no models in it")
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.model, []).append(entry)
    return found


# ---------------------------------------------------------------------------------------------------- archives


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except OSError:
        return False
    except Exception:  # of zlib, lzma or bz2: a torn one, and ``opened`` says so
        return True


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of models at a path; an archive is unpacked into a temporary one.

    Links and special files of an archive are left out; nothing is ever written outside of the temporary folder.

    Raises:
        GraphoptError: it cannot be read; a file of it would lie outside of the folder, or is larger than it may be.
    """
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        folder = Path(scratch)
        try:
            limit = min(max(LEAST_LIMIT, MOST_GROWTH * path.stat().st_size), shutil.disk_usage(folder).free)
            _unpack(path, folder, limit)
        except GraphoptError as error:
            raise GraphoptError(f"{path}: {error}") from None
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise GraphoptError(f"{path}: cannot be unpacked: {' '.join(str(error).split())}") from None
        except Exception as error:  # zlib, lzma and bz2 each have errors of their own
            raise GraphoptError(f"{path}: cannot be unpacked: {type(error).__name__}") from None
        yield folder


def _unpack(path: Path, folder: Path, limit: int) -> None:
    left = limit
    for count, (name, size, stream) in enumerate(_members(path)):
        if count >= MOST_FILES:
            raise GraphoptError(f"more than {MOST_FILES} files in it")
        target = _inside(folder, name)
        if size > left:
            raise GraphoptError(
                f"unpacks to more than {limit} bytes, {limit // max(path.stat().st_size, 1)} times its size"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream, target.open("xb") as copy:
            while block := stream.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:  # whatever size it claims
                    raise GraphoptError(f"unpacks to more than {limit} bytes")
                copy.write(block)


def _members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, claimed size and content of each regular file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                kind = entry.external_attr >> 28  # of Unix: 10 is a link
                if not entry.is_dir() and kind in (0, 8):
                    yield entry.filename, entry.file_size, archive.open(entry)
        return
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, member.size, content


def _inside(folder: Path, name: str) -> Path:
    """Where a file of an archive goes."""
    relative = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in relative.parts if part != "."]
    if relative.is_absolute() or not parts or ".." in parts or "\0" in name or ":" in parts[0]:
        raise GraphoptError(f"{name!r} lies outside of the archive")
    return folder.joinpath(*parts)
