"""Whether a corpus is whole: every file readable, of the right schema, and what its name says."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt import captures_file, model_files, store
from graphopt.captures_file import Entry
from graphopt.corpus_sources import stored_models
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.model_inputs import inputs_of
from graphopt.observation import Observer
from graphopt.store import tables
from graphopt.store.rows import counted_twice

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = re.compile(r"-([0-9a-f]{12})\.onnx$")


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        files: how many were looked at.
        problems: a line for each thing that is wrong.
    """

    files: int
    problems: tuple[str, ...]


def verify(place: Path | str) -> Verification:
    """Look at every file of a corpus.

    Torn, truncated and foreign files, other schema versions, graphs whose digest is not their name, captures without a
    graph or with shapes that cannot be, and files that two compactions stand for are problems.

    Args:
        place: a folder or a URL.

    Raises:
        GraphoptError: it cannot be read at all, or nothing is in it.
    """
    files, problems = 0, []
    observed = store.is_observed(place)
    for found in _observed(store.open(place)) if observed else ():
        files += 1
        problems += found
    if not store.is_url(place) and (not observed or (Path(place) / captures_file.NAME).is_file()):
        for found in _folder(Path(place)):
            files += 1
            problems += found
    if not files:
        raise GraphoptError(f"{place}: no captures in it")
    return Verification(files, tuple(sorted(set(problems))))


def _observed(corpus: store.ObservedCorpus) -> Iterator[list[str]]:
    """The problems of each file."""
    url = corpus.folder.url
    inputs: dict[str, int] = {}
    for found in corpus.graphs():
        try:
            model = corpus.graph(found)
            actual = digest(model)
        except GraphoptError as error:
            yield [str(error)]
            continue
        inputs[found] = len(inputs_of(model))
        wrong = [f"{url}/{store.GRAPHS}/{found}.onnx: its digest is {actual}"] if actual != found else []
        yield wrong
    for rows in (corpus.captured, corpus.sampled):
        replaces: dict[str, frozenset[str]] = {}
        for name in rows.names():
            try:
                table, replaced = rows.read(name)
            except FileNotFoundError:  # compacted meanwhile
                continue
            except GraphoptError as error:
                yield [str(error)]
                continue
            if replaced:
                replaces[name] = replaced
            wrong_rows = _rows(table, inputs) if rows.kind is store.CAPTURES else ()
            yield [f"{url}/{rows.path(name)}: {problem}" for problem in wrong_rows]
        twice = counted_twice(replaces).items()
        if twice:
            yield [f"{url}/{rows.path(one)}: {' and '.join(by)} both stand for it" for one, by in twice]


def _rows(rows: "pa.Table", inputs: dict[str, int]) -> Iterator[str]:
    """What is wrong with captures, each thing once."""
    import pyarrow.compute as pc

    for name in rows.column_names:
        if rows.column(name).null_count:
            yield f"{name} is missing in {rows.column(name).null_count} of {rows.num_rows} rows"
    few = pc.sum(pc.less(rows.column("executions"), 1)).as_py() or 0
    if few:
        yield f"executions are below 1 in {few} of {rows.num_rows} rows"
    kinds = rows.group_by(["graph", "shapes"], use_threads=False).aggregate([])
    for graph, shapes in zip(kinds.column("graph").to_pylist(), kinds.column("shapes").to_pylist(), strict=True):
        if graph is None or shapes is None:
            continue
        if graph not in inputs:
            yield f"no usable graph {graph}"
            continue
        try:
            count = len(tables.shapes_of(shapes))
        except GraphoptError as error:
            yield str(error)
            continue
        if count != inputs[graph]:
            yield f"shapes of {count} inputs for graph {graph}, which has {inputs[graph]}"


def _folder(folder: Path) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        models, problems = stored_models(folder, Path(scratch))
    yield problems
    for stored in models:
        entries = [one for one in stored.executions if isinstance(one, Entry)]
        if not entries:
            continue
        try:
            model = model_files.load(stored.file)
            wrong = []
            named = _NAMED.search(stored.file.name)
            if named and not digest(model).startswith(named[1]):
                wrong.append(f"{stored.source}: its digest is {digest(model)}")
            observer = Observer(model)
            for entry in entries:
                if entry.shapes:
                    observer.check(entry.shapes, entry.ranges)
            yield wrong
        except GraphoptError as error:
            text = str(error)
            yield [text if text.startswith(stored.source) else f"{stored.source}: {text}"]
