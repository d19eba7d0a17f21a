"""An observed corpus: graphs by digest, and captures that any number of processes append without locks."""

import itertools
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from graphopt import files, model_files
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.store import tables
from graphopt.store.folders import Folder, is_url, open_folder
from graphopt.store.tables import Capture, OperatorTime
from graphopt.weights import drop_weights

if TYPE_CHECKING:
    import pyarrow as pa

GRAPHS = "graphs"
CAPTURES = "captures"
PROFILES = "profiles"
COMPACTED = "compacted-"
"""How the names of compacted files begin; no other file's name does."""

_READERS = 16
_AGGREGATED_ROWS = 1_000_000
"""Rows that are read before they are added up, which bounds memory."""
_ATTEMPTS = 20
_DIGEST = re.compile(r"[0-9a-f]{64}")

Problem = Callable[[str], None]
"""Called with a line for each file that cannot be used."""

_sequence = itertools.count()


@dataclass(frozen=True)
class ObservedCorpus:
    """A corpus that services write and miners read, at the same time.

    Attributes:
        folder: where it is.
    """

    folder: Folder

    def put_graph(self, model: ModelProto) -> str:
        """Store a model without its weights, unless it is there.

        Args:
            model: a checked model; its weights may be in memory, in other files (they are not read), or dropped.

        Returns:
            Its digest, by which it is found.

        Raises:
            GraphoptError: its weights cannot be dropped, or the corpus cannot be written.
        """
        light = drop_weights(model)
        found = digest(light)
        path = f"{GRAPHS}/{found}.onnx"
        if not self.folder.exists(path):
            self.folder.write(path, light.SerializeToString(deterministic=True))
        return found

    def graphs(self) -> list[str]:
        """Sorted digests of all stored graphs."""
        names = (name.removesuffix(".onnx") for name in self.folder.names(GRAPHS, ".onnx"))
        return [name for name in names if _DIGEST.fullmatch(name)]

    def graph(self, found: str) -> ModelProto:
        """A stored graph by its digest, checked; its large weights are dropped.

        Raises:
            GraphoptError: it is not there, or broken.
        """
        path = f"{GRAPHS}/{found}.onnx"
        if not _DIGEST.fullmatch(found):
            raise GraphoptError(f"{self.folder.url}: {found!r} is not the digest of a graph")
        try:
            content = self.folder.read(path)
        except FileNotFoundError:
            raise GraphoptError(f"{self.folder.url}/{path}: no such graph") from None
        return model_files.from_bytes(content, f"{self.folder.url}/{path}")

    def append(self, captures: Iterable[Capture]) -> str:
        """Store captures in a file of their own; nobody else's file is touched.

        Returns:
            The file's name.

        Raises:
            GraphoptError: it cannot be written.
        """
        return self.append_table(tables.captures_table(captures))

    def append_table(self, captures: "pa.Table") -> str:
        """Store a table of captures (``tables.captures_schema``) in a file of its own; as ``append``."""
        return self._append(CAPTURES, captures)

    def append_profile(self, times: Iterable[OperatorTime]) -> str:
        """Store sampled operator times in a file of their own; as ``append``."""
        return self._append(PROFILES, tables.profiles_table(times))

    def _append(self, folder: str, table: "pa.Table") -> str:
        name = file_name()
        self.folder.write(f"{folder}/{name}", tables.to_parquet(table))
        return name

    def captures(self, on_problem: Problem | None = None) -> "pa.Table":
        """All captures, with equal graph and shapes added up; sorted by both.

        Files that a compacted file replaces are not read, and files that vanish meanwhile make it look again, so that
        no capture counts twice or is missed while others append and compact.

        Args:
            on_problem: told of files that are broken, which are then left out; without it they are errors.

        Raises:
            GraphoptError: the corpus cannot be read, or a file of it is broken.
        """
        for _ in range(_ATTEMPTS):
            problems: list[str] = []
            try:
                found = self._read_captures(problems)
            except FileNotFoundError:  # compacted while we read
                continue
            if problems and on_problem is None:
                raise GraphoptError(problems[0])
            for problem in problems:
                on_problem(problem)  # type: ignore[misc]  # there are none without it
            return found
        raise GraphoptError(f"{self.folder.url}/{CAPTURES}: files keep vanishing while they are read")

    def _read_captures(self, problems: list[str]) -> "pa.Table":
        names = self.capture_files()
        replaced: set[str] = set()
        compacted: dict[str, pa.Table] = {}
        for name in names:
            if name.startswith(COMPACTED):
                try:
                    compacted[name], replaces = self.read_captures(name)
                    replaced |= replaces
                except GraphoptError as error:
                    problems.append(str(error))
        found = [table for name, table in compacted.items() if name not in replaced]
        rest = [name for name in names if not name.startswith(COMPACTED) and name not in replaced]

        def read(name: str) -> "pa.Table | str":
            try:
                return self.read_captures(name)[0]
            except GraphoptError as error:
                return str(error)

        with ThreadPoolExecutor(_READERS) as readers:
            rows, most = sum(table.num_rows for table in found), _AGGREGATED_ROWS
            for start in range(0, len(rest), 4 * _READERS):
                for result in readers.map(read, rest[start : start + 4 * _READERS]):
                    if isinstance(result, str):
                        problems.append(result)
                        continue
                    found.append(result)
                    rows += result.num_rows
                    if rows > most:
                        found = [tables.together(found)]
                        rows = found[0].num_rows
                        most = rows + _AGGREGATED_ROWS
        return tables.together(found)

    def capture_files(self) -> list[str]:
        """Sorted names of all files of captures, compacted and replaced ones included.

        A folder is not listed in one instant: a listing could miss a compacted file that is new and the files that
        are deleted after it. Of two listings in a row with the same compacted files, the second misses only what a
        compacted file replaced that appeared after the first: so what stands in either is all.
        """
        names = self.folder.names(CAPTURES, ".parquet")
        for _ in range(_ATTEMPTS):
            before, names = names, self.folder.names(CAPTURES, ".parquet")
            if _compacted(before) == _compacted(names):
                return sorted({*before, *names})
        raise GraphoptError(f"{self.folder.url}/{CAPTURES}: compacted again and again while it is listed")

    def read_captures(self, name: str) -> tuple["pa.Table", frozenset[str]]:
        """Rows of a file of captures, and the names of the files that it replaces (none, unless it is compacted).

        Raises:
            FileNotFoundError: it is not there, or no longer.
            GraphoptError: it is broken.
        """
        content = self.folder.read(f"{CAPTURES}/{name}")
        try:
            return tables.from_parquet(content, tables.captures_schema())
        except GraphoptError as error:
            raise GraphoptError(f"{self.folder.url}/{CAPTURES}/{name}: {error}") from None


