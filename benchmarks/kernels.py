#!/usr/bin/env python3
"""How close the kernels that save most in a folder of models come to the roofline of this machine.

    python benchmarks/kernels.py MODELS [--captures FILE] [--top 50] [--machine NAME] [--folder build/kernels]

MODELS and ``--captures`` are those of ``benchmarks/corpus.py``. In each model, what ``apply`` would fuse before it
measures is found. The patterns of all models that save most by prediction are compiled into one library, cut out as
models of their own at the shapes where one call saves most, and timed on one core, everything bound in advance, over
and over: as operators in onnxruntime and as one kernel. Those that are not faster as one kernel are left out.
The others stand in the order of what all their calls in all models save: the predicted sum, corrected by the call that
was timed.

A pattern's roof is the longer of two times. *Traffic*: the bytes that enter and leave, at the bandwidth of the level
that holds them all; what a kernel keeps for itself does not count. *Arithmetic*: products at the calibrated peak,
functions and divisions at their calibrated rates, everything else as additions. Convolutions count the products of
their definition, so those that take fewer exceed 1. That is the calibrated roofline. A pattern that is slower without
the matrix unit has a second one: its products with weights at that unit's peak, which ``calibrate`` measures by a loop
that does nothing else, and weights at the bytes that they take in parts. What the runtime needs for a call is not the
kernel's time: that of a small kernel in a chain is taken off.

What was found is kept in ``--folder``, model by model, so a run that was stopped goes on where it was; remove the
folder to look again.
"""

import argparse
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from corpus import captures as captures_of
from prediction import Pair, alone, copies_of, runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from graphopt import kernels, machine, models, operators, roofline
from graphopt.calibrate import chains, matrix_unit
from graphopt.calibrate.cases import TINY
from graphopt.calibrate.timing import ENOUGH, Run, Timed, Watch, bound, case_model, fastest, session
from graphopt.capture import capture_model
from graphopt.machine import Machine
from graphopt.operators.base import FusionClass, storage_bytes
from graphopt.passes.candidates import find_candidates
from graphopt.passes.fuse import shapes_of
from graphopt.passes.select import Candidate, select
from graphopt.roofline.profile import profile_of

LOW = 0.4
"""Fraction below which the table says why."""
SPARE = 1.6
"""Patterns that are timed, for each that is listed: some of them save nothing."""
SECONDS = 0.006
"""Time of a pass."""
USES_UNIT = 1.05
"""How much slower without the matrix unit a kernel is that uses it."""
PARTS_BYTES = (matrix_unit.SET_BYTES, 1 << 19, 1 << 20, 1 << 23)
"""Left parts of tile products: in the first-level cache, in the second twice, beyond."""
SIMPLE = "add"
"""The kernel rate of operations without one of their own."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """A pattern of one model.

    Attributes:
        pair: the pattern at the shapes where one call saves most.
        calls: how often it stands in the model.
        saving: seconds that all calls save by prediction.
        one: the same of the call at hand.
    """

    pair: Pair
    calls: int
    saving: float
    one: float


@dataclass(frozen=True)
class Roof:
    """What a pattern takes at least, in seconds.

    Attributes:
        traffic: of its bytes.
        parts: of its arithmetic, by kind.
    """

    traffic: float
    parts: dict[str, float]

    @property
    def arithmetic(self) -> float:
        """All kinds."""
        return sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """The longer of both."""
        return max(self.traffic, self.arithmetic)


@dataclass(frozen=True)
class Row:
    """A pattern and its times in seconds.

    Attributes:
        found: the pattern.
        calls: how often it stands in all models.
        saving: what all these calls save.
        before: its operators, in onnxruntime.
        kernel: its kernel, less the runtime's price of a call.
        roof: of the calibrated roofline.
        unit: the same with the matrix unit's peak; None where the kernel does not use it.
    """

    found: Found
    calls: int
    saving: float
    before: float
    kernel: float
    roof: Roof
    unit: Roof | None

    @property
    def fraction(self) -> float:
        """Of the calibrated roofline."""
        return self.roof.seconds / self.kernel

    @property
    def of_unit(self) -> float | None:
        """Of that with the matrix unit's peak."""
        return self.unit.seconds / self.kernel if self.unit else None


