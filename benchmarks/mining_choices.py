#!/usr/bin/env python3
"""Measurements behind choices of the miner: compiled loops; what is taken at once; bounds for the best k.

    python benchmarks/mining_choices.py [CORPUS] [--view executed] [--size 8] [--depths 8,16,24]

Prints what numba costs and gives on the innermost work of canonical forms, one round of refinement: seconds to
import it, to compile (or to load from its cache), and to run, beside numpy. Then, for a corpus (the sample graphs when
not given), how many patterns closed ones need to be visited, beside all up to the greatest size, and how many the best
10 opportunities need.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from graphopt import corpus, machine
from graphopt.graph import Capture
from graphopt.mining import MiningResult, find, mine
from graphopt.mining.find import mining_graphs
from graphopt.mining.refinement import Edges, Hashes, Integers, mixed

ROOT = Path(__file__).resolve().parent.parent

COMPILED = """
import numba
import numpy as np

@numba.njit("u8(u8)")
def mixed(value):
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))

@numba.njit("u8[:,:](u8[:,:], i8[:], i8[:], i8[:], i8[:], u8[:], u8[:])", cache=True)
def refined_once(colours, starts, source, target, kind, into, out):
    seen = np.empty_like(colours)
    for row in range(colours.shape[0]):
        for node in range(colours.shape[1]):
            seen[row, node] = mixed(colours[row, node])
        for edge in range(starts[row], starts[row + 1]):
            p, c = source[edge], target[edge]
            seen[row, c] += mixed(colours[row, p] ^ into[kind[edge]])
            seen[row, p] += mixed(colours[row, c] ^ out[kind[edge]])
        for node in range(colours.shape[1]):
            seen[row, node] = mixed(seen[row, node])
    return seen
"""


IMPORT = "import time; start = time.perf_counter(); import numba; print(time.perf_counter() - start)"


def refined_once(colours: Hashes, edges: Edges, into: Hashes, out: Hashes) -> Hashes:
    """The same with numpy."""
    flat = colours.ravel()
    base = np.repeat(np.arange(len(colours)), np.diff(edges.starts)) * colours.shape[1]
    source, target = base + edges.source, base + edges.target
    seen = mixed(flat)
    np.add.at(seen, target, mixed(flat[source] ^ into[edges.kind]))
    np.add.at(seen, source, mixed(flat[target] ^ out[edges.kind]))
    return mixed(seen).reshape(colours.shape)


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The least time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def some_patterns(count: int, size: int) -> tuple[Hashes, Edges, Hashes, Hashes]:
    """Colours and edges of random trees."""
    chance = np.random.default_rng(0)
    colours = chance.integers(0, 2**63, (count, size), dtype=np.uint64)
    target: Integers = np.tile(np.arange(1, size), count)
    source: Integers = (chance.random(len(target)) * target).astype(np.int64)
    starts: Integers = np.arange(count + 1) * (size - 1)
    kinds = chance.integers(0, 2**63, (2, 3), dtype=np.uint64)
    return colours, Edges(starts, source, target, chance.integers(0, 3, len(target))), kinds[0], kinds[1]


def compare_numba() -> None:
    """Print what numba costs and gives."""
    colours, edges, into, out = some_patterns(20_000, 16)
    print("| one round of refinement of 20,000 patterns of 16 nodes | seconds |\n|---|---:|")
    print(f"| numpy | {seconds(lambda: refined_once(colours, edges, into, out), 5):.4f} |")
    imported = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout
    print(f"| numba: import | {float(imported):.4f} |")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "compiled.py").write_text(COMPILED, encoding="utf-8")
        sys.path.insert(0, folder)
        print(f"| numba: compile this round, the first time | {seconds(lambda: __import__('compiled')):.4f} |")
        del sys.modules["compiled"]
        print(f"| numba: load it from its cache | {seconds(lambda: __import__('compiled')):.4f} |")
        compiled = sys.modules["compiled"]
        run = seconds(lambda: compiled.refined_once(colours, *edges, into, out), 5)
    assert np.array_equal(compiled.refined_once(colours, *edges, into, out), refined_once(colours, edges, into, out))
    print(f"| numba: run | {run:.4f} |\n")


def compare_depths(captures: Sequence[Capture], depths: Sequence[int]) -> None:
    """Print how many patterns are visited for closed ones only, and for all of the greatest size as well."""
    graphs = mining_graphs(captures)
    print(
        f"| {len(captures)} captures | visited | found | graphs over the budget | seconds |\n|---|---:|---:|---:|---:|"
    )
    for depth in depths:
        for clipped in (False, True):
            start = time.perf_counter()
            result = mine(graphs, max_size=depth, clipped=clipped, engine="serial")
            taken = time.perf_counter() - start
            row = ("clipped" if clipped else "closed") + f", to size {depth} | {result.visited:,} | {len(result):,}"
            print(f"| {row} | {len(result.truncated)} | {taken:.2f} |")
    print()


def compare_bounds(captures: Sequence[Capture], size: int) -> None:
    """Print how many patterns are visited with and without k."""
    roofline = machine.load(machine.DEFAULT)
    visited: list[int] = []

    def counted(*arguments: object, **settings: object) -> MiningResult:
        result = mine(*arguments, **settings)  # type: ignore[arg-type]
        visited.append(result.visited)
        return result

    find.mine = counted  # type: ignore[attr-defined]
    print(f"| {len(captures)} captures to size {size} | patterns visited | seconds |\n|---|---:|---:|")
    for k in (10, None):
        visited.clear()

        def search(k: int | None = k) -> None:
            find.find_opportunities(captures, roofline, k=k, max_size=size, engine="serial")

        taken = seconds(search)
        print(f"| {'all' if k is None else f'the best {k}'} | {sum(visited):,} | {taken:.2f} |")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, default=ROOT / "sample_graphs", help="folder of models")
    parser.add_argument("--view", choices=("executed", "portable", "raw"), default="executed")
    parser.add_argument("--depths", default="8,16,24", help="greatest sizes of closed patterns, with commas")
    parser.add_argument("--size", type=int, default=8, help="greatest size of a pattern")
    options = parser.parse_args()
    compare_numba()
    captures = corpus.load(options.corpus, view=options.view).captures
    compare_depths(captures, [int(text) for text in options.depths.split(",") if text])
    compare_bounds(captures, options.size)


if __name__ == "__main__":
    main()
