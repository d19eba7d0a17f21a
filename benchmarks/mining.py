#!/usr/bin/env python3
"""How long mining takes and how much memory: a corpus by size, fleets, the symmetric cases, and gspan-mining for pace.

    python benchmarks/mining.py [CORPUS] [--view executed] [--sizes 8,16,24,40] [--fleet 1000,10000] [--captures 100000]
                                [--jobs 2] [--limit SECONDS] [--only TEXT]

CORPUS is a folder of models (the sample graphs when not given), in the executed view; the fleets are made from it (see
fleet.py). Prints a row per case, as Markdown. Every case runs in a process of its own. *time* is that of ``mine``,
without loading; *memory* is the sum of the peaks of all its processes, and *before* that of the first one with the
graphs in it, before it mines. gspan-mining mines connected patterns of undirected graphs, convex or not, by the number
of graphs: another class of patterns, so its row says something about pace and nothing about which is better.
"""

import argparse
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import networkx as nx
from fleet import fleet

from graphopt import corpus
from graphopt.mining import mine
from graphopt.mining.find import mining_graphs
from graphopt.mining.graphs import MiningGraph, from_any

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1 << 20
GSPAN = "gspan-mining"


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: what is mined.
        graphs: the graphs.
        copies: how often each of them is given.
        settings: arguments of ``mine``; of gspan-mining, its least support and greatest size.
        program: ``graphopt`` or ``gspan-mining``.
    """

    name: str
    graphs: Sequence[MiningGraph] = field(repr=False)
    copies: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    program: str = "graphopt"


def main() -> int:
    """Print the table."""
    if sys.argv[1:2] == ["--row"]:
        return row(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, default=ROOT / "sample_graphs", help="folder of models")
    parser.add_argument("--view", choices=("executed", "portable", "raw"), default="executed")
    parser.add_argument("--sizes", default="8,16,24,40", help="greatest sizes for the corpus, with commas")
    parser.add_argument("--fleet", default="1000,10000", help="graphs of the fleets, with commas; empty for none")
    parser.add_argument(
        "--captures", type=int, default=100_000, help="captures of the first fleet's graphs; 0 for none"
    )
    parser.add_argument("--jobs", type=int, default=2, help="worker processes for the fleets")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a row is given up")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name holds this")
    options = parser.parse_args()
    numbers = [[int(text) for text in given.split(",") if text] for given in (options.sizes, options.fleet)]
    captures = corpus.load(options.corpus, view=options.view).captures
    whole = [from_any(capture) for capture in captures]
    print(f"{options.corpus.name}: {len(captures)} captures, {sum(len(g.labels) for g in whole)} operators\n")
    print("| case | time | patterns | occurrences | memory | before |  |")
    print("|---|---:|---:|---:|---:|---:|---|", flush=True)
    every: list[Iterable[Case]] = [
        symmetric_cases(),
        corpus_cases(whole, mining_graphs(captures), numbers[0]),
        pace_cases(whole),
        fleet_cases(whole, numbers[1], options.captures, options.jobs),
    ]
    for cases in every:
        for case in cases:
            if options.only in case.name:
                print(in_a_process(case, options.limit), flush=True)
    return 0


# Cases


def symmetric_cases() -> Iterator[Case]:
    """What makes miners explode: equal producers, equal branches."""
    for closed in (False, True):
        kind = "closed" if closed else "all"
        stars = [from_any(star(26))] * 2
        yield Case(f"two stars of 26, to size 27, {kind}", stars, settings=settings(27, 2, closed))
        tables = [from_any(recommendation(26))] * 2
        yield Case(f"DLRM of 26 tables twice, to size 8, {kind}", tables, settings=settings(8, 2, closed))


def corpus_cases(whole: list[MiningGraph], allowed: list[MiningGraph], sizes: Sequence[int]) -> Iterator[Case]:
    """A corpus by size, on one core: whole graphs, and what the fusion rules leave of them."""
    for kind, graphs in (("what rules allow", allowed), ("whole graphs", whole)):
        for size in sizes:
            yield Case(f"corpus, {kind}, to size {size}", graphs, settings=settings(size, 1))
        clipped = {**settings(8, 1), "clipped": True}
        yield Case(f"corpus, {kind}, to size 8, with what is clipped", graphs, settings=clipped)


def pace_cases(whole: list[MiningGraph]) -> Iterator[Case]:
    """The same graphs to size 4, all patterns of two graphs or more, here and in gspan-mining."""
    plain = [graph.weighted(1) for graph in whole]
    yield Case("corpus, to size 4, in 2 graphs, all", plain, settings=settings(4, 2, closed=False))
    yield Case(f"the same in {GSPAN}, undirected", plain, settings={"min_support": 2, "max_size": 4}, program=GSPAN)


def fleet_cases(whole: list[MiningGraph], counts: Sequence[int], captures: int, jobs: int) -> Iterator[Case]:
    """Fleets at 1 % support, to size 8, and many captures of the first one's graphs."""
    workers = "1 job" if jobs == 1 else f"{jobs} jobs"
    for number, count in enumerate(counts):
        graphs = fleet(whole, count)
        asked = {**settings(8, 0.01), "engine": "processes", "jobs": jobs}
        mean = sum(len(graph.labels) for graph in graphs) / count
        yield Case(f"fleet of {count:,} graphs of {mean:.0f} operators, {workers}", graphs, settings=asked)
        if number == 0 and captures >= count:
            copies = captures // count
            name = f"{count * copies:,} captures of these {count:,}"
            yield Case(f"{name}, hashing alone", graphs, copies, {})
            yield Case(f"{name}, {workers}", graphs, copies, asked)


