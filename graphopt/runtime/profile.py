"""Time per node of a model, from onnxruntime's own profile, joined to the graph by node name."""

import itertools
import json
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds, check_feeds
from graphopt.runtime.session import Optimization, one_line, open_session

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators whose bodies onnxruntime runs inside of them, so that their events lie within theirs."""

Key = tuple[str, str]
"""Where a node stands (``nodes``, ``bodies`` or ``others``, as in ``NodeProfile``), and its name."""

_SUFFIX = "_kernel_time"
_TRUNCATION = 0.5e-6
# onnxruntime cuts durations to whole microseconds, so what it reports is half of one too low on average


@dataclass(frozen=True)
class NodeProfile:
    """Seconds per run by node.

    Attributes:
        nodes: nodes of the main graph by name. A control-flow node's time includes its body's.
        bodies: nodes inside of If, Loop and Scan bodies by name, summed over iterations; a name that several bodies
            share is summed too.
        others: what onnxruntime ran that is no node of the model as given: nodes it fused or inserted, and the pieces
            of function bodies that it inlined.
        total: seconds per run of the whole model, profiling included.
        runs: number of runs behind each figure.
    """

    nodes: Mapping[str, float]
    bodies: Mapping[str, float]
    others: Mapping[str, float]
    total: float
    runs: int


def node_turns(
    variants: Sequence[tuple[Path | onnx.ModelProto, Path | None]],
    feeds: Feeds,
    *,
    turns: int,
    runs: int,
    warmup: int = 2,
    threads: int = 1,
    most_seconds: float | None = None,
    inside: Collection[str] = (),
) -> list[dict[str, NDArray[np.float64]]]:
    """Seconds per run of each node of some models' main graphs, and of these nodes of bodies, the models taking turns.

    Each model is opened once, with optimisation disabled. What else the machine does meanwhile weighs on all alike.

    Args:
        variants: (model, its kernel library) each; node names must be unique in the main graph. Nodes without a name
            are found as ``<op_type>_<index in the graph>``, as onnxruntime calls them.
        feeds: input name to array.
        turns: of each model.
        runs: in one turn; ``profile`` says how they become one figure.
        warmup: runs before the first turn.
        threads: threads within an operator.
        most_seconds: time of one turn, or of warming up, after which there are no more runs than two of it: the
            profiler makes loops many times slower.
        inside: names of nodes of bodies that are wanted too.

    Returns:
        By node for each model, the seconds in each turn, shape (turns,).

    Raises:
        GraphoptError: as ``profile`` does.
    """
    mains = [_names(_graph(model)) for model, _ in variants]
    made: list[list[int]] = [[] for _ in variants]
    found: list[dict[str, NDArray[np.float64]]] = []
    with tempfile.TemporaryDirectory(prefix="graphopt-profile-") as folder:
        sessions = [
            open_session(
                model, optimization="none", threads=threads, kernels=kernels, profile=Path(folder) / f"{number}"
            )
            for number, (model, kernels) in enumerate(variants)
        ]
        try:
            for length in (warmup, *[runs] * turns):
                for session, counts in zip(sessions, made, strict=True):
                    counts.append(_run(session, feeds, length, 2, most_seconds))
        finally:
            paths = [Path(session.end_profiling()) for session in sessions]
        for main, path, counts in zip(mains, paths, made, strict=True):
            tables, _ = _tables(_events(path, main | set(inside)), main)
            found.append(_by_turn(tables, counts, {("nodes", name) for name in main}, inside))
    return found


def _by_turn(
    tables: Sequence[Mapping[Key, float]], counts: Sequence[int], wanted: set[Key], inside: Collection[str]
) -> dict[str, NDArray[np.float64]]:
    """Seconds of nodes in each turn, from those of each run; the first of the counts is of runs that warm up."""
    wanted = wanted | {("bodies", name) for name in inside}
    keys = sorted({key for table in tables for key in table} & wanted)
    ends = np.cumsum(counts).tolist()
    return {
        key[1]: np.array([_middle([t.get(key, 0.0) for t in tables[a:b]]) for a, b in itertools.pairwise(ends)])
        for key in keys
    }


def profile(
    model: Path | onnx.ModelProto,
    feeds: Feeds,
    *,
    kernels: Path | None = None,
    optimization: Optimization = "none",
    runs: int = 20,
    warmup: int = 2,
    threads: int = 1,
) -> NodeProfile:
    """Run a model under onnxruntime's profiler.

    The figure of a node is the mean of the middle half of its runs: as robust as the median, and finer than the whole
    microseconds that onnxruntime counts in.

    Args:
        model: the model; node names must be unique in the main graph.
        feeds: input name to array.
        kernels: kernel library; without it fused operators are inlined and their pieces stand in ``others``.
        optimization: "none" keeps the nodes as they stand; any other level moves what onnxruntime fuses to ``others``.
        runs: timed runs.
        warmup: runs before that do not count.
        threads: threads within an operator.

    Returns:
        Seconds by node.

    Raises:
        GraphoptError: the model does not open or run, or two of its nodes have the same name.
    """
    main = _names(_graph(model))
    with tempfile.TemporaryDirectory(prefix="graphopt-profile-") as folder:
        session = open_session(
            model, optimization=optimization, threads=threads, kernels=kernels, profile=Path(folder) / "profile"
        )
        try:
            _run(session, feeds, warmup + max(1, runs))
        finally:
            path = Path(session.end_profiling())
        tables, totals = _tables(_events(path), main)
    tables, totals = tables[warmup:], totals[warmup:]
    keys = sorted({key for table in tables for key in table})
    middles = {key: _middle([table.get(key, 0.0) for table in tables]) for key in keys}
    parts = {
        part: {name: seconds for (kind, name), seconds in middles.items() if kind == part}
        for part in ("nodes", "bodies", "others")
    }
    return NodeProfile(parts["nodes"], parts["bodies"], parts["others"], _middle(totals), len(totals))


def _events(path: Path, main: Collection[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Events of a profile, in the order in which they ended.

    onnxruntime writes one to a line. A loop's body can run a hundred thousand nodes, and to read their events takes
    much longer than to run them: with ``main``, those of nodes that are neither of these nor control flow are passed
    over.
    """
    wanted = None if main is None else {json.dumps(name + _SUFFIX)[1:-1] for name in main}
    name_key, operator_key = '"name" :"', '"op_name" : "'
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if wanted is not None and '"cat" : "Node"' in line:
                begin, end = line.find(name_key), line.find('","args"')
                if 0 <= begin < end and line[begin + len(name_key) : end] not in wanted:
                    begin = line.find(operator_key, end)
                    operator = line[begin + len(operator_key) : line.find('"', begin + len(operator_key))]
                    if begin >= 0 and operator not in CONTROL_FLOW:
                        continue
            text = line.strip().rstrip(",")
            if text not in ("[", "]", ""):
                yield json.loads(text)