def main() -> int:
    """Find the patterns, time those that save most, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--top", type=int, default=50, help="patterns to list")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="this model only; may be repeated")
    parser.add_argument("--machine", default=machine.DEFAULT, help="roofline description")
    parser.add_argument("--folder", type=Path, default=Path("build/kernels"), help="where results are kept")
    parser.add_argument("--seconds", type=float, default=70.0, help="time for measurements")
    parser.add_argument("--prepare", action="store_true", help="find and compile the patterns, and stop")
    parser.add_argument("--one", metavar="ID", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hardware = machine.load(arguments.machine)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        known = captures_of(arguments.models, arguments.captures).get(arguments.one, {})
        store(arguments.folder / f"{arguments.one}.pickle", found_in(arguments.models, arguments.one, known, hardware))
        return 0
    names = [path.stem for path in sorted(arguments.models.glob("*.onnx"))]
    names = [name for name in names if not arguments.only or name in arguments.only]
    library, groups = prepared(names, arguments)
    if arguments.prepare:
        return 0
    print(table(timed_rows(groups, library, hardware, arguments)[: arguments.top]))
    if kernels.uses_matrix_unit():
        print(f"\nTile products alone, by where the left parts lie: {products_alone(arguments.folder)}.")
    return 0


# --------------------------------------------------------------------------------------------------- the patterns


def found_in(folder: Path, name: str, known: dict[str, Any], hardware: Machine) -> list[Found]:
    """The patterns that ``apply`` would fuse in a model before it measures."""
    model = models.load(folder / f"{name}.onnx")
    capture = capture_model(model, name, known.get("shapes", {}), ranges=known.get("ranges", {}))
    occurrences = find_candidates(capture.graph, [capture], hardware, kernels.lowerable).occurrences
    worth = [Candidate(tuple(sorted(one.extraction.nodes)), max(one.saving, one.hoped)) for one in occurrences]
    made: dict[str, list[tuple[float, int]]] = {}
    for index in select(capture.graph, worth):
        made.setdefault(occurrences[index].extraction.identity, []).append((worth[index].saving, index))
    rows = []
    for calls in made.values():
        one, index = max(calls)
        extraction = occurrences[index].extraction
        shapes = shapes_of(capture, extraction)
        if any(0 in shape for shape in shapes.values()):
            continue
        pair = Pair(name, extraction, alone(capture, extraction), occurrences[index].before)
        rows.append(Found(pair, len(calls), sum(saving for saving, _ in calls), one))
    return rows


def prepared(names: Sequence[str], arguments: argparse.Namespace) -> tuple[Path, list[list[Found]]]:
    """A library of the patterns that save most, and these, by pattern; each with the models that hold it."""
    missing = [name for name in names if not (arguments.folder / f"{name}.pickle").exists()]
    with progress("models", len(missing)) as report, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def find(name: str) -> None:
            command = [sys.executable, *sys.argv, "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
                print(f"{name}: {last[:200]}", file=sys.stderr)
            report(name)

        list(pool.map(find, missing))
    groups: dict[str, list[Found]] = {}
    for name in names:
        file = arguments.folder / f"{name}.pickle"
        for found in pickle.loads(file.read_bytes()) if file.exists() else []:
            groups.setdefault(found.pair.extraction.identity, []).append(found)
    order = sorted(groups.values(), key=lambda group: -sum(found.saving for found in group))
    chosen = order[: int(SPARE * arguments.top)]
    library = kernels.build_library([*map(kernel_of, chosen), *chains.links()], arguments.folder, "kernels")
    return library, chosen


def kernel_of(group: Sequence[Found]) -> kernels.FusedOperator:
    """What the kernel generator makes a kernel of."""
    best = max(group, key=lambda found: found.one)
    extraction = best.pair.extraction
    return kernels.FusedOperator(extraction.name, extraction.body, (best.pair.capture.shapes,))


# ---------------------------------------------------------------------------------------------------- their times


def timed_rows(
    groups: Sequence[Sequence[Found]], library: Path, hardware: Machine, arguments: argparse.Namespace
) -> list[Row]:
    """The patterns that are faster as one kernel, the greatest saving first; passes stop after some seconds."""
    watch = Watch(1)
    prices = {"node": Timed(watch), "chain": Timed(watch)}
    models_of_prices = {"node": (case_model(TINY), TINY.feeds), "chain": (chains.chain_of_kernels(), chains.FEEDS)}
    small = {what: bound(session(blob, 1, library), feeds) for what, (blob, feeds) in models_of_prices.items()}
    plain = arguments.folder / "without_unit.so"  # another file: whether there is a unit is asked once
    shutil.copyfile(library, plain)
    probes: list[tuple[Sequence[Found], Found, dict[str, tuple[Run, Timed]]]] = []
    with progress("kernels", len(groups)) as report:
        for group in groups:
            best = max(group, key=lambda found: found.one)
            try:
                runs = {"before": runner(best.pair, "unfused", library)}
                runs["kernel"] = runner(best.pair, "fused", library)
                if has_products(best.pair):
                    os.environ["GRAPHOPT_MATRIX_UNIT"] = "off"
                    runs["without"] = runner(best.pair, "fused", plain)
                    del os.environ["GRAPHOPT_MATRIX_UNIT"]
            except Exception as error:  # onnxruntime's exceptions share no base class of their own
                print(
                    f"{best.pair.model}: {best.pair.operators}: {' '.join(str(error).split())[:160]}", file=sys.stderr
                )
                continue
            finally:
                report(best.pair.model)
            probes.append((group, best, {what: (run, Timed(watch)) for what, run in runs.items()}))
    end = time.monotonic() + arguments.seconds
    todo = [probe for _, _, timers in probes for probe in timers.values()]
    while todo and time.monotonic() < end:
        for what, timed in prices.items():
            timed.time(partial(fastest, small[what], SECONDS))
        with progress("passes", len(todo)) as report:
            for run, timed in todo:
                if time.monotonic() < end or not timed.passes:
                    timed.time(partial(fastest, run, SECONDS))
                report("")
        todo = [(run, timed) for run, timed in todo if len(timed.undisturbed) < ENOUGH]
    print(f"{len(todo)} times were not measured undisturbed {ENOUGH} times", file=sys.stderr)
    rows = []
    price = (prices["chain"].best - prices["node"].best) / (chains.LENGTH - 1)
    call = prices["node"].best - price
    for group, best, timers in probes:
        copies = copies_of(best.pair)
        seconds = {what: (timed.best - call) / copies for what, (_, timed) in timers.items()}
        on_unit = seconds.get("without", 0.0) > USES_UNIT * seconds["kernel"]
        unit = roof(best.pair, hardware, unit=True) if on_unit else None
        saving = (seconds["before"] - seconds["kernel"]) * sum(found.saving for found in group) / best.one
        own, calls = max(seconds["kernel"] - price, 1e-9), sum(found.calls for found in group)
        rows.append(Row(best, calls, saving, seconds["before"], own, roof(best.pair, hardware), unit))
    return sorted((row for row in rows if row.saving > 0), key=lambda row: -row.saving)


def products_alone(folder: Path) -> str:
    """What the loop that measures the matrix unit's peak reaches when parts come from further away."""
    library, found = matrix_unit.library(folder), []
    call = fastest(bound(session(case_model(TINY), 1), TINY.feeds), SECONDS, 20)
    for size in PARTS_BYTES:
        sets = size // matrix_unit.SET_BYTES
        feeds = matrix_unit.operand(sets)
        seconds = fastest(bound(session(matrix_unit.model(feeds), 1, library), feeds), SECONDS, 20)
        rate = matrix_unit.operations(sets) / (seconds - call) / 1e9
        found.append(f"{rate:.0f} GFLOP/s of {size / 1024:.0f} KiB")
    return ", ".join(found)


