"""Calibrate: measure the numbers of a machine file on this machine, through onnxruntime itself.

Everything is timed several times over, in passes that each visit all cases, and the fastest pass that nobody disturbed
counts (``timing.Watch``). Where there are too few of those, or they do not agree, the machine is busy with something
else and its numbers are worth nothing.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
from onnx import helper

from graphopt import files, kernels, operators, prediction_log, roofline
from graphopt.calibrate import chains, kernel_cases, matrix_unit, system
from graphopt.calibrate.cases import CASES, TINY, Case, f32, peak_cases
from graphopt.calibrate.fitting import LEAST_SHARE, Measurement, fit
from graphopt.calibrate.learning import Learned, learn
from graphopt.calibrate.machine_text import machine_text
from graphopt.calibrate.timing import (
    ENOUGH,
    Timed,
    Watch,
    bound,
    case_model,
    fastest,
    fastest_cold,
    model_of,
    session,
)
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, Node, OperatorGraph, Tensor
from graphopt.machine import Machine, MemoryLevel, Quantity, load
from graphopt.operators.pieces import counts

__all__ = ["BUSY", "Calibration", "calibrate", "from_log", "write"]

Progress = Callable[[int, int, str], None]
"""Called with (cases timed, all of them, the case)."""

SECONDS = 0.01
"""Time that a case gets in a pass."""

LONGEST = 20.0
"""Seconds after which no further pass is begun for what was disturbed so far."""

BUSY = 0.06
"""Middle of all cases' spreads (second best pass over the best, less one) above which the machine is busy."""

DISTURBED_SHARE = 0.25
"""Share of cases without an undisturbed pass above which the machine is busy."""

SMALLEST_SWEEP, LARGEST_SWEEP = 1 << 18, 1 << 29
"""Working sets of the first and the last bandwidth measurement, bytes."""
NEAR_SIZES = (1 << 19, 1 << 20)
"""Working sets that a second-level cache holds, of which half is written."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")

NEXT_TO_NOTHING = 1e-8
"""Seconds of a step below which it costs nothing besides what it computes."""

HOLDS = 0.8
"""Share of a level's bandwidth at which a working set still counts as held by it."""


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        machine: the numbers.
        spread: middle of the cases' spreads; see BUSY.
        disturbed: share of the cases without an undisturbed pass.
        left_out: cases that could not be timed here, with the reason.
    """

    machine: Machine
    spread: float
    disturbed: float = 0.0
    left_out: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether the passes disagree too much, or were disturbed too often, for the numbers to be used."""
        return self.spread > BUSY or self.disturbed > DISTURBED_SHARE


@dataclass
class _Probe:
    """Something to time: makes its session when its turn comes, so that only one session's threads are alive."""

    name: str
    open: Callable[[], Callable[[], object]]
    timed: Timed
    seconds: float = SECONDS
    cold: bool = False

    def time(self) -> None:
        self.timed.time(lambda: (fastest_cold if self.cold else fastest)(self.open(), self.seconds))

    @property
    def best(self) -> float:
        return self.timed.best

    @property
    def spread(self) -> float:
        first, second = (self.timed.undisturbed + sorted(seconds for seconds, _, _ in self.timed.passes))[:2]
        return abs(second / first - 1.0)


def calibrate(name: str, *, threads: int = 1, progress: Progress | None = None) -> Calibration:
    """Measure this machine.

    Args:
        name: what the machine is called.
        threads: threads of onnxruntime within an operator: 1 describes a core, more a socket.
        progress: told before each case.

    Returns:
        The machine, and how far it can be trusted (see ``Calibration.busy``).

    Raises:
        GraphoptError: onnxruntime cannot run even the simplest operators.
    """
    scope = "core" if threads == 1 else "socket"
    watch = Watch(threads)
    with tempfile.TemporaryDirectory(prefix="graphopt-calibrate-") as folder:
        probes, cases, left_out = _probes(threads, Path(folder), watch)
        end, done, todo = time.monotonic() + LONGEST, 0, list(probes.values())
        while todo:
            for probe in todo:
                if progress is not None:
                    progress(done, done + len(todo), probe.name)
                probe.time()
            done += len(todo)
            late = time.monotonic() > end
            todo = [
                probe
                for probe in probes.values()
                if len(probe.timed.passes) < 2 or (not late and len(probe.timed.undisturbed) < ENOUGH)
            ]
    sources = _Sources(threads, scope)
    machine = _machine(_valid_name(name), probes, cases, sources)
    return Calibration(
        machine,
        statistics.median(probe.spread for probe in probes.values()),
        statistics.mean(not probe.timed.undisturbed for probe in probes.values()),
        tuple(left_out),
    )