def _run(
    session: InferenceSession, feeds: Feeds, runs: int, fewest_runs: int = 0, most_seconds: float | None = None
) -> int:
    """Run a session so many times, or fewer where that takes long; returns how many."""
    check_feeds(session, feeds)
    known = {value.name for value in session.get_inputs()}
    own = {name: array for name, array in feeds.items() if name in known}
    begin = time.perf_counter()
    for done in range(runs):
        if most_seconds is not None and done >= fewest_runs and time.perf_counter() - begin > most_seconds:
            return done
        try:
            session.run(None, own)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"the model does not run: {one_line(error)}") from None
    return runs


def _graph(model: Path | onnx.ModelProto) -> onnx.GraphProto:
    return model.graph if isinstance(model, onnx.ModelProto) else _structure(model)


def _structure(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read the model: {error.strerror or error}") from None
    except Exception:  # protobuf's DecodeError differs between its implementations
        raise GraphoptError(f"{path}: not an ONNX model, or truncated") from None


def _names(graph: onnx.GraphProto) -> set[str]:
    """Names of the main graph's nodes, those made up by onnxruntime included."""
    names: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        if name in names:
            raise GraphoptError(f"two nodes are called {name}: their times cannot be told apart")
        names.add(name)
    return names


def _tables(events: Iterable[Mapping[str, Any]], main: set[str]) -> tuple[list[dict[Key, float]], list[float]]:
    """Seconds of each run: by node, and of the whole model.

    onnxruntime writes an event when it ends. So what a body ran stands before its control-flow node, and started later.
    """
    tables: list[dict[Key, float]] = []
    totals: list[float] = []
    pending: list[tuple[str, int, float]] = []  # main-graph events of this run: name, start, seconds
    inside: dict[str, float] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            name, start = event["name"].removesuffix(_SUFFIX), int(event["ts"])
            if event["args"].get("op_name") in CONTROL_FLOW:
                while pending and pending[-1][1] >= start:
                    child, _, seconds = pending.pop()
                    inside[child] = inside.get(child, 0.0) + seconds
            pending.append((name, start, event["dur"] * 1e-6 + _TRUNCATION))
        elif event["name"] == "model_run":
            table: dict[Key, float] = {("bodies", name): seconds for name, seconds in inside.items()}
            for name, _, seconds in pending:
                key: Key = ("nodes" if name in main else "others", name)
                table[key] = table.get(key, 0.0) + seconds
            tables.append(table)
            totals.append(event["dur"] * 1e-6 + _TRUNCATION)
            pending, inside = [], {}
    return tables, totals


def _middle(values: list[float]) -> float:
    """Mean of the middle half; of three runs, the middle one."""
    ordered = np.sort(values)
    cut = max(len(ordered) // 4, len(ordered) == 3)
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else 0.0
