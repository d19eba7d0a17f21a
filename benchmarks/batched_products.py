#!/usr/bin/env python3
"""What merging batched matrix products with tensor manipulation saves (section 3.3 of Park et al., 2018).

    python benchmarks/batched_products.py [MODELS] [--only NAME …] [--output FILE]

Applies graphopt to each model of a corpus (default: the recommendation and attention models of sample_graphs) at its
first captured shapes and prints a row for each: the kernels that hold a matrix product of two computed operands
together with operators that only move data (reshapes, transposes, gathers, concatenations), what they take before and
after, and what share of the whole model's time that saves. The paper reports over 10 % of the run time.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt import models, operators
from graphopt.errors import GraphoptError
from graphopt.graph import OperatorGraph
from graphopt.operators import FusionClass
from graphopt.passes.apply import apply
from graphopt.passes.pattern_model import load_view
from graphopt.runtime import deployment

SAMPLES = Path(__file__).resolve().parent.parent / "sample_graphs"
CHOSEN = ("dlrm", "dcn_v2", "wide_and_deep", "bert_base", "xlm_r_base", "llama_blocks", "swin_tiny", "seq2seq_gru")
PRODUCTS = ("MatMul", "com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: its name.
        stock: seconds of one execution in onnxruntime with everything enabled.
        fused: the same as written.
        kernels: calls of kernels that merge batched products with tensor manipulation.
        before: seconds of what these calls replace, in one execution.
        after: seconds of the calls.
    """

    model: str
    stock: float
    fused: float
    kernels: int
    before: float
    after: float


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="?", type=Path, default=SAMPLES, help="folder of models with a captures.toml")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this model only; may be repeated")
    parser.add_argument("--output", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    names = arguments.only or (CHOSEN if arguments.models == SAMPLES else [])
    paths = sorted(path for path in arguments.models.glob("*.onnx") if not names or path.stem in names)
    if not paths:
        print(f"{arguments.models}: no such models", file=sys.stderr)
        return 3
    lines = [
        "| model | stock ms | fused ms | ratio | calls | products apart ms | merged ms | saved of the model's time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print(*lines, sep="\n", flush=True)
    for path in paths:
        try:
            lines.append(text(measured(path)))
        except GraphoptError as error:
            lines.append(f"| {path.stem} | {error} | | | | | | |")
        print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def measured(path: Path) -> Row:
    """Apply graphopt to one model and sum up the kernels in question."""
    known = deployment.captured(path, {}, {})
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        plan = apply(path, Path(folder) / "fused.onnx", shapes=known.shapes[:1], ranges=known.ranges).to_dict()
    graph = models.to_graph(load_view(path, "executed"), path.stem)
    data: Mapping[str, Any] = plan
    whole = next(entry for entry in data["comparisons"] if entry["baseline"] == "stock")["seconds"]
    merged = [entry for entry in data["fused"] if entry["measured_seconds"] and merges(graph, entry["occurrences"][0])]
    return Row(
        path.stem,
        whole["before"],
        whole["after"],
        sum(len(entry["occurrences"]) for entry in merged),
        sum(entry["measured_seconds"]["before"] for entry in merged),
        sum(entry["measured_seconds"]["after"] for entry in merged),
    )


def merges(graph: OperatorGraph, nodes: list[str]) -> bool:
    """Whether nodes hold a product of two computed operands and operators that only move data."""
    chosen = [node for node in graph.nodes if node.name in nodes]
    product = any(
        node.operator in PRODUCTS and not any(graph.tensors[name].constant for name in node.inputs[:2])
        for node in chosen
    )
    rows = (operators.find(node) for node in chosen)
    moves = any(row is not None and row.fusion_class in (FusionClass.LAYOUT, FusionClass.LOOKUP) for row in rows)
    return product and moves


def text(row: Row) -> str:
    """A row as Markdown."""
    saved = (row.before - row.after) / row.stock if row.stock else 0.0
    return (
        f"| {row.model} | {row.stock * 1e3:.3g} | {row.fused * 1e3:.3g} | {row.stock / row.fused:.2f} | {row.kernels} "
        f"| {row.before * 1e3:.3g} | {row.after * 1e3:.3g} | {100 * saved:.1f} % |"
    )


if __name__ == "__main__":
    sys.exit(main())
