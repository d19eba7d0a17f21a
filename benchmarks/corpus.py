#!/usr/bin/env python3
"""Apply graphopt to a folder of models and write what came of it as a Markdown table.

    python benchmarks/corpus.py MODELS [--captures FILE] [--output docs/results.md] [--threads 1,2] [--only ID …]

MODELS is a folder of .onnx files. Input shapes come from ``captures.toml`` in it, or from ``--captures``: another such
file, or a JSON list of ``{"id": …, "inputs": {name: shape}, "scalar_inputs": {name: value}}``. Every model runs in a
process of its own, so that a crash is a row of the table and not its end. Rows are kept in ``--cache`` (JSON lines):
what is in there is not measured again. Where openvino is installed, it runs beside, in float32.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

SECONDS_PER_MODEL = 600
BATCHES = (1, 3)

LEGEND = """\
*nodes*: of the model as exported → as onnxruntime executes it → as written. *kernels/calls*: fused operators, and how
often they stand in the model. *error*: greatest difference to stock onnxruntime relative to the output's largest value,
at the captured shapes; *other batches*: the same at batch 1 and 3 where the batch is free. Where an output is a class,
one that ties with another may flip, which counts as 1: that passes only where the original flips as many when its
inputs move by rounding. *no library*: numbers of the written model in stock onnxruntime without the kernel library.
*stock*: onnxruntime with all optimisations. *ratio*: stock over fused, with its 95 % interval over sessions opened
anew. *OpenVINO*: stock over OpenVINO, which compiles the model as exported, with float32 asked for and as many
threads. *apply*: seconds that `graphopt apply` took, measurements included."""


def main() -> int:
    """Parse the command line, run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--cache", type=Path, default=Path("build/corpus.jsonl"), help="results so far")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="this model only; may be repeated")
    parser.add_argument("--again", action="store_true", help="measure the chosen models again")
    parser.add_argument("--threads", default="1", help="numbers of threads, separated by commas: a table for each")
    parser.add_argument("--seconds", type=float, default=0.6, help="time for each block of a comparison of whole runs")
    parser.add_argument("--no-openvino", action="store_true", help="leave OpenVINO out")
    parser.add_argument("--one", metavar="ID", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shapes = captures(arguments.models, arguments.captures)
    if arguments.one:
        threads = int(arguments.threads)
        row = measure(arguments.models / f"{arguments.one}.onnx", shapes.get(arguments.one, {}), threads, arguments)
        print(json.dumps(row, sort_keys=True))
        return 0
    known = cached(arguments.cache)
    ids = sorted(path.stem for path in arguments.models.glob("*.onnx"))
    missing = sorted(set(arguments.only) - set(ids))
    if missing or not ids:
        print(f"{arguments.models}: no model {', '.join(missing) or 'at all'}", file=sys.stderr)
        return 3
    chosen = [name for name in ids if not arguments.only or name in arguments.only]
    counts = [int(count) for count in arguments.threads.split(",")]
    for threads in counts:
        for number, name in enumerate(chosen, 1):
            if (name, threads) in known and not arguments.again:
                continue
            row = in_a_process(name, threads, arguments)
            known[name, threads] = row
            arguments.cache.parent.mkdir(parents=True, exist_ok=True)
            with arguments.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")
            ratio = f"{row['ratio']:.3f}" if "ratio" in row else row.get("failure", "")
            print(f"[{number}/{len(chosen)}] {name}: {ratio} ({row.get('seconds', 0):.0f} s)", flush=True)
    tables = [table([known[name, n] for name in ids if (name, n) in known], n) for n in counts]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n".join(["# Results on real models\n", *tables]), encoding="utf-8")
    print(arguments.output)
    return 0


def captures(folder: Path, file: Path | None) -> dict[str, dict[str, Any]]:
    """Model name to ``{"shapes": …, "ranges": …}``: the first capture of each model."""
    file = file or folder / "captures.toml"
    if not file.exists():
        return {}
    if file.suffix == ".json":
        return {
            entry["id"]: {
                "shapes": entry["inputs"],
                "ranges": {name: [float(v), float(v)] for name, v in entry.get("scalar_inputs", {}).items()},
            }
            for entry in json.loads(file.read_text(encoding="utf-8"))
        }
    found: dict[str, dict[str, Any]] = {}
    for entry in tomllib.loads(file.read_text(encoding="utf-8")).get("capture", []):
        found.setdefault(
            Path(entry["model"]).stem, {"shapes": entry.get("shapes", {}), "ranges": entry.get("ranges", {})}
        )
    return found


def cached(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows measured before, by model and threads; later lines win."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {(row["model"], row.get("threads", 1)): row for row in rows}


def in_a_process(name: str, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one model in a process of its own."""
    command = [sys.executable, __file__, str(arguments.models), "--one", name, "--threads", str(threads)]
    command += ["--seconds", str(arguments.seconds), *(["--no-openvino"] if arguments.no_openvino else [])]
    if arguments.captures:
        command += ["--captures", str(arguments.captures)]
    start = time.monotonic()
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_PER_MODEL, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {
            "model": name,
            "threads": threads,
            "failure": f"took more than {SECONDS_PER_MODEL} s",
            "seconds": SECONDS_PER_MODEL,
        }
    seconds = time.monotonic() - start
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        row: dict[str, Any] = json.loads(lines[-1])
        return row
    last = (done.stderr.strip().splitlines() or [""])[-1][:200]
    reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else last
    return {"model": name, "threads": threads, "failure": reason, "seconds": seconds}


def measure(path: Path, capture: dict[str, Any], threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Apply, check and time one model."""
    from graphopt import models
    from graphopt.errors import GraphoptError
    from graphopt.passes.apply import apply
    from graphopt.passes.base import Observed
    from graphopt.passes.measure import cases, compare
    from graphopt.runtime.session import load, open_session
    from graphopt.runtime.verify import verify
    from graphopt.weights import fill_weights

    row: dict[str, Any] = {"model": path.stem, "threads": threads}
    shapes = {name: tuple(shape) for name, shape in capture.get("shapes", {}).items()}
    ranges = {name: (float(low), float(high)) for name, (low, high) in capture.get("ranges", {}).items()}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "fused.onnx"
        start = time.monotonic()
        try:
            plan = apply(path, output, shapes=shapes, ranges=ranges, threads=threads)
        except GraphoptError as error:
            return {**row, "failure": str(error), "seconds": time.monotonic() - start}
        row["seconds"] = time.monotonic() - start
        row["nodes"] = [plan.nodes_before, plan.nodes_unfused, plan.nodes_after]
        row["kernels"] = len(plan.fused)
        row["calls"] = sum(len(entry.occurrences) for entry in plan.fused)
        row["view"] = plan.view
        row["lost"] = sum(1 for entry in plan.not_fused if entry.identity)
        row["wrong"] = [entry.reason for entry in plan.not_fused if entry.reason.startswith("different")]
        original = fill_weights(models.load(path))
        shapes = dict(plan.captured[0][0])
        stock = open_session(original, optimization="all", threads=threads)
        fused = load(output, session_options(threads, plan.view))
        found = verify(stock, fused, [shapes], batches=BATCHES, model=original, ranges=ranges or None)
        row["verdict"] = str(found.verdict)
        row["max_relative"] = [case.outputs and max(o.max_relative for o in case.outputs) for case in found.cases]
        row["cases"] = [[case.batch, str(case.verdict), case.reason[:160]] for case in found.cases]
        verdicts = []
        for level in ("none" if plan.view == "executed" else "all", "all"):
            bare = open_session(output, optimization=level, threads=threads)
            verdicts.append(str(verify(stock, bare, [shapes], model=original, ranges=ranges or None).verdict))
        row["without_library"] = verdicts[0] if verdicts[0] == verdicts[1] else ", optimised again ".join(verdicts)
        given = cases(original, [Observed(shapes, 1, ranges)], 0)

        def opened() -> dict[str, Any]:
            return {
                "stock": open_session(original, optimization="all", threads=threads),
                "fused": load(output, session_options(threads, plan.view)),
            }

        timed = compare(opened, given, "fused", seconds=arguments.seconds)["stock"]
        row["stock_ms"], row["fused_ms"] = timed.seconds_before * 1e3, timed.seconds_after * 1e3
        row["ratio"], row["low"], row["high"] = timed.ratio, timed.low, timed.high
        if not arguments.no_openvino:
            row.update(openvino_beside(stock, original, given[0].feeds, threads))
    return row


def openvino_beside(stock: Any, model: Any, feeds: Any, threads: int) -> dict[str, Any]:
    """Time OpenVINO against stock onnxruntime on the same inputs; empty where it is not installed."""
    try:
        import openvino
    except ImportError:
        return {}
    from graphopt.runtime.bench import bench

    try:
        core = openvino.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(model.SerializeToString())
            request = core.compile_model(core.read_model(file), "CPU", options).create_infer_request()
        known = {name for port in request.get_compiled_model().inputs for name in port.get_names()}
        own = {name: array for name, array in feeds.items() if name in known}
        request.infer(own)

        def run(_: Any) -> object:
            return request.infer(own, share_inputs=True, share_outputs=True)

        timed = bench({"stock": stock, "openvino": run}, feeds, min_seconds=1.5, max_seconds=6.0)
    except Exception as error:  # OpenVINO's errors and ours alike: it does not run this model
        return {"openvino": " ".join(str(error).split())[:120] or type(error).__name__}
    return {"openvino_ratio": timed.ratio("stock", "openvino").ratio}


def session_options(threads: int, view: str) -> Any:
    """Options with which a written model is timed: those of ``graphopt.load``, and so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if view == "executed":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def table(rows: list[dict[str, Any]], threads: int) -> str:
    """The Markdown document."""
    good = [row for row in rows if "ratio" in row]
    beside = [row["openvino_ratio"] for row in good if "openvino_ratio" in row]
    columns = ["model", "nodes", "kernels/calls", "view", "error", "other batches", "no library"]
    columns += ["stock ms", "fused ms", "ratio", "OpenVINO", "apply s"]
    slower = sorted(row["model"] for row in good if row["ratio"] < 0.99)
    summary = f"{len(rows)} models, {len(rows) - len(good)} failed; geometric mean of the ratios "
    summary += f"{_mean([row['ratio'] for row in good]):.3f}, {len(slower)} below 0.99"
    if beside:
        same = [row["ratio"] for row in good if "openvino_ratio" in row]
        summary += f"; on the {len(beside)} that OpenVINO runs, {_mean(same):.3f}, and OpenVINO {_mean(beside):.3f}"
    lines = [
        f"## {threads} thread{'s' if threads > 1 else ''}",
        "",
        f"Written by `benchmarks/corpus.py`. Machine: {machine()}.",
        "",
        LEGEND,
        "",
        f"**{summary}.**",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for row in sorted(rows, key=lambda r: r["model"]):
        if "ratio" not in row:
            lines.append(
                f"| {row['model']} | {row.get('failure', '')} | | | | | | | | | | {row.get('seconds', 0):.0f} |"
            )
            continue
        first, *others = zip(row["cases"], row["max_relative"], strict=True)
        batches = [f"{batch}: {_error(verdict, value)}" for (batch, verdict, _), value in others]
        lines.append(
            f"| {row['model']} | {' → '.join(map(str, row['nodes']))} | {row['kernels']}/{row['calls']} "
            f"| {row['view']} | {_error(first[0][1], first[1])} | {', '.join(batches) or '–'} "
            f"| {row['without_library']} "
            f"| {row['stock_ms']:.3g} | {row['fused_ms']:.3g} "
            f"| **{row['ratio']:.3f}** ({row['low']:.3f}–{row['high']:.3f}) "
            f"| {_openvino(row)} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios)) if ratios else float("nan")


def _openvino(row: dict[str, Any]) -> str:
    if "openvino_ratio" in row:
        return f"{row['openvino_ratio']:.3f}"
    return "does not run" if "openvino" in row else "–"


def _error(verdict: str, value: float | list[object]) -> str:
    if verdict == "skipped":
        return "original does not run"
    if verdict == "different":
        return f"**different** ({value:.1e})" if isinstance(value, float) else "**different**"
    return "0" if not value else f"{value:.0e}"


def machine() -> str:
    """Processor, cores, memory and versions; no host name."""
    import onnxruntime

    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        names = [line for line in cpu.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"
    return f"{model}, {cores} core{'' if cores == 1 else 's'}, {platform.system()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