def settings(max_size: int, min_support: float, closed: bool = True) -> dict[str, Any]:
    """Arguments of ``mine`` for one core."""
    return {"min_support": min_support, "max_size": max_size, "closed": closed, "engine": "serial"}


def star(producers: int) -> "nx.DiGraph[object]":
    """Equal producers into one consumer."""
    graph: nx.DiGraph[object] = nx.DiGraph()
    graph.add_node("end", label="concat")
    for number in range(producers):
        graph.add_node(number, label="lookup")
        graph.add_edge(number, "end")
    return graph


def recommendation(tables: int) -> "nx.DiGraph[object]":
    """The operators of a DLRM: tables of four operators each between a Split and a Concat, and 15 others."""
    graph: nx.DiGraph[object] = nx.DiGraph()
    graph.add_node("split", label="Split")
    graph.add_node("concat", label="Concat")
    for table in range(tables):
        chain(graph, "split", [(table, label) for label in ("Squeeze", "Gather", "ReduceSum", "Unsqueeze")], "concat")
    chain(graph, None, [("bottom", label) for label in ("Gemm1", "Gemm2", "Gemm3", "Unsqueeze")], "concat")
    top = ("FusedMatMul", "Reshape", "Gather", "Concat2", "Gemm4", "Gemm5", "Gemm6", "Sigmoid", "Cast")
    chain(graph, "concat", [("top", label) for label in top], None)
    return graph


def chain(graph: "nx.DiGraph[object]", start: object, nodes: Sequence[tuple[object, str]], end: object) -> None:
    """Add nodes (name, label) in a row between two others."""
    last = start
    for node in nodes:
        graph.add_node(node, label=node[1])
        if last is not None:
            graph.add_edge(last, node)
        last = node
    if end is not None:
        graph.add_edge(last, end)


# A row, in a process of its own


