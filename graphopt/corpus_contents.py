"""What a corpus holds, without loading its graphs: totals, graphs, and the captures of one."""

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from onnx import ModelProto

from graphopt import captures_file, model_files, store
from graphopt.captures_file import Entry
from graphopt.corpus_sources import stored_models
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.model_graphs import constant_tensors
from graphopt.model_inputs import inputs_of
from graphopt.store import tables


@dataclass(frozen=True)
class Held:
    """A graph of a corpus.

    Attributes:
        graph: digest of an observed graph; the file of another, relative to the corpus.
        name: what captures call it.
        captures: sets of input shapes that it ran with.
        executions: how often it ran.
        start: of the first observed execution.
        end: of the last one.
    """

    graph: str
    name: str
    captures: int
    executions: int
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True)
class Ran:
    """Executions of a graph with the same input shapes.

    Attributes:
        shapes: of the inputs, in their order; None for one that was left out.
        executions: how many.
        start: of the first observed one.
        end: of the last one.
        runtime: version of onnxruntime, where it is known.
    """

    shapes: tuple[Shape | None, ...]
    executions: int
    start: datetime | None = None
    end: datetime | None = None
    runtime: str = ""


@dataclass(frozen=True)
class Contents:
    """A corpus at a glance.

    Attributes:
        observed: whether it is one that services write.
        files: files of captures.
        graphs: the graphs that ran, most executions first.
        unused: stored graphs without a capture.
        runtimes: versions of onnxruntime that ran them.
        problems: a line for each thing that is wrong.
    """

    observed: bool
    files: int
    graphs: tuple[Held, ...]
    unused: int
    runtimes: tuple[str, ...]
    problems: tuple[str, ...]


def contents(place: Path | str) -> Contents:
    """What a corpus holds.

    Args:
        place: a folder or a URL.

    Raises:
        GraphoptError: it cannot be read, or nothing is in it.
    """
    found = Contents(store.is_observed(place), 0, (), 0, (), ())
    if found.observed:
        found = _observed(place)
    if not store.is_url(place) and (not found.observed or (Path(place) / captures_file.NAME).is_file()):
        found = _with_folder(found, Path(place))
    if not found.graphs and not found.files and not found.unused:
        raise GraphoptError(f"{place}: no captures in it")
    ordered = sorted(found.graphs, key=lambda one: (-one.executions, one.name, one.graph))
    return replace(found, graphs=tuple(ordered))


def _observed(place: Path | str) -> Contents:
    corpus = store.open(place)
    problems: list[str] = []
    rows = corpus.captured.total(problems.append)
    wanted = [("name", "min"), ("executions", "sum"), ("shapes", "count"), ("start", "min"), ("end", "max")]
    by_graph = rows.group_by("graph", use_threads=False).aggregate(wanted).sort_by("graph")
    columns = ("graph", "name_min", "shapes_count", "executions_sum", "start_min", "end_max")
    graphs = [Held(*row) for row in zip(*(by_graph.column(name).to_pylist() for name in columns), strict=True)]
    present = set(corpus.graphs())
    problems += [
        f"{corpus.folder.url}/{store.GRAPHS}/{one.graph}.onnx: no such graph, though it has captures"
        for one in graphs
        if one.graph not in present
    ]
    runtimes = sorted(set(rows.column("runtime").to_pylist()))
    unused = len(present - {one.graph for one in graphs})
    return Contents(True, len(corpus.captured.names()), tuple(graphs), unused, tuple(runtimes), tuple(problems))


def _with_folder(observed: Contents, folder: Path) -> Contents:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        models, problems = stored_models(folder, Path(scratch))
    graphs = []
    for model in models:
        entries = captures_file.merged([one for one in model.executions if isinstance(one, Entry)])
        if entries:
            executions = sum(one.executions for one in entries)
            graphs.append(Held(_relative(model.file, folder), model.name, len(entries), executions))
    listed = (folder / captures_file.NAME).is_file()
    problems = [*observed.problems, *(one for one in problems if one not in observed.problems)]
    return replace(
        observed,
        files=observed.files + listed,
        graphs=(*observed.graphs, *graphs),
        problems=tuple(problems),
    )


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if folder.is_dir() else file.name


# ------------------------------------------------------------------------------------------------------ one graph


@dataclass(frozen=True)
class Detail:
    """A graph of a corpus in full.

    Attributes:
        held: the graph.
        inputs: name, dtype and dimensions of each input, as declared.
        operators: how many of each type, without constants.
        captures: how it ran, most executions first.
    """

    held: Held
    inputs: tuple[tuple[str, str, tuple[int | str | None, ...] | None], ...]
    operators: dict[str, int]
    captures: tuple[Ran, ...]


def detail(place: Path | str, which: str) -> Detail:
    """One graph of a corpus.

    Args:
        place: a folder or a URL.
        which: the beginning of its digest, or its name or file.

    Raises:
        GraphoptError: the corpus or the graph cannot be read; no graph, or more than one, is called so.
    """
    found = contents(place).graphs
    held = [one for one in found if which in (one.graph, one.name)]
    held = held or [one for one in found if one.graph.startswith(which)]
    if len(held) != 1:
        raise GraphoptError(f"{place}: {'no graph' if not held else f'{len(held)} graphs'} called {which!r}")
    if store.is_observed(place) and store.is_digest(held[0].graph):
        corpus = store.open(place)
        model = corpus.graph(held[0].graph)
        runs = _observed_runs(corpus, held[0].graph)
    else:
        model, runs = _folder_runs(Path(place), held[0].graph)
    inputs = tuple((one.name, one.dtype, one.dims) for one in inputs_of(model))
    ordered = sorted(runs, key=lambda one: (-one.executions, str(one.shapes)))
    return Detail(held[0], inputs, _operators(model), tuple(ordered))


def _observed_runs(corpus: store.ObservedCorpus, graph: str) -> list[Ran]:
    import pyarrow.compute as pc

    rows = corpus.captured.total(lambda problem: None)
    rows = rows.filter(pc.equal(rows.column("graph"), graph))
    columns = (rows.column(name).to_pylist() for name in ("shapes", "executions", "start", "end", "runtime"))
    return [Ran(tables.shapes_of(shapes), *rest) for shapes, *rest in zip(*columns, strict=True)]


def _folder_runs(folder: Path, file: str) -> tuple[ModelProto, list[Ran]]:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        models, _ = stored_models(folder, Path(scratch))
    stored = next(one for one in models if _relative(one.file, folder) == file)
    model = model_files.load(stored.file)
    order = [one.name for one in inputs_of(model)]
    entries = captures_file.merged([one for one in stored.executions if isinstance(one, Entry)])
    return model, [Ran(tuple(one.shapes.get(i) for i in order), one.executions) for one in entries]


def _operators(model: ModelProto) -> dict[str, int]:
    constants = {name for name, _ in constant_tensors(model)}
    computing = (node for node in model.graph.node if not all(name in constants for name in node.output))
    counts = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in computing)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
