#!/usr/bin/env python3
"""What observing a session costs: the same session observed and not, in turn, in one process.

    python benchmarks/observe.py [MODEL …] [--seconds 10] [--flush 1]

MODEL is a file or a sample graph; without one, a single operator, one with eight inputs, and a few sample graphs.
Blocks of runs of the plain and of the observed session alternate, in an order that changes from pair to pair; a row
gives the median over the pairs of what an observed run takes more, with its 95 % interval by order statistics. Counts
are flushed to a temporary corpus all the while, every second unless told otherwise, so that the thread's work is in
there.
"""

import argparse
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
from onnxruntime import InferenceSession, SessionOptions

import graphopt
from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.weights import fill_weights

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ("dlrm", "mobilenet_v3_large", "swin_tiny")
BLOCK_SECONDS = 0.005


def main() -> int:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--flush", type=float, default=1.0, help="seconds between flushes")
    arguments = parser.parse_args()
    print("| model | method | run, µs | observed: more, µs | 95 % | share |")
    print("|---|---|---:|---:|---:|---:|")
    chosen = [(name, _read(name)) for name in arguments.models or SAMPLES]
    if not arguments.models:
        chosen = [("one Add", adding(1)), ("eight inputs", adding(8)), *chosen]
    for name, model in chosen:
        try:
            rows(name, model, arguments.seconds, arguments.flush)
        except GraphoptError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return 0


def _read(name: str) -> onnx.ModelProto:
    path = Path(name)
    return fill_weights(models.load(path if path.is_file() else ROOT / "sample_graphs" / f"{name}.onnx"))


def adding(inputs: int) -> onnx.ModelProto:
    """A model that adds its inputs of one element each."""
    names = [f"x{index}" for index in range(inputs)]
    operator = f"Sum({', '.join(names)})" if inputs > 1 else "Add(x0, x0)"
    text = f"g ({', '.join(f'float[N] {name}' for name in names)}) => (float[N] y) {{ y = {operator} }}"
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def rows(name: str, model: onnx.ModelProto, seconds: float, flush: float) -> None:
    """Print a row for each method of a model."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    plain = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = models.seeded_inputs(model, models.default_shapes(model))
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        observed = graphopt.observe(plain, folder, flush_seconds=flush)
        compare(name, "run", lambda: plain.run(None, feeds), lambda: observed.run(None, feeds), seconds)

        def bound(session: Any) -> Callable[[], Any]:
            binding = session.io_binding()
            for key, value in feeds.items():
                binding.bind_cpu_input(key, value)
            for output in session.get_outputs():
                binding.bind_output(output.name)
            return lambda: session.run_with_iobinding(binding)

        compare(name, "run_with_iobinding", bound(plain), bound(observed), seconds)

        options.intra_op_num_threads = 2  # as run_async asks for
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        plain = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = [output.name for output in plain.get_outputs()]

        def awaited(session: Any) -> Callable[[], Any]:
            done = threading.Event()

            def run() -> None:
                done.clear()
                session.run_async(outputs, feeds, lambda results, data, error: done.set(), None)
                done.wait()

            return run

        compare(
            name, "run_async", awaited(plain), awaited(graphopt.observe(plain, folder, flush_seconds=flush)), seconds
        )
        observed.recorder.finish()
        if observed.recorder.dropped:
            raise GraphoptError(f"{observed.recorder.dropped} executions were dropped")


def compare(name: str, method: str, plain: Callable[[], Any], observed: Callable[[], Any], seconds: float) -> None:
    """Time both in turn and print a row."""
    start = time.perf_counter()
    for _ in range(5):
        plain(), observed()
    runs = max(1, int(BLOCK_SECONDS / ((time.perf_counter() - start) / 10)))
    for work in (plain, observed):  # the first flush, which stores the graph, is no part of a steady state
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            work()
    base: list[float] = []
    more: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(more) < 20:
        turn = [plain, observed] if len(more) % 2 else [observed, plain]
        times = {work: block(work, runs) for work in turn}
        base.append(times[plain])
        more.append(times[observed] - times[plain])
    more.sort()
    margin = math.ceil(0.98 * math.sqrt(len(more)))  # order statistics: half the pairs, ± 1.96 standard deviations
    low, high = more[max(0, len(more) // 2 - margin)], more[min(len(more) - 1, len(more) // 2 + margin)]
    run, extra = statistics.median(base), statistics.median(more)
    print(
        f"| {name} | {method} | {1e6 * run:.1f} | {1e6 * extra:+.2f} | {1e6 * low:+.2f} … {1e6 * high:+.2f} "
        f"| {extra / run:+.2%} |",
        flush=True,
    )


def block(work: Callable[[], Any], runs: int) -> float:
    """Seconds for one of some runs, after one that finds in the caches what the other session left there."""
    work()
    start = time.perf_counter()
    for _ in range(runs):
        work()
    return (time.perf_counter() - start) / runs


if __name__ == "__main__":
    sys.exit(main())
