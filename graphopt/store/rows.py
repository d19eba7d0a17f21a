"""The files of one table of a corpus: appended by any number of processes without locks, compacted, and added up."""

import itertools
import os
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from graphopt import files
from graphopt.errors import GraphoptError
from graphopt.store import tables
from graphopt.store.folders import Folder
from graphopt.store.tables import Kind

if TYPE_CHECKING:
    import pyarrow as pa

COMPACTED = "compacted-"
"""How the names of compacted files begin; no other file's name does."""

LATE = timedelta(hours=1)
"""So long after the moment in its name, a file may still appear: whoever does not know that it did writes it again."""

_READERS = 16
_WAITING_ROWS = 1_000_000
"""Rows that are read before they are added up, which bounds memory."""
_ATTEMPTS = 20
_MOMENT = "%Y%m%dT%H%M%S.%fZ"

_sequence = itertools.count()

Problem = Callable[[str], None]
"""Called with a line for each file that cannot be used."""


@dataclass(frozen=True)
class Standing:
    """Which of some files count.

    Attributes:
        live: sorted names of those that do.
        dead: sorted names of those that a compacted file stands for.
        replaces: what each compacted file stands for.
        read: rows of the compacted files.
        broken: a line for each compacted file that cannot be read, by its name; it is neither live nor dead.
    """

    live: list[str]
    dead: list[str]
    replaces: Mapping[str, frozenset[str]]
    read: "Mapping[str, pa.Table]"
    broken: Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """A table of a corpus, in any number of files.

    Attributes:
        folder: the corpus.
        kind: which table.
    """

    folder: Folder
    kind: Kind

    def append(self, table: "pa.Table", name: str | None = None) -> str:
        """Store rows in a file of their own; nobody else's file is touched.

        Args:
            table: the rows.
            name: the file's, from ``file_name``, where it may be written again; a new one when not given.

        Returns:
            The file's name.

        Raises:
            GraphoptError: it cannot be written, or nobody can say whether it was. Written again under the same name
                it counts once, until ``LATE`` after the moment in its name.
        """
        name = name or file_name()
        self.write(name, tables.to_parquet(table))
        return name

    def total(self, on_problem: Problem | None = None) -> "pa.Table":
        """All rows, with equal ones added up; sorted.

        Files that a compacted file replaces are not read, and files that vanish meanwhile make it look again, so that
        nothing counts twice or is missed while others append and compact.

        Args:
            on_problem: told of files that are broken, which are then left out; without it they are errors.

        Raises:
            GraphoptError: the corpus cannot be read, or a file of it is broken.
        """
        for _ in range(_ATTEMPTS):
            try:
                standing = self.standing(self.names())
                found, _, broken = self.added_up(standing.live, standing.read)
            except FileNotFoundError:  # compacted while we read
                continue
            for problem in [*standing.broken.values(), *broken.values()]:
                if on_problem is None:
                    raise GraphoptError(problem)
                on_problem(problem)
            return found
        raise GraphoptError(f"{self.folder.url}/{self.kind.folder}: files keep vanishing while they are read")

    def names(self) -> list[str]:
        """Sorted names of all files, compacted and replaced ones included.

        A folder is not listed in one instant: a listing could miss a compacted file that is new and the files that
        are deleted after it. Of two listings in a row with the same compacted files, the second misses only what a
        compacted file replaced that appeared after the first: so what stands in either is all.
        """
        names = self.folder.names(self.kind.folder, ".parquet")
        for _ in range(_ATTEMPTS):
            before, names = names, self.folder.names(self.kind.folder, ".parquet")
            if _compacted(before) == _compacted(names):
                return sorted({*before, *names})
        raise GraphoptError(f"{self.folder.url}/{self.kind.folder}: compacted again and again while it is listed")

    def standing(self, names: Iterable[str]) -> Standing:
        """Which of these files count.

        Raises:
            FileNotFoundError: a compacted one went away meanwhile.
        """
        listed = sorted(names)
        read: dict[str, pa.Table] = {}
        replaces: dict[str, frozenset[str]] = {}
        broken: dict[str, str] = {}
        for name in _compacted(listed):
            try:
                read[name], replaces[name] = self.read(name)
            except GraphoptError as error:
                broken[name] = str(error)
        replaced = frozenset[str]().union(*replaces.values())
        return Standing(
            [name for name in listed if name not in replaced and name not in broken],
            [name for name in listed if name in replaced],
            replaces,
            read,
            broken,
        )

    def added_up(self, names: Sequence[str], read: "Mapping[str, pa.Table]") -> "tuple[pa.Table, int, dict[str, str]]":
        """The rows of some files, with equal ones added up, in the order of the files.

        Args:
            names: of the files.
            read: rows of those of them that were read already.

        Returns:
            The sum, how many rows the files have, and a line for each file that is broken, by its name.

        Raises:
            FileNotFoundError: one went away meanwhile.
        """

        def rows_of(name: str) -> "pa.Table | str":
            try:
                return read[name] if name in read else self.read(name)[0]
            except GraphoptError as error:
                return str(error)

        found, rows = self.kind.together([]), 0
        waiting: list[pa.Table] = []
        broken: dict[str, str] = {}
        with ThreadPoolExecutor(_READERS) as readers:
            for start in range(0, len(names), 4 * _READERS):  # not all at once, which bounds memory
                some = names[start : start + 4 * _READERS]
                for name, result in zip(some, readers.map(rows_of, some), strict=True):
                    if isinstance(result, str):
                        broken[name] = result
                        continue
                    rows += result.num_rows
                    waiting.append(result)
                    if sum(table.num_rows for table in waiting) > max(_WAITING_ROWS, found.num_rows):
                        found, waiting = self.kind.together([found, *waiting]), []
        return self.kind.together([found, *waiting]), rows, broken

    def read(self, name: str) -> tuple["pa.Table", frozenset[str]]:
        """Rows of a file, and the names of the files that it replaces (none, unless it is compacted).

        Raises:
            FileNotFoundError: it is not there, or no longer.
            GraphoptError: it is broken.
        """
        content = self.folder.read(self.path(name))
        try:
            return tables.from_parquet(content, self.kind.schema())
        except GraphoptError as error:
            raise GraphoptError(f"{self.folder.url}/{self.path(name)}: {error}") from None

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole.

        Raises:
            GraphoptError: it cannot be written.
        """
        self.folder.write(self.path(name), content)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, if they are there.

        Raises:
            GraphoptError: one cannot be removed.
        """
        for name in names:
            self.folder.remove(self.path(name))

    def path(self, name: str) -> str:
        """Where in the corpus a file is."""
        return f"{self.kind.folder}/{name}"


