"""How long it takes, and how much memory, to load a fleet's observed corpus for mining.

Writes a corpus of 1,000,000 captures of 1,000 graphs as services write it, in 2,000 files, and loads it in a process of
its own, on one core: adding up the captures, then everything that the miner needs of them (each graph parsed,
optimised by onnxruntime for the executed view, and the shapes of all of its tensors at all of its input shapes).

    python benchmarks/corpus_scale.py
    python benchmarks/corpus_scale.py --captures 100000 --graphs 100 --json
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pyarrow as pa
from onnx import ModelProto, TensorProto, helper

from graphopt import corpus, store
from graphopt.store import tables
from graphopt.store.compaction import compact
from graphopt.views import VIEWS, ViewName

BATCHES = 10
"""Input shapes of each graph."""
OPERATORS = ("Relu", "Sigmoid", "Tanh", "Add", "Mul", "Sub", "MatMul", "Softmax", "LayerNormalization")


def model(generator: random.Random, operators: int) -> ModelProto:
    """A network of so many operators on rows of 64 numbers, with residual connections."""
    nodes, initializers, tensors = [], [], ["x"]
    for index in range(operators):
        kind, result = generator.choice(OPERATORS), f"t{index}"
        operands = [tensors[-1]]
        if kind in ("Add", "Mul", "Sub"):
            operands.append(generator.choice(tensors))
        elif kind == "MatMul":
            operands.append(f"w{index}")
            initializers.append(_weight(f"w{index}", 64, 64))
        elif kind == "LayerNormalization":
            operands += [f"s{index}", f"b{index}"]
            initializers += [_weight(f"s{index}", 64), _weight(f"b{index}", 64)]
        nodes.append(helper.make_node(kind, operands, [result], name=result))
        tensors.append(result)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in ("x", tensors[-1])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _weight(name: str, *shape: int) -> TensorProto:
    size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, raw_data=bytes(size))


def write(place: Path, graphs: int, captures: int, files: int, operators: int) -> None:
    """Write the corpus."""
    generator = random.Random(0)
    fleet = store.open(place)
    known = []
    for index in range(graphs):
        known.append((fleet.put_graph(model(generator, operators)), f"model-{index}"))
    shapes = [tables.shapes_text(((2**size, 64),)) for size in range(BATCHES)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    schema = store.CAPTURES.schema()
    for file in range(files):
        rows = captures // files + (file < captures % files)
        picked = [generator.choice(known) for _ in range(rows)]
        begin = start + timedelta(minutes=file)
        columns = {
            "graph": [graph for graph, _ in picked],
            "name": [name for _, name in picked],
            "shapes": [generator.choice(shapes) for _ in range(rows)],
            "executions": [generator.randint(1, 10_000) for _ in range(rows)],
            "start": [begin] * rows,
            "end": [begin + timedelta(minutes=1)] * rows,
            "runtime": ["1.31.1"] * rows,
        }
        fleet.captured.append(pa.table(columns, schema=schema))


def load(place: str, view: ViewName) -> dict[str, float]:
    """Load the corpus, timed; to be called in a process of its own."""
    start = time.perf_counter()
    rows = store.open(place).captured.total()
    added = time.perf_counter() - start
    start = time.perf_counter()
    loaded = corpus.load(place, view=view)
    seconds = time.perf_counter() - start
    return {
        "distinct": rows.num_rows,
        "executions": sum(rows.column("executions").to_pylist()),
        "aggregation_seconds": added,
        "load_seconds": seconds,
        "loaded": len(loaded.captures),
        "problems": len(loaded.problems),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(place: Path, view: ViewName) -> dict[str, float]:
    """``load`` in a fresh process."""
    words = [sys.executable, __file__, "--load", str(place), "--view", view]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=int, default=1_000_000)
    parser.add_argument("--graphs", type=int, default=1_000)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--operators", type=int, default=40, help="of each graph")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--view", choices=VIEWS, help="only this one")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(arguments.load, arguments.view)))
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        place = Path(scratch) / "fleet"
        write(place, arguments.graphs, arguments.captures, arguments.files, arguments.operators)
        views: tuple[ViewName, ...] = (arguments.view,) if arguments.view else ("executed", "raw")
        found = {f"as written, {view} view": measure(place, view) for view in views}
        start = time.perf_counter()
        compact(store.open(place))
        compaction = time.perf_counter() - start
        found |= {f"compacted, {view} view": measure(place, view) for view in views}
    if arguments.json:
        print(
            json.dumps(
                {"captures": arguments.captures, "graphs": arguments.graphs, "compaction_seconds": compaction, **found}
            )
        )
        return
    print(f"{arguments.captures:,} captures of {arguments.graphs:,} graphs in {arguments.files:,} files")
    print(f"compaction: {compaction:.1f} s")
    for name, one in found.items():
        print(
            f"{name:25}: captures added up in {one['aggregation_seconds']:.1f} s ({one['distinct']:,} distinct); "
            f"loaded for mining in {one['load_seconds']:.1f} s; peak memory {one['peak_bytes'] / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
