#!/usr/bin/env python3
"""How close the kernels that save most in a folder of models come to the roofline of this machine.

    python benchmarks/kernels.py MODELS [--captures FILE] [--top 50] [--only ID …] [--machine NAME]

MODELS and ``--captures`` are those of ``benchmarks/corpus.py``. In each model, everything is fused that the roofline
says may pay. The patterns of all models that would save most at the roofline are built, and their calls timed in
onnxruntime's profiler at the captured shapes, each in the model where it saves most. Patterns that save nothing so are
left out. A pattern's fraction is the time that its bytes take at the bandwidth of the level that they lie in, or its
operations at the peak, whichever is longer, over the measured time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOW = 0.4
"""Fraction below which the table says why."""

SPARE = 1.6
"""Patterns that are timed, for each that is listed: some of them save nothing."""


@dataclass(frozen=True)
class Row:
    """One pattern in one model.

    Attributes:
        identity: digest of the pattern's body.
        model: where it stands.
        operators: its operators.
        calls: how often.
        before: seconds of the operators one by one, all calls.
        measured: seconds of the calls.
        bytes: what they read and write.
        flops: what they compute.
        roof: seconds that bytes or operations take at least.
        arithmetic: seconds that the arithmetic takes at the measured rates of its operators.
        overhead: seconds that calling takes.
    """

    identity: str
    model: str
    operators: tuple[str, ...]
    calls: int
    before: float
    measured: float
    bytes: int
    flops: float
    roof: float
    arithmetic: float
    overhead: float


def rows_of(path: Path, capture: dict[str, Any], machine_name: str | None, chosen: Sequence[str] | None) -> list[Row]:
    """The patterns that are fused in one model: those chosen, timed; or all, as long as they take at the roofline."""
    from graphopt import kernels, machine, models, operators, roofline
    from graphopt.model_graphs import with_unique_names
    from graphopt.passes import measure, pipeline
    from graphopt.passes.base import Context, Observed
    from graphopt.passes.fuse import Fuse, Fusions, observe
    from graphopt.passes.rewrite import rewrite
    from graphopt.weights import fill_weights

    hardware = machine.load(*([machine_name] if machine_name else []))
    original = fill_weights(models.load(path))
    shapes = {name: tuple(shape) for name, shape in capture.get("shapes", {}).items()}
    ranges = {name: (float(low), float(high)) for name, (low, high) in capture.get("ranges", {}).items()}
    observed = (Observed(models.default_shapes(original, shapes), 1, ranges),)
    context = Context(observed, hardware, None, source=path.name)
    prepared = pipeline.run(original, pipeline.DEFAULT_PIPELINE[:-1], context).model
    unfused = with_unique_names(models.inline_functions(prepared))
    captures = observe(unfused, context)
    context = Context(observed, hardware, None, source=path.name, captures=captures, measured=True)
    details = Fuse().run(unfused, context).details
    if not isinstance(details, Fusions) or not details.made:
        return []
    seen, graph = captures[0], captures[0].graph
    made = [fusion for fusion in details.made if chosen is None or fusion.identity in chosen]
    apart: dict[str, Any] = {}
    seconds: dict[str, Any] = {}
    names: dict[str, str] = {}
    if chosen is not None:
        extractions = [extraction for fusion in made for extraction in fusion.occurrences]
        fused = rewrite(unfused, graph, extractions, capture=seen, source=path.name)
        names = {node.output[0]: node.name for node in fused.graph.node if node.output}
        with tempfile.TemporaryDirectory() as folder:
            wanted = [kernels.FusedOperator(f.name, f.body, f.shapes) for f in made]
            library = kernels.build_library(wanted, Path(folder), "kernels")
            given = measure.cases(original, observed, 0)
            variants = [(unfused, None), (fused, library)]
            apart, seconds = measure.node_turns(variants, given, threads=1, run_seconds=1e-2)
    found = []
    for fusion in made:
        moved, flops, roof, arithmetic, before, measured = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for extraction in fusion.occurrences:
            nodes = sorted(extraction.nodes)
            here = roofline.external_bytes(seen, nodes) or 0
            costs = [operators.cost(seen, index) for index in nodes]
            work = float(sum(cost.flops for cost in costs if cost is not None))
            traffic = roofline.traffic_seconds(seen, nodes, hardware) or 0.0
            roof += max(traffic, work / hardware.peak_of("float32"))
            whole = roofline.fused_seconds(seen, nodes, hardware) or 0.0
            arithmetic += whole - hardware.kernel_seconds
            moved, flops = moved + here, flops + work
            if chosen is not None:
                measured += float(seconds[names[extraction.outputs[0]]].min())
                timed = [apart[graph.nodes[index].name] for index in nodes if graph.nodes[index].name in apart]
                before += sum(float(turns.min()) for turns in timed)
        if chosen is None:
            before, measured = fusion.before, roof
        calls = len(fusion.occurrences)
        kinds = tuple(node.op_type for node in fusion.body.nodes)
        overhead = calls * hardware.kernel_seconds
        found.append(
            Row(
                fusion.identity,
                path.stem,
                kinds,
                calls,
                before,
                measured,
                moved,
                flops,
                roof,
                arithmetic,
                overhead,
            )
        )
    return found


def reason(row: Row) -> str:
    """What keeps a pattern far from the roofline: the share of its time that the machine's rates account for."""
    if row.measured <= 0:
        return "too short for the profiler"
    rest = row.measured - row.overhead
    if rest < 0.5 * row.measured:
        return f"calling takes {row.overhead / row.measured:.0%} of {row.measured / row.calls * 1e6:.1f} µs a call"
    if row.arithmetic > 0.6 * rest:
        return f"its functions: at their measured rates they take {min(1.0, row.arithmetic / rest):.0%} of the time"
    if row.measured / row.calls < 5e-6:
        return f"calls of {row.measured / row.calls * 1e6:.1f} µs, of which the profiler sees whole microseconds"
    return f"not explained: {rest / max(row.arithmetic, 1e-12):.1f} times what the machine's rates predict"