def counted_twice(replaces: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Files that two compacted files stand for, neither of which stands for the other, with the names of those.

    Args:
        replaces: what each compacted file stands for.
    """
    replaced = frozenset[str]().union(*replaces.values())
    by: dict[str, list[str]] = defaultdict(list)
    for name in sorted(replaces):
        for one in replaces[name] if name not in replaced else ():
            by[one].append(name)
    return {one: names for one, names in sorted(by.items()) if len(names) > 1}


def _compacted(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(COMPACTED)]


def file_name() -> str:
    """A name for a file that this process writes: ``<moment>-<host>-<process>-<sequence>-<token>.parquet``.

    Names sort by time. The token keeps containers apart that share a host name and number their processes alike.
    """
    host = re.sub(r"[^A-Za-z0-9.]+", "_", socket.gethostname())[:40] or "host"
    return f"{moment()}-{host}-{os.getpid()}-{next(_sequence)}-{files.token()}.parquet"


def moment() -> str:
    """Now, as it begins the names of files and claims."""
    return datetime.now(UTC).strftime(_MOMENT)


def age(name: str) -> timedelta:
    """How long ago the moment is with which a name begins; endless, where it begins with none."""
    try:
        return datetime.now(UTC) - datetime.strptime(name.partition("-")[0], _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return timedelta.max
