"""Time per node of a model, from onnxruntime's own profile, joined to the graph by node name."""

import json
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession

from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds, check_feeds
from graphopt.runtime.session import Optimization, one_line, open_session

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators whose bodies onnxruntime runs inside of them, so that their events lie within theirs."""

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


def node_seconds(
    model: Path | onnx.ModelProto,
    feeds: Feeds,
    *,
    kernels: Path | None = None,
    optimization: Optimization = "none",
    runs: int = 20,
    warmup: int = 2,
    threads: int = 1,
    most_seconds: float | None = None,
    inside: Collection[str] = (),
) -> dict[str, float]:
    """Seconds per run of each node of the main graph, and of these nodes of bodies; see ``profile`` for the rest.

    Nodes without a name are found as ``<op_type>_<index in the graph>``, as onnxruntime calls them. After
    ``most_seconds`` there are no more runs than two that count: the profiler makes loops many times slower.
    """
    main = _names(_graph(model))
    with tempfile.TemporaryDirectory(prefix="graphopt-profile-") as folder:
        most = warmup + max(1, runs)
        path = _record(model, feeds, Path(folder), kernels, optimization, most, threads, warmup + 2, most_seconds)
        found = _join(_events(path, main | set(inside)), main, warmup)
        return {**found.nodes, **{name: found.bodies[name] for name in inside if name in found.bodies}}


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
        path = _record(model, feeds, Path(folder), kernels, optimization, warmup + max(1, runs), threads)
        return _join(_events(path), main, warmup)


def _record(
    model: Path | onnx.ModelProto,
    feeds: Feeds,
    folder: Path,
    kernels: Path | None,
    optimization: Optimization,
    runs: int,
    threads: int,
    fewest_runs: int = 0,
    most_seconds: float | None = None,
) -> Path:
    """Run a model under the profiler; the file that it writes."""
    session = open_session(
        model, optimization=optimization, threads=threads, kernels=kernels, profile=folder / "profile"
    )
    try:
        _run(session, feeds, runs, fewest_runs, most_seconds)
    finally:
        path = Path(session.end_profiling())
    return path


def _events(path: Path, main: Collection[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Events of a profile, in the order in which they ended.

    onnxruntime writes one to a line. A loop's body can run a hundred thousand nodes, and to read their events takes
    much longer than to run them: with ``main``, those of nodes that are neither of these nor control flow are passed
    over.
    """
    wanted = None if main is None else {json.dumps(name + _SUFFIX)[1:-1] for name in main}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if wanted is not None and '"cat" : "Node"' in line:
                begin, end = line.find('"name" :"'), line.find('","args"')
                control = any(f'"op_name" : "{operator}"' in line for operator in CONTROL_FLOW)
                if 0 <= begin < end and line[begin + len('"name" :"') : end] not in wanted and not control:
                    continue
            text = line.strip().rstrip(",")
            if text not in ("[", "]", ""):
                yield json.loads(text)


def _run(
    session: InferenceSession, feeds: Feeds, runs: int, fewest_runs: int = 0, most_seconds: float | None = None
) -> None:
    check_feeds(session, feeds)
    known = {value.name for value in session.get_inputs()}
    own = {name: array for name, array in feeds.items() if name in known}
    try:
        begin = time.perf_counter()
        for done in range(runs):
            if most_seconds is not None and done >= fewest_runs and time.perf_counter() - begin > most_seconds:
                break
            session.run(None, own)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"the model does not run: {one_line(error)}") from None


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


def _join(events: Iterable[Mapping[str, Any]], main: set[str], warmup: int) -> NodeProfile:
    """Sum the events of each run by node, then take the middle of the runs.

    onnxruntime writes an event when it ends. So what a body ran stands before its control-flow node, and started later.
    """
    tables: list[dict[tuple[str, str], float]] = []
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
            table: dict[tuple[str, str], float] = {("bodies", name): seconds for name, seconds in inside.items()}
            for name, _, seconds in pending:
                key = ("nodes" if name in main else "others", name)
                table[key] = table.get(key, 0.0) + seconds
            tables.append(table)
            totals.append(event["dur"] * 1e-6 + _TRUNCATION)
            pending, inside = [], {}
    tables, totals = tables[warmup:], totals[warmup:]
    keys = sorted({key for table in tables for key in table})
    middles = {key: _middle([table.get(key, 0.0) for table in tables]) for key in keys}
    parts = {
        part: {name: seconds for (kind, name), seconds in middles.items() if kind == part}
        for part in ("nodes", "bodies", "others")
    }
    return NodeProfile(parts["nodes"], parts["bodies"], parts["others"], _middle(totals), len(totals))


def _middle(values: list[float]) -> float:
    """Mean of the middle half."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else 0.0