def merged(rows: Sequence[Row]) -> list[Row]:
    """One row for each pattern: of the model where it saves most, the models' savings added for the order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.identity, []).append(row)
    paying = [group for group in groups.values() if sum(row.before - row.measured for row in group) > 0]
    order = sorted(paying, key=lambda group: -sum(row.before - row.measured for row in group))
    return [max(group, key=lambda row: row.before - row.measured) for group in order]


def table(rows: Sequence[Row]) -> str:
    """The Markdown table."""
    fractions = [row.roof / row.measured for row in rows if row.measured > 0]
    middle = statistics.median(fractions) if fractions else float("nan")
    lines = [
        f"{len(rows)} patterns; fraction of the roofline at the median {middle:.2f}, below {LOW} for "
        f"{sum(fraction < LOW for fraction in fractions)}.",
        "",
        "| operators | model | calls | µs a call | saved µs | GB/s | GFLOP/s | fraction | why below 0.4 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        fraction = row.roof / row.measured if row.measured > 0 else 0.0
        short = list(row.operators[:5]) + ([f"… {len(row.operators)}"] if len(row.operators) > 5 else [])
        measured = max(row.measured, 1e-12)
        lines.append(
            f"| {', '.join(short)} | {row.model} | {row.calls} | {row.measured / row.calls * 1e6:.1f} "
            f"| {(row.before - row.measured) * 1e6:.0f} | {row.bytes / measured / 1e9:.1f} "
            f"| {row.flops / measured / 1e9:.1f} | {fraction:.2f} | {reason(row) if fraction < LOW else ''} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Find the patterns, time those that save most, and print the table."""
    sys.path.insert(0, str(Path(__file__).parent))
    from corpus import captures  # beside this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--top", type=int, default=50, help="patterns to list")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="this model only; may be repeated")
    parser.add_argument("--machine", help="roofline description")
    parser.add_argument("--one", metavar="ID", help=argparse.SUPPRESS)
    parser.add_argument("--time", metavar="DIGESTS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = captures(arguments.models, arguments.captures)
    if arguments.one:
        chosen = arguments.time.split(",") if arguments.time else None
        model = arguments.models / f"{arguments.one}.onnx"
        rows = rows_of(model, known.get(arguments.one, {}), arguments.machine, chosen)
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    names = [path.stem for path in sorted(arguments.models.glob("*.onnx"))]
    names = [name for name in names if not arguments.only or name in arguments.only]
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:  # nothing is timed here
        predicted = [row for rows in pool.map(lambda name: in_a_process(name, None, arguments), names) for row in rows]
    wanted: dict[str, list[str]] = {}
    for row in merged(predicted)[: int(SPARE * arguments.top)]:
        wanted.setdefault(row.model, []).append(row.identity)
    found = [row for name, digests in wanted.items() for row in in_a_process(name, digests, arguments)]
    print(table(merged(found)[: arguments.top]))
    return 0


def in_a_process(name: str, digests: Sequence[str] | None, arguments: argparse.Namespace) -> list[Row]:
    """``rows_of`` one model in a process of its own; no rows where that fails."""
    command = [sys.executable, __file__, str(arguments.models), "--one", name]
    command += ["--captures", str(arguments.captures)] if arguments.captures else []
    command += ["--machine", arguments.machine] if arguments.machine else []
    command += ["--time", ",".join(digests)] if digests is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        print(f"{name}: {last[:200]}", file=sys.stderr)
        return []
    rows = [Row(**{**row, "operators": tuple(row["operators"])}) for row in json.loads(lines[-1])]
    print(f"{name}: {len(rows)} patterns", file=sys.stderr)
    return rows


if __name__ == "__main__":
    sys.exit(main())