def has_products(pair: Pair) -> bool:
    """Whether a pattern holds products, which may run on the matrix unit."""
    rows = (operators.find(node) for node in pair.capture.graph.nodes)
    return any(row is not None and row.fusion_class is FusionClass.CONTRACTION for row in rows)


def roof(pair: Pair, hardware: Machine, *, unit: bool = False) -> Roof:
    """What a pattern takes at least.

    Args:
        pair: the pattern.
        hardware: rates and bandwidths.
        unit: whether products with weights run on the matrix unit, and weights are read as it wants them.
    """
    capture = pair.capture
    graph = capture.graph
    moved = roofline.external_bytes(capture, range(len(graph.nodes))) or 0
    results = sum(storage_bytes(graph.tensors[name].dtype, prod(capture.shapes[name])) for name in graph.outputs)
    read = max(0, moved - results) + (bytes_of_parts(pair) if unit else 0)
    traffic = hardware.seconds_to_move(read, results, read + copies_of(pair) * results)
    simple = hardware.kernel_rates[SIMPLE].value
    parts: dict[str, float] = {}
    for index, node in enumerate(graph.nodes):
        row, cost = operators.find(node), operators.cost(capture, index)
        if row is None or cost is None or not cost.flops:
            continue
        kind, seconds = "simple", cost.flops / simple
        if row.fusion_class in (FusionClass.CONTRACTION, FusionClass.SEQUENTIAL):
            on_unit = unit and graph.tensors[node.inputs[1]].constant
            peak = hardware.peak_of("int8" if row.rate_class.endswith("_int8") else "float32")
            kind, seconds = "products", cost.flops / (hardware.kernel_rates[matrix_unit.KEY].value if on_unit else peak)
        elif row.rate_class == "softmax":
            elements = prod(capture.shapes[node.inputs[0]])
            kind, seconds = "exp", elements / hardware.kernel_rates["exp"].value
        elif row.fusion_class is FusionClass.ELEMENTWISE:
            keys = roofline.rate_keys(node.operator, cost, row)
            key = next((key for key in keys if key in hardware.kernel_rates and key not in ("add", "mul")), None)
            if key is not None:
                kind, seconds = key.rpartition(".")[2], cost.flops / hardware.kernel_rates[key].value
        elif row.fusion_class in (FusionClass.LAYOUT, FusionClass.LOOKUP):
            continue
        parts[kind] = parts.get(kind, 0.0) + seconds
    return Roof(traffic, parts)


