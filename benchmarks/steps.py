#!/usr/bin/env python3
"""Where the time of a fused model goes, step by step, and how close each kind of step comes to the machine's rates.

    python benchmarks/steps.py MODELS --only ID … [--captures FILE] [--machine NAME]

MODELS and ``--captures`` are those of ``benchmarks/corpus.py``. Each model goes through ``apply``; its kernels are
compiled again with a clock around each step (docs/kernels.md says what a step is), which costs about 50 ns a step.
*Achieved* is what the steps of a kind do in a second: GFLOP/s of products, GB/s of others, counted as bytes that they
read and write. *Of the rate*: of the calibrated peak of the unit that computes them; of the bandwidth of the level of
memory that would hold all that the model's steps read and write. *Beside steps*: onnxruntime's call of kernels, what it
runs itself, and Python's.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

MATRIX_UNIT = "products by the matrix unit"
SECONDS = 3.0
HEADER = Path(__file__).with_name("step_times.h")


def timed_library(source: Path, folder: Path) -> Path:
    """The kernels of a written model, with clocks."""
    from graphopt.kernels.compile import find_compiler, flags_of, levels
    from graphopt.kernels.emit import support

    text, shared = source.read_text(), support("library.h")
    call = "error = s->run(j->p, s, begin, end < s->units ? end : s->units, j->tensors);"
    end = "    if (memory)\n        give_memory(memory);\n    return status;\n"
    assert text.count(shared) == 1 and shared.count(call) == 1 and shared.count(end) == 1, "library.h has changed"
    timed = shared.replace(call, call.replace("s->run(", "run_timed(")).replace(end, "    end_times(p);\n" + end)
    file, library = folder / "timed.c", folder / "timed.so"
    file.write_text(text.replace(shared, HEADER.read_text() + timed))
    compiler = find_compiler()
    assert compiler, "no C compiler"
    flags = [*flags_of(compiler, levels(compiler, portable=False)[0]), "-shared", "-w"]
    subprocess.run([*compiler, *flags, str(file), "-o", str(library), "-lm"], check=True)
    return library


def measured(path: Path, capture: dict[str, Any], machine: str | None) -> tuple[float, list[dict[str, Any]]]:
    """Median seconds of a run of the fused model, and its steps."""
    from corpus import session_options  # beside this file

    from graphopt import models
    from graphopt.passes.apply import apply
    from graphopt.passes.base import Observed
    from graphopt.passes.measure import cases
    from graphopt.runtime.session import load
    from graphopt.weights import fill_weights

    shapes = {name: tuple(shape) for name, shape in capture.get("shapes", {}).items()}
    ranges = {name: (float(low), float(high)) for name, (low, high) in capture.get("ranges", {}).items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output = folder / "fused.onnx"
        plan = apply(path, output, shapes=shapes, ranges=ranges, machine=machine)
        feeds = cases(fill_weights(models.load(path)), [Observed(dict(plan.captured[0][0]), 1, ranges)], 0)[0].feeds
        plain = median_run(load(output, session_options(1, plan.view)), feeds)
        library = timed_library(output.with_suffix(".c"), folder)
        library.replace(output.with_suffix(".so"))
        options = session_options(1, plan.view)
        options.register_custom_ops_library(str(output.with_suffix(".so")))
        import onnxruntime

        session = onnxruntime.InferenceSession(str(output), options)  # steps live as long as it does
        median_run(session, feeds)
        times = folder / "times.jsonl"
        assert ctypes.CDLL(str(output.with_suffix(".so"))).write_step_times(str(times).encode()) == 0
        return plain, [json.loads(line) for line in times.read_text().splitlines()]


def median_run(session: Any, feeds: Any) -> float:
    """Median seconds of a run."""
    own = {value.name: feeds[value.name] for value in session.get_inputs()}
    seconds, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        before = time.perf_counter()
        session.run(None, own)
        seconds.append(time.perf_counter() - before)
    return statistics.median(seconds)


def rows(name: str, run: float, steps: list[dict[str, Any]], hardware: Any) -> list[str]:
    """Lines of the table."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for step in steps:
        kinds[step["kind"]].append(step)
    held = sum(step["bytes"] for step in steps)
    lines = []
    for kind, own in sorted(kinds.items(), key=lambda item: -sum(step["seconds"] for step in item[1])):
        seconds, flops, moved = (sum(step[key] for step in own) for key in ("seconds", "flops", "bytes"))
        achieved, fraction = "–", "–"
        if flops:
            peak = hardware.kernel_rates["matrix_unit"].value if kind == MATRIX_UNIT else hardware.peak_of("float32")
            achieved, fraction = f"{flops / seconds / 1e9:.0f} GFLOP/s", f"{flops / seconds / peak:.2f}"
        elif moved:
            least = hardware.seconds_to_move(moved, 0, held)
            achieved, fraction = f"{moved / seconds / 1e9:.0f} GB/s", f"{least / seconds:.2f}"
        work = f"{flops / 1e6:.1f} | {moved / 1e3:.0f}"
        share = f"{seconds * 1e6:.1f} | {seconds / run:.0%}"
        lines.append(f"| {name} | {kind} | {len(own)} | {share} | {work} | {achieved} | {fraction} |")
    rest = run - sum(step["seconds"] for step in steps)
    return [*lines, f"| {name} | beside steps | | {rest * 1e6:.1f} | {rest / run:.0%} | | | | |"]


def main() -> int:
    """Measure the models and print the table."""
    sys.path.insert(0, str(Path(__file__).parent))
    from corpus import captures

    from graphopt import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--only", action="append", required=True, metavar="ID", help="this model; may be repeated")
    parser.add_argument("--machine", help="roofline description")
    arguments = parser.parse_args()
    hardware = machine.load(*([arguments.machine] if arguments.machine else []))
    known = captures(arguments.models, arguments.captures)
    print("| model | steps of a kind | steps | µs | of the run | MFLOP | kB | achieved | of the rate |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in arguments.only:
        run, steps = measured(arguments.models / f"{name}.onnx", known.get(name, {}), arguments.machine)
        print("\n".join(rows(name, run, steps, hardware)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
