"""How long mining takes: the sample fleet or any corpus by size, and the symmetric cases that make miners explode.

    python benchmarks/mining.py [CORPUS] [--sizes 8,16] [--jobs 1]

Prints a row per case: representatives are what the miner holds, occurrences what they stand for. Loading is not
counted.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import networkx as nx

from graphopt import corpus
from graphopt.graph import Capture
from graphopt.mining import mine
from graphopt.mining.find import mining_graphs
from graphopt.mining.graphs import MiningGraph
from graphopt.mining.miner import MiningResult


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


def row(name: str, work: Callable[[], MiningResult]) -> None:
    """Run one case and print what it took."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    representatives = sum(len(places.nodes) for pattern in result for places in pattern.places)
    occurrences = sum(sum(places.multiplicities) for pattern in result for places in pattern.places)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    note = "  incomplete" if result.incomplete else ""
    print(f"{name:<52} {seconds:8.2f} s {len(result):8} {representatives:10} {occurrences:14} {memory:6} MB{note}")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="folder of models; without one, only the symmetric cases")
    parser.add_argument("--sizes", default="8", help="greatest sizes, with commas")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    options = parser.parse_args()
    print(f"{'case':<52} {'time':>10} {'patterns':>8} {'represent.':>10} {'occurrences':>14} {'peak':>9}")
    row("two stars of 26, to size 27, all", lambda: mine([star(26)] * 2, min_support=2, max_size=27, closed=False))
    row("two stars of 26, to size 27, closed", lambda: mine([star(26)] * 2, min_support=2, max_size=27))
    dlrm = recommendation(26)
    row("DLRM of 26 tables twice, to size 8, all", lambda: mine([dlrm] * 2, min_support=2, closed=False))
    row("DLRM of 26 tables twice, to size 8, closed", lambda: mine([dlrm] * 2, min_support=2))
    if options.corpus is not None:
        captures = corpus.load(options.corpus).captures
        for size in map(int, options.sizes.split(",")):
            corpus_rows(captures, size, options.jobs)


def corpus_rows(captures: Sequence[Capture], size: int, jobs: int) -> None:
    """The cases of a corpus to one size."""
    allowed: list[MiningGraph] = mining_graphs(captures)
    for kind, graphs in (("whole graphs", list(captures)), ("what rules allow", allowed)):
        for closed in (False, True):
            name = f"{len(captures)} captures, {kind}, to size {size}, {'closed' if closed else 'all'}"
            row(name, lambda g=graphs, c=closed: mine(g, max_size=size, closed=c, jobs=jobs))  # type: ignore[misc]


if __name__ == "__main__":
    main()