def _valid_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-._") or "machine"


def write(calibration: Calibration, path: Path) -> None:
    """Write a machine file.

    Raises:
        GraphoptError: the file cannot be written.
    """
    files.write_text(path, machine_text(calibration.machine, head="Measured by graphopt calibrate."))


def from_log(machine: str | Path | None, path: Path) -> Learned:
    """Correct a machine's rates by the log of predictions, and write it.

    Args:
        machine: name or file of the machine to start from; the default one when None.
        path: the machine file to write.

    Raises:
        GraphoptError: the log is off, missing or teaches nothing, or the file cannot be written.
    """
    log = prediction_log.path()
    if log is None:
        raise GraphoptError(f"the log of predictions is switched off ({prediction_log.VARIABLE}=off)")
    start = load(*([machine] if machine else []))
    learnt = learn(start, prediction_log.read(log), str(log))
    found = replace(learnt, machine=replace(learnt.machine, name=_valid_name(path.name.removesuffix(".toml"))))
    files.write_text(
        path, machine_text(found.machine, head=f"Learnt by graphopt calibrate --from-log from {start.name}.")
    )
    return found


# ----------------------------------------------------------------------------------------------------- what to time


@dataclass(frozen=True)
class _Work:
    """A probe that measures a rate: its key, whether it is a kernel's, and its work."""

    key: str
    fused: bool
    work: float
    unit: str
    counts: Mapping[str, float]
    moves: Sequence[roofline.Move]
    waited: Sequence[roofline.Move] = ()
    apart: bool = False