def bytes_of_parts(pair: Pair) -> int:
    """Bytes that weights take more than as floats where the matrix unit multiplies them: each is three parts."""
    profile, graph = profile_of(pair.capture), pair.capture.graph
    found = 0.0
    for index, node in enumerate(graph.nodes):
        work = profile.executed(index, unit=True)
        if work is not None and work.regime == "unit" and graph.tensors[node.inputs[1]].constant:
            found += (work.parameter_share - 1) * (profile.bytes_of(node.inputs[1]) or 0)
    return int(found)


# ---------------------------------------------------------------------------------------------------- what is shown


def table(rows: Sequence[Row]) -> str:
    """The Markdown tables: fractions by what bounds them, and all patterns."""
    groups: dict[tuple[str, str], list[float]] = {}
    lines = [
        "| operators | model | calls | operators µs | kernel µs | GB/s | GFLOP/s | bound by "
        "| of the roofline | of the unit |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        pair = row.found.pair
        graph = pair.capture.graph
        moved = roofline.external_bytes(pair.capture, range(len(graph.nodes))) or 0
        costs = [operators.cost(pair.capture, index) for index in range(len(graph.nodes))]
        flops = sum(cost.flops for cost in costs if cost is not None)
        bound, of_unit = bounds(pair, row.roof), row.of_unit
        lines.append(
            f"| {pair.operators} | {pair.model} | {row.calls} | {row.before * 1e6:.1f} | {row.kernel * 1e6:.1f} "
            f"| {moved / row.kernel / 1e9:.1f} | {flops / row.kernel / 1e9:.1f} | {bound} "
            f"| {row.fraction:.2f} | {'–' if of_unit is None else f'{of_unit:.2f}'} |"
        )
        main = bound.partition(",")[0] + (" (on the matrix unit)" if row.unit else "")
        for name in ("all", main):
            groups.setdefault(("calibrated", name), []).append(row.fraction)
        if row.unit and of_unit is not None:
            for name in ("all on the matrix unit", bounds(pair, row.unit).partition(",")[0]):
                groups.setdefault(("matrix unit's", name), []).append(of_unit)
        groups.setdefault(("of the unit in use", "all"), []).append(row.fraction if of_unit is None else of_unit)
    head = [
        f"| roofline | bound by | patterns | least | median | most | below {LOW} |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (roofs, name), values in sorted(groups.items(), key=lambda group: group[0][0]):
        below = sum(value < LOW for value in values)
        numbers = f"{min(values):.2f} | {statistics.median(values):.2f} | {max(values):.2f} | {below}"
        head.append(f"| {roofs} | {name} | {len(values)} | {numbers} |")
    return "\n".join([*head, "", *lines])


def bounds(pair: Pair, limit: Roof) -> str:
    """What a roof of a pattern is made of."""
    if limit.traffic >= limit.arithmetic:
        return "traffic"
    kinds = sorted(limit.parts, key=lambda kind: -limit.parts[kind])
    kinds = [kind for kind in kinds if limit.parts[kind] > 0.2 * limit.arithmetic]
    convolution = any("Conv" in node.op_type for node in pair.capture.graph.nodes)
    names = {"products": "convolution" if convolution else "products", "simple": "simple operations"}
    return ", ".join(names.get(kind, kind) for kind in kinds)


# ---------------------------------------------------------------------------------------------------------- means


def store(file: Path, value: object) -> None:
    """Keep a value; the file is there in full or not at all."""
    temporary = file.with_suffix(".part")
    temporary.write_bytes(pickle.dumps(value))
    temporary.replace(file)


@contextmanager
def progress(what: str, total: int) -> Iterator[Report]:
    """A bar on stderr, and what was done last; a function that is called after each part."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[last]}"), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total, last="")
        yield lambda last: bars.update(task, advance=1, last=last)


if __name__ == "__main__":
    sys.exit(main())
