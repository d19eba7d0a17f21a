#!/usr/bin/env python3
"""Products with weights by the matrix unit against the vector unit, and how well kernels choose between them.

    python benchmarks/matrix_unit.py [--rows N …] [--columns N …] [--depths N …] [--far] [--csv]

Three sessions compute the same products by the same kernel on one thread: by vectors alone, by the unit wherever it
can, and as the kernel chooses. They take turns, and the fastest turn of each counts. A session holds a few copies of
the product with weights of their own, as many as fill the first-level cache several times over; with ``--far``, as many
as the second-level cache does not hold, as in a large model. The last lines say what the choice costs over the better
one of both: in the geometric mean, and at worst.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from timeit import timeit

import numpy as np
from onnx import helper

from graphopt import kernels
from graphopt.calibrate.timing import Run, bound, model_of, session
from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.operators.executed import unit_pays

ROWS = (8, 16, 32, 64, 128, 197, 512, 1024)
COLUMNS = (16, 64, 128, 192, 384, 768, 3072)
DEPTHS = (16, 64, 128, 192, 384, 768, 3072)
FUSED = "graphopt.fused"
SETTINGS = ("off", "always", "")
"""By vectors; by the unit; as kernels choose."""
PASSES, TURNS = 3, 5
"""How often all products are timed in order, so that not all turns of one are disturbed; turns in each pass."""
TURN_SECONDS = 1e-3
NEAR_BYTES, FAR_BYTES = 1 << 18, 6 << 20
MOST_PRODUCTS = 2e8
"""Multiply-adds of a case, at most; larger ones are left out."""
LEAST_PRODUCTS = 5e4
MOST_COPIES = 64

Size = tuple[int, int, int]
"""Rows, columns, depth."""


def main() -> int:
    """Time the products, print a line for each where asked, and what the choice costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--columns", type=int, nargs="*", default=COLUMNS)
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--far", action="store_true", help="weights from beyond the second-level cache")
    parser.add_argument("--csv", action="store_true", help="a line for each case")
    arguments = parser.parse_args()
    if not kernels.uses_matrix_unit():
        print("this processor has no matrix unit", file=sys.stderr)
        return 1
    sizes = [
        size
        for size in product(arguments.rows, arguments.columns, arguments.depths)
        if LEAST_PRODUCTS <= size[0] * size[1] * size[2] <= MOST_PRODUCTS
    ]
    best: dict[Size, list[float]] = {size: [float("inf")] * len(SETTINGS) for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        libraries = library_copies(Path(folder))
        for _ in range(PASSES):
            for size in sizes:
                best[size] = list(map(min, best[size], timed(size, arguments.far, libraries)))
    costs = sorted(((times[2] / min(times[:2]), size) for size, times in best.items()), reverse=True)
    if arguments.csv:
        print("rows,columns,depth,vectors_us,unit_us,chosen_us,predicted_unit")
        for size, times in best.items():
            print(*size, *(f"{1e6 * seconds:.2f}" for seconds in times), int(unit_pays(*size)), sep=",")
    mean = statistics.geometric_mean(cost for cost, _ in costs)
    print(
        f"{len(costs)} products; the choice costs {mean - 1:.1%} over the better unit in the geometric mean; at worst:"
    )
    for cost, size in costs[:5]:
        vectors, unit, _ = best[size]
        rows, columns, depth = size
        print(f"  {rows} x {depth} x {columns}: {cost - 1:.0%}; the matrix unit is {vectors / unit:.2f} times as fast")
    return 0


def library_copies(folder: Path) -> list[Path]:
    """One library for each setting, which it asks for once."""
    node = Node("product", "", "MatMul", 13, ("x", "w"), ("y",), {})
    tensors = {name: Tensor(name, "float32", 2, name == "w", None) for name in ("x", "w", "y")}
    body = OperatorGraph("body", (node,), tensors, ("x", "w"), ("y",))
    shapes = ({"x": (128, 128), "w": (128, 128), "y": (128, 128)}, {"x": (64, 256), "w": (256, 64), "y": (64, 64)})
    built = kernels.build_library([kernels.FusedOperator("Product", body, shapes)], folder, "product")
    copies = [built.with_name(f"{number}{built.suffix}") for number in range(len(SETTINGS))]
    for copy in copies:
        shutil.copy(built, copy)
    return copies


def opened(size: Size, copies: int, library: Path) -> Run:
    """So many products of one left operand in a session."""
    rows, columns, depth = size
    random = np.random.default_rng(0)
    weights = random.standard_normal((copies, depth, columns)).astype(np.float32)
    nodes = [helper.make_node("Product", ["x", f"w{c}"], [f"y{c}"], domain=FUSED) for c in range(copies)]
    feeds = {"x": random.standard_normal((rows, depth)).astype(np.float32)}
    constants = {f"w{c}": weights[c] for c in range(copies)}
    return bound(session(model_of(nodes, feeds, constants, [f"y{c}" for c in range(copies)]), 1, library), feeds)


def timed(size: Size, far: bool, libraries: Sequence[Path]) -> list[float]:
    """Seconds of one product for each library."""
    copies = max(2, (FAR_BYTES if far else NEAR_BYTES) // (4 * size[1] * size[2]))
    copies = min(copies, MOST_COPIES)
    runs = []
    for setting, library in zip(SETTINGS, libraries, strict=True):
        os.environ["GRAPHOPT_MATRIX_UNIT"] = setting  # read once, in the first run
        runs.append(opened(size, copies, library))
    rounds = max(1, int(TURN_SECONDS / max(timeit(runs[0], number=1), 1e-6)))
    best = [float("inf")] * len(runs)
    for _ in range(TURNS):
        for which, run in enumerate(runs):
            best[which] = min(best[which], timeit(run, number=rounds) / rounds)
    return [seconds / copies for seconds in best]


if __name__ == "__main__":
    sys.exit(main())