def _probes(threads: int, folder: Path, watch: Watch) -> tuple[dict[str, _Probe], dict[str, _Work], list[str]]:
    """Everything that is timed, by name; what is known of the cases; and what cannot be timed."""
    probes = {"call": _Probe("call", _opener(TINY, threads), Timed(watch), 4 * SECONDS)}
    cases: dict[str, _Work] = {}
    left_out: list[str] = []
    for size in _sweep():
        count = size // 12
        add = Case("bandwidth", "Add", [f32(count), f32(count)])
        probes[f"bandwidth {size}"] = _Probe(
            f"bandwidth {size >> 10} KiB", _opener(add, threads), Timed(watch), 2 * SECONDS
        )
    for size in NEAR_SIZES:
        copy = Case("writing", "Neg", [f32(size // 8)])
        probes[f"writing {size}"] = _Probe(
            f"writing {size >> 10} KiB", _opener(copy, threads), Timed(watch), 2 * SECONDS
        )
    blob = chains.chain_of_nodes()
    probes["nodes"] = _Probe(
        "price of a node", lambda: bound(session(blob, threads), chains.FEEDS), Timed(watch), 0.1, cold=True
    )
    for dtype, case in peak_cases().items():
        _add(probes, cases, left_out, f"peak {dtype}", case, threads, watch)
    for number, case in enumerate(CASES):
        _add(probes, cases, left_out, f"{number} {case.key}", case, threads, watch)
    if kernels.find_compiler() is None:
        left_out.append("kernels: no C compiler")
    else:
        _add_kernels(probes, cases, threads, folder, watch)
        if kernel_cases.UNIT:
            _add_matrix_unit(probes, left_out, threads, folder, watch)
    return probes, cases, left_out


def _add(
    probes: dict[str, _Probe],
    cases: dict[str, _Work],
    left_out: list[str],
    name: str,
    case: Case,
    threads: int,
    watch: Watch,
) -> None:
    try:
        runner = session(case_model(case), threads)
    except GraphoptError as error:
        left_out.append(f"{case.key}: {error}")
        return
    results = runner.run(None, dict(case.feeds))
    cases[name] = _described(case, [np.asarray(value) for value in results])
    probes[name] = _Probe(case.key, _opener(case, threads), Timed(watch))


def _opener(case: Case, threads: int) -> Callable[[], Callable[[], object]]:
    return lambda: bound(session(case_model(case), threads), case.feeds)


def _described(case: Case, results: Sequence[np.ndarray]) -> _Work:
    """Work, pieces and traffic of a case, by our own table of operators."""
    names = tuple("" if value is None else f"x{slot}" for slot, value in enumerate(case.inputs))
    outputs = tuple(f"y{i}" for i in range(case.outputs))
    version = case.opset if not case.domain else 1
    attributes = {key: tuple(value) if isinstance(value, list) else value for key, value in case.attributes.items()}
    node = Node("case", case.domain, case.op_type, version, names, outputs, attributes)
    values = {name: np.asarray(value) for name, value in zip(names, case.inputs, strict=True) if name}
    made = dict(zip(outputs, results, strict=True))
    fixed = {names[slot] for slot in case.constants}
    tensors = {
        name: Tensor(name, value.dtype.name, value.ndim, name in fixed, None, value.shape if name in fixed else None)
        for name, value in (values | made).items()
    }
    graph = OperatorGraph("case", (node,), tensors, tuple(case.feeds), outputs)
    capture = Capture(graph, {name: value.shape for name, value in (values | made).items()})
    cost, row = operators.cost(capture, 0), operators.find(node)
    if cost is None or row is None:
        raise GraphoptError(f"{case.key}: {node.operator} has no cost")
    shapes = [capture.shape(name) if name else None for name in names]
    count = counts(graph, node, row, shapes, [value.shape for value in results])
    moves, waited = roofline.node_moves(capture, 0)
    if cost.flops:
        return _Work(case.key, False, float(cost.flops), "flop/s", count, moves, waited)
    return _Work(case.key, False, float(sum(value.size for value in results)), "element/s", count, moves, waited)


def _add_kernels(probes: dict[str, _Probe], cases: dict[str, _Work], threads: int, folder: Path, watch: Watch) -> None:
    wanted = kernel_cases.generable()
    reading = kernel_cases.reading(threads)
    fused, names = kernel_cases.fused_operators([*wanted, kernel_cases.STEP, reading])
    library = chains.library([*fused, *chains.links()], folder)
    probes["step"] = _Probe(
        "price of a step", _kernel_opener(kernel_cases.STEP, names[-2], threads, library), Timed(watch)
    )
    probes["reading"] = _Probe(
        "bandwidth of reading", _kernel_opener(reading, names[-1], threads, library), Timed(watch), 2 * SECONDS
    )
    blob = chains.chain_of_kernels()
    probes["kernels"] = _Probe(
        "price of a kernel", lambda: bound(session(blob, threads, library), chains.FEEDS), Timed(watch), 0.1, cold=True
    )
    for number, (case, operator) in enumerate(zip(wanted, names, strict=False)):
        name = f"kernel {number} {case.key}"
        probes[name] = _Probe(f"{case.key} in a kernel", _kernel_opener(case, operator, threads, library), Timed(watch))
        graph = case.capture.graph
        moves, waited = roofline.kernel_moves(case.capture, range(len(graph.nodes)), unit=kernel_cases.UNIT)
        unit = "element/s" if case.elements else "flop/s"
        cases[name] = _Work(case.key, True, case.work, unit, case.counts, moves, waited, case.apart)


def _add_matrix_unit(probes: dict[str, _Probe], left_out: list[str], threads: int, folder: Path, watch: Watch) -> None:
    feeds = matrix_unit.operand(1)
    blob = matrix_unit.model(feeds)
    try:
        library = matrix_unit.library(folder)
        session(blob, threads, library).run(None, dict(feeds))
    except Exception as error:  # a compiler that does not know the unit; onnxruntime's, when the system forbids it
        left_out.append(f"{matrix_unit.KEY}: {' '.join(str(error).split())[:200]}")
        return
    probes[matrix_unit.KEY] = _Probe(
        "peak of the matrix unit", lambda: bound(session(blob, threads, library), feeds), Timed(watch)
    )


def _kernel_opener(
    case: kernel_cases.KernelCase, operator: str, threads: int, library: Path
) -> Callable[[], Callable[[], object]]:
    inputs = case.capture.graph.inputs
    node = helper.make_node(operator, list(inputs), ["y"], domain="graphopt.fused")
    rng = np.random.default_rng(0)
    values = {name: case.value(name, rng) for name in inputs}
    feeds = {name: value for name, value in values.items() if name not in case.constants}
    constants = {name: value for name, value in values.items() if name in case.constants}
    blob = model_of([node], feeds, constants, ["y"])
    return lambda: bound(session(blob, threads, library), feeds)


def _sweep() -> Iterator[int]:
    """Working sets whose bandwidth is measured: each twice the one before, as far as memory allows."""
    size = SMALLEST_SWEEP
    while size <= min(LARGEST_SWEEP, system.free_memory() // 8):
        yield size
        size *= 2


# -------------------------------------------------------------------------------------------- from times to a machine


@dataclass(frozen=True)
class _Sources:
    """Where the numbers come from, in words, and the scope that they belong to."""

    threads: int
    scope: str

    @property
    def measured(self) -> str:
        """The text of everything that is timed."""
        count = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"graphopt calibrate on {system.processor()}, {count}, onnxruntime {onnxruntime.__version__}; "
            "the fastest undisturbed pass"
        )

    def quantity(self, value: float, unit: str) -> Quantity:
        """A measured number."""
        return Quantity(value, unit, "measured", self.scope, self.measured)


def _machine(name: str, probes: Mapping[str, _Probe], cases: Mapping[str, _Work], sources: _Sources) -> Machine:
    call = probes["call"].best
    seconds = {key: max(probe.best - call, 0.05 * probe.best) for key, probe in probes.items()}
    sweep, copies = (
        {int(key.split()[1]): seconds[key] for key in probes if key.startswith(what)}
        for what in ("bandwidth ", "writing ")
    )
    read = sources.threads * 4 * kernel_cases.READ_ELEMENTS / seconds["reading"] if "reading" in seconds else None
    memory = _levels(sweep, copies, read, sources)
    bare = Machine(name, name, sources.scope, {"float32": sources.quantity(1.0, "flop/s")}, memory, {}, {})
    measured: dict[bool, dict[str, list[Measurement]]] = {False: {}, True: {}}
    peak: dict[str, float] = {}
    for key, case in cases.items():
        if key.startswith("peak "):
            peak[case.key] = case.work / seconds[key]
            continue
        found = Measurement(
            case.key, seconds[key], case.work, case.unit, case.counts, case.moves, case.waited, case.apart
        )
        measured[case.fused].setdefault(case.key, []).append(found)
        if case.key in ("gemm", "conv") and not case.fused:
            peak["float32"] = max(peak["float32"], case.work / seconds[key])
    tables: dict[bool, tuple[dict[str, Quantity], dict[str, Quantity]]] = {}
    for fused, groups in measured.items():
        fitted = {key: fit(group, bare) for key, group in groups.items()}
        work = {key: sources.quantity(rates.work, rates.unit) for key, rates in fitted.items()}
        each = {
            f"{key}:{name}" if name else key: sources.quantity(price, "piece/s")
            for key, rates in fitted.items()
            for name, price in rates.counts.items()
        }
        tables[fused] = work, each
    if matrix_unit.KEY in seconds:
        peak_of_unit = matrix_unit.operations(1) / seconds[matrix_unit.KEY]
        tables[True][0][matrix_unit.KEY] = sources.quantity(peak_of_unit, "flop/s")
    per_node = sources.quantity(seconds["nodes"] / chains.LENGTH, "s")
    per_kernel = sources.quantity(seconds["kernels"] / chains.LENGTH, "s") if "kernels" in seconds else None
    count = "one core" if sources.threads == 1 else f"{sources.threads} threads"
    machine = Machine(
        name=name,
        description=f"{count} of {system.processor()}, as onnxruntime uses it",
        scope=sources.scope,
        peak=MappingProxyType({dtype: sources.quantity(value, "flop/s") for dtype, value in peak.items()}),
        memory=memory,
        rates=MappingProxyType(tables[False][0]),
        kernel_rates=MappingProxyType(tables[True][0]),
        piece_rates=MappingProxyType(tables[False][1]),
        kernel_piece_rates=MappingProxyType(tables[True][1]),
        per_node=per_node,
        per_kernel=per_kernel,
        per_call=sources.quantity(call, "s"),
    )
    if "step" not in seconds:
        return machine
    # what the products themselves take is known by now
    known = roofline.kernel_seconds(kernel_cases.STEP.capture, range(kernel_cases.STEPS), machine)
    left = seconds["step"] - (known.seconds - known.price if known is not None else 0.0)
    price = left / (kernel_cases.STEPS - 1)
    return replace(machine, per_step=sources.quantity(price, "s")) if price > NEXT_TO_NOTHING else machine


def _levels(
    sweep: Mapping[int, float], copies: Mapping[int, float], read: float | None, sources: _Sources
) -> tuple[MemoryLevel, ...]:
    """Memory levels out of seconds by working set: a core's own cache, what is behind it, and main memory.

    Args:
        sweep: of additions, which read two bytes for each that they write.
        copies: of operators that read as much as they write, in the core's own cache.
        read: bytes per second of what only reads there; None where no kernel can be compiled.
        sources: where the numbers come from.
    """
    speed = {size: size / seconds for size, seconds in sweep.items()}
    sizes = sorted(speed)
    best = max(speed.values())
    own = system.private_cache()
    if own is not None:
        text = "the second-level cache that the operating system reports, times the cores in use"
        capacity = Quantity(float(own * sources.threads), "byte", "derived", sources.scope, text)
    else:
        held = max(size for size in sizes if speed[size] >= HOLDS * best)
        text = f"the largest working set with {HOLDS:.0%} of the best bandwidth"
        capacity = Quantity(float(held), "byte", "measured", sources.scope, text)
    near = [size for size in sizes if size <= 0.7 * capacity.value] or sizes[:1]
    reading, writing = _near(max(speed[size] for size in near), max(size / copies[size] for size in copies), read)
    levels = [MemoryLevel("L2", capacity, sources.quantity(reading, "byte/s"), sources.quantity(writing, "byte/s"))]
    beyond = [size for size in sizes if size >= 3 * capacity.value] or sizes[-1:]
    shared = speed[beyond[0]]
    held = max(size for size in beyond if all(speed[s] >= HOLDS * shared for s in beyond if s <= size))
    if held < beyond[-1]:
        text = f"the largest working set with {HOLDS:.0%} of the bandwidth behind L2"
        size = Quantity(float(held), "byte", "measured", sources.scope, text)
        levels.append(MemoryLevel("L3", size, sources.quantity(shared, "byte/s")))
    levels.append(MemoryLevel("DRAM", None, sources.quantity(speed[beyond[-1]], "byte/s")))
    return tuple(levels)


def _near(adding: float, copying: float, reading: float | None) -> tuple[float, float]:
    """Bandwidth of what is read and of what is written.

    Args:
        adding: bytes per second of all, with a third of it written.
        copying: the same with half of it written.
        reading: the same of what only reads. Without it, reading is what the other two leave for it; a little noise of
            theirs is much of it.
    """
    read = 3.0 / adding - 2.0 / copying if reading is None else 1.0 / reading
    read = max(min(read, 1.0 / adding, 1.0 / copying), LEAST_SHARE / adding)  # writing is no faster
    writing = ((3.0 / adding - 2.0 * read) * (2.0 / copying - read)) ** 0.5  # what either says, halfway
    return 1.0 / read, 1.0 / writing