def in_a_process(case: Case, limit: float) -> str:
    """Run a case and return its row."""
    if case.program == GSPAN and importlib.util.find_spec("gspan_mining") is None:
        return f"| {case.name} | | | | | | not installed |"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.pickle"
        with file.open("wb") as stream:
            pickle.dump(case, stream, protocol=pickle.HIGHEST_PROTOCOL)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [sys.executable, __file__, "--row", str(file)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        ) as process:
            try:
                peaks = watched(process, limit)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            assert process.stdout is not None
            lines = process.stdout.read().decode().splitlines()
    found = json.loads(lines[-1]) if process.returncode == 0 else {}
    peaks[process.pid] = found.get("peak", peaks.get(process.pid, 0))
    memory = f"{sum(peaks.values()) / MEGABYTE:.0f} MB"
    if process.returncode == -signal.SIGKILL:
        return f"| {case.name} | > {limit:.0f} s | | | {memory} | | given up |"
    if process.returncode:
        return f"| {case.name} | | | | {memory} | | failed |"
    counts = (f"{found[key]:,}" if found[key] is not None else "" for key in ("patterns", "occurrences"))
    before = f"{found['before'] / MEGABYTE:.0f} MB"
    return f"| {case.name} | {found['seconds']:.2f} s | {' | '.join(counts)} | {memory} | {before} | {found['note']} |"


def watched(process: "subprocess.Popen[bytes]", limit: float) -> dict[int, int]:
    """Wait for a process; peak memory in bytes of it and of each process below it, by process id."""
    end = time.monotonic() + limit
    peaks: dict[int, int] = {}
    while process.poll() is None:
        if time.monotonic() > end:
            for pid in family(process.pid):
                os.kill(pid, signal.SIGKILL)
        for pid in family(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak(pid))
        time.sleep(0.05)
    return peaks


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return found


def peak(pid: int | str) -> int:
    """The most memory, in bytes, that a process has held so far; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def row(file: Path) -> int:
    """Run one case in this process and print what it took, as JSON."""
    with file.open("rb") as stream:
        case: Case = pickle.load(stream)
    before = peak("self")
    work: Callable[[Case], dict[str, Any]] = run_gspan if case.program == GSPAN else run_mine
    print(json.dumps({"before": before, **work(case), "peak": peak("self")}), flush=True)
    os._exit(0)  # without taking gigabytes apart


def run_mine(case: Case) -> dict[str, Any]:
    """Mine, or only tell apart what is given where there are no settings."""
    # Each copy is a graph of its own that has to be told to be one of the others.
    given = (replace(graph) for _ in range(case.copies) for graph in case.graphs)
    start = time.perf_counter()
    if not case.settings:
        distinct = len({graph.fingerprint for graph in given})
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "patterns": None, "occurrences": None, "note": f"{distinct:,} distinct"}
    result = mine(given, **case.settings)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "patterns": len(result),
        "occurrences": sum(pattern.occurrences for pattern in result),
        "note": "incomplete" if result.incomplete else "",
    }


def run_gspan(case: Case) -> dict[str, Any]:
    """Mine with gspan-mining 0.2.3, without its report, which does not work with the pandas of today."""
    from gspan_mining import gSpan

    class Quiet(gSpan):  # type: ignore[misc]
        def _report(self, projected: Any) -> None:
            self._frequent_subgraphs.append(len(projected))

        def _report_size1(self, graph: Any, support: int) -> None: ...

    numbers: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graphs"
        with file.open("w", encoding="utf-8") as stream:
            for index, graph in enumerate(case.graphs):
                print(f"t # {index}", file=stream)
                for node, label in enumerate(graph.labels):
                    print(f"v {node} {numbers.setdefault(label, len(numbers))}", file=stream)
                for producer, output, consumer, slot in graph.edges:
                    print(f"e {producer} {consumer} {output}.{slot}", file=stream)
            print("t # -1", file=stream)
        miner = Quiet(
            str(file),
            min_support=case.settings["min_support"],
            max_num_vertices=case.settings["max_size"],
            is_undirected=True,
        )
        with redirect_stdout(sys.stderr):
            start = time.perf_counter()
            miner.run()
            seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "patterns": len(miner._frequent_size1_subgraphs) + len(miner._frequent_subgraphs),
        "occurrences": sum(miner._frequent_subgraphs),
        "note": "",
    }


if __name__ == "__main__":
    sys.exit(main())
