#!/usr/bin/env python3
"""Where the time of some models goes in stock onnxruntime, and how fast they could be at most with kernels.

    python benchmarks/limits.py MODELS [--captures FILE] [--only ID …] [--machine NAME] [--output FILE]

MODELS and ``--captures`` are those of ``benchmarks/corpus.py``. Nodes of the executed view are timed by onnxruntime's
profiler, with what the profiler adds taken off. *At best* counts matrix products at the rate that kernels were measured
at (on the matrix unit, where the machine has one), recurrent layers and convolutions as they are, all others at the
roofline (no node costs anything), and what a run costs beside its nodes. Kernels come close to that where products are
large, and weights and what lies between the products stay in the second-level cache.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GROUPS = ("products", "recurrent", "convolutions", "others")


@dataclass
class Group:
    """Operators of one kind in a model: how many, their work, and seconds of a run: measured and at best."""

    nodes: int = 0
    flops: int = 0
    bytes: int = 0
    measured: float = 0.0
    best: float = 0.0


@dataclass(frozen=True)
class Limits:
    """One model: seconds of a run, and of its operators by kind."""

    model: str
    measured: float
    groups: Mapping[str, Group]

    @property
    def beside(self) -> float:
        """Seconds of a run beside its nodes."""
        return max(0.0, self.measured - sum(group.measured for group in self.groups.values()))

    @property
    def best(self) -> float:
        """Seconds of a run that no kernels of this kind go below."""
        return self.beside + sum(group.best for group in self.groups.values())


def limits(path: Path, shapes: Mapping[str, tuple[int, ...]], machine_name: str | None) -> Limits:
    """Time a model's operators and find out what is left of them at best."""
    from graphopt import machine, models
    from graphopt.graph import Node
    from graphopt.model_graphs import with_unique_names
    from graphopt.operators import table
    from graphopt.operators.base import FusionClass
    from graphopt.passes import pipeline
    from graphopt.passes.base import Context, Observed
    from graphopt.passes.fuse import observe
    from graphopt.roofline import UNIT
    from graphopt.runtime.feeds import seeded_inputs
    from graphopt.runtime.operator_profile import profile_capture
    from graphopt.weights import fill_weights

    hardware = machine.load(*([machine_name] if machine_name else []))
    original = fill_weights(models.load(path))
    observed = (Observed(models.default_shapes(original, shapes), 1, {}),)
    context = Context(observed, hardware, None, source=path.name)
    prepared = pipeline.run(original, pipeline.DEFAULT_PIPELINE[:-1], context).model
    model = with_unique_names(models.inline_functions(prepared))
    capture = observe(model, context)[0]
    feeds = seeded_inputs(original, observed[0].shapes, seed=0)
    seen = profile_capture(model, capture, feeds, hardware, seconds=3.0)
    groups = {name: Group() for name in GROUPS}
    rate = max(hardware.kernel_rates[key].value for key in ("gemm", UNIT) if key in hardware.kernel_rates)

    def kind(operator: str) -> str:
        row = table().get(operator)
        if row is not None and row.fusion_class is FusionClass.SEQUENTIAL:
            return "recurrent"
        if row is not None and row.fusion_class is FusionClass.CONTRACTION:
            return "convolutions" if row.rate_class.startswith("conv") else "products"
        return "others"

    nodes: dict[str, Node] = {node.name: node for node in capture.graph.nodes}
    for operator in seen.operators:
        name = kind(nodes[operator.node].operator if operator.node in nodes else operator.operator)
        group = groups[name]
        group.nodes += 1
        group.flops += operator.flops
        group.bytes += operator.bytes
        group.measured += operator.measured
        ideal = min(operator.measured, operator.ideal if operator.ideal is not None else operator.measured)
        at_best = {"products": operator.flops / rate, "others": ideal}.get(name, operator.measured)
        group.best += min(operator.measured, at_best)
    return Limits(path.stem, seen.measured, groups)


def row(found: Limits) -> str:
    """A line of the table."""
    cells = [found.model, f"{found.measured * 1e6:.0f}"]
    for name in GROUPS:
        group = found.groups[name]
        if not group.nodes:
            cells.append("–")
            continue
        work, unit = (group.bytes, "GB/s") if name == "others" else (group.flops, "GFLOP/s")
        speed = work / group.measured / 1e9 if group.measured > 0 else 0.0
        cells.append(f"{group.nodes}: {group.measured * 1e6:.0f} ({speed:.0f} {unit}) → {group.best * 1e6:.0f}")
    cells += [f"{found.beside * 1e6:.0f}", f"{found.best * 1e6:.0f}", f"**{found.measured / found.best:.2f}**"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Measure the models and print the table."""
    sys.path.insert(0, str(Path(__file__).parent))
    from corpus import captures  # beside this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="this model only; may be repeated")
    parser.add_argument("--machine", help="roofline description")
    parser.add_argument("--output", type=Path, help="Markdown file to write; else the table is printed")
    arguments = parser.parse_args()
    known = captures(arguments.models, arguments.captures)
    names = arguments.only or [path.stem for path in sorted(arguments.models.glob("*.onnx"))]
    lines = [
        "| model | stock µs | products: µs (rate) → at best | recurrent | convolutions | others | beside nodes | "
        "at best µs | ratio |",
        "|---|---:|---|---|---|---|---:|---:|---:|",
    ]
    for name in names:
        shapes = {key: tuple(shape) for key, shape in known.get(name, {}).get("shapes", {}).items()}
        lines.append(row(limits(arguments.models / f"{name}.onnx", shapes, arguments.machine)))
        print(lines[-1], file=sys.stderr)
    text = "\n".join(lines) + "\n"
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