def _compacted(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(COMPACTED)]


def file_name() -> str:
    """A name for a file that this process writes: ``<start>-<host>-<process>-<sequence>-<token>.parquet``.

    Names sort by time. The token keeps containers apart that share a host name and number their processes alike.
    """
    start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    host = re.sub(r"[^A-Za-z0-9.]+", "_", socket.gethostname())[:40] or "host"
    return f"{start}-{host}-{os.getpid()}-{next(_sequence)}-{files.token()}.parquet"


def open(place: str | Path) -> ObservedCorpus:
    """An observed corpus, by its URL or folder; nothing is read or written yet.

    Raises:
        GraphoptError: fsspec or pyarrow is missing, or the URL cannot be used.
    """
    folder = open_folder(place)
    if not tables.AVAILABLE:
        raise GraphoptError(f"{place}: observed corpora need fsspec and pyarrow: pip install 'graphopt[observe]'")
    return ObservedCorpus(folder)


def is_digest(text: str) -> bool:
    """Whether a text is a graph's digest."""
    return _DIGEST.fullmatch(text) is not None


def is_observed(place: str | Path) -> bool:
    """Whether a corpus is an observed one: any URL is; a folder, when it holds captures as services write them."""
    return is_url(place) or next((Path(place) / CAPTURES).glob("*.parquet"), None) is not None
