"""Calibrate: measure the numbers of a machine file on this machine, through onnxruntime itself.

Everything is timed several times over, in passes that each visit all cases: the fastest run counts. Where the passes do
not agree, the machine is busy with something else and its numbers are worth nothing.
"""

import re
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
from onnx import helper

from graphopt import files, kernels, operators, prediction_log, roofline
from graphopt.calibrate import chains, kernel_cases, system
from graphopt.calibrate.cases import CASES, TINY, Case, f32, peak_cases
from graphopt.calibrate.fitting import Measurement, fit
from graphopt.calibrate.learning import Learned, learn
from graphopt.calibrate.machine_text import machine_text
from graphopt.calibrate.timing import bound, case_model, fastest, fastest_cold, model_of, session
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, Node, OperatorGraph, Tensor
from graphopt.machine import Machine, MemoryLevel, Quantity, load
from graphopt.operators.pieces import pieces

__all__ = ["BUSY", "Calibration", "calibrate", "from_log", "write"]

Progress = Callable[[int, int, str], None]
"""Called with (cases timed, all of them, the case)."""

PASSES = 3
SECONDS = 0.03
"""Time that a case gets in a pass."""

BUSY = 0.06
"""Middle of all cases' spreads (second best pass over the best, less one) above which the machine is busy."""

SMALLEST_SWEEP, LARGEST_SWEEP = 1 << 18, 1 << 29
"""Working sets of the first and the last bandwidth measurement, bytes."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")

HOLDS = 0.8
"""Share of a level's bandwidth at which a working set still counts as held by it."""


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        machine: the numbers.
        spread: middle of the cases' spreads; see BUSY.
        left_out: cases that could not be timed here, with the reason.
    """

    machine: Machine
    spread: float
    left_out: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether the passes disagree too much for the numbers to be used."""
        return self.spread > BUSY


@dataclass
class _Probe:
    """Something to time: makes its session when its turn comes, so that only one session's threads are alive."""

    name: str
    open: Callable[[], Callable[[], object]]
    seconds: float = SECONDS
    cold: bool = False
    passes: list[float] = field(default_factory=list)

    def time(self) -> None:
        run = self.open()
        self.passes.append((fastest_cold if self.cold else fastest)(run, self.seconds))

    @property
    def best(self) -> float:
        return min(self.passes)

    @property
    def spread(self) -> float:
        first, second = sorted(self.passes)[:2]
        return second / first - 1.0


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
    with tempfile.TemporaryDirectory(prefix="graphopt-calibrate-") as folder:
        probes, cases, left_out = _probes(threads, Path(folder))
        for number in range(PASSES):
            for index, probe in enumerate(probes.values()):
                if progress is not None:
                    progress(number * len(probes) + index, PASSES * len(probes), probe.name)
                probe.time()
    sources = _Sources(threads, scope)
    machine = _machine(_valid_name(name), probes, cases, sources)
    return Calibration(machine, statistics.median(probe.spread for probe in probes.values()), tuple(left_out))


def _valid_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-._") or "machine"


def write(calibration: Calibration, path: Path) -> None:
    """Write a machine file.

    Raises:
        GraphoptError: the file cannot be written.
    """
    files.write_text(
        path, machine_text(calibration.machine, head=f"Measured by graphopt calibrate, in {PASSES} passes.")
    )


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
class _Timed:
    """A probe that measures a rate: its key, whether it is a kernel's, and its work."""

    key: str
    fused: bool
    work: float
    unit: str
    pieces: int
    moved: float


def _probes(threads: int, folder: Path) -> tuple[dict[str, _Probe], dict[str, _Timed], list[str]]:
    """Everything that is timed, by name; what is known of the cases; and what cannot be timed."""
    probes = {"call": _Probe("call", _opener(TINY, threads), 4 * SECONDS)}
    cases: dict[str, _Timed] = {}
    left_out: list[str] = []
    for size in _sweep():
        count = size // 12
        add = Case("bandwidth", "Add", [f32(count), f32(count)])
        probes[f"bandwidth {size}"] = _Probe(f"bandwidth {size >> 10} KiB", _opener(add, threads), 2 * SECONDS)
    blob = chains.chain_of_nodes()
    probes["nodes"] = _Probe("price of a node", lambda: bound(session(blob, threads), chains.FEEDS), 0.15, cold=True)
    for dtype, case in peak_cases().items():
        _add(probes, cases, left_out, f"peak {dtype}", case, threads)
    for number, case in enumerate(CASES):
        _add(probes, cases, left_out, f"{number} {case.key}", case, threads)
    if kernels.find_compiler() is None:
        left_out.append("kernels: no C compiler")
    else:
        _add_kernels(probes, cases, threads, folder)
    return probes, cases, left_out


def _add(
    probes: dict[str, _Probe], cases: dict[str, _Timed], left_out: list[str], name: str, case: Case, threads: int
) -> None:
    try:
        runner = session(case_model(case), threads)
    except GraphoptError as error:
        left_out.append(f"{case.key}: {error}")
        return
    results = runner.run(None, dict(case.feeds))
    cases[name] = _described(case, [np.asarray(value) for value in results])
    probes[name] = _Probe(case.key, _opener(case, threads))


def _opener(case: Case, threads: int) -> Callable[[], Callable[[], object]]:
    return lambda: bound(session(case_model(case), threads), case.feeds)


def _described(case: Case, results: Sequence[np.ndarray]) -> _Timed:
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
    count = pieces(graph, node, row, shapes, [value.shape for value in results])
    moved = cost.bytes_read + cost.bytes_written + cost.parameter_bytes
    if cost.flops:
        return _Timed(case.key, False, float(cost.flops), "flop/s", count, float(moved))
    return _Timed(case.key, False, float(sum(value.size for value in results)), "element/s", count, float(moved))


def _add_kernels(probes: dict[str, _Probe], cases: dict[str, _Timed], threads: int, folder: Path) -> None:
    wanted = kernel_cases.generable()
    library = chains.library([case.fused for case in wanted] + chains.links(), folder)
    blob = chains.chain_of_kernels()
    probes["kernels"] = _Probe(
        "price of a kernel", lambda: bound(session(blob, threads, library), chains.FEEDS), 0.15, cold=True
    )
    for number, case in enumerate(wanted):
        name = f"kernel {number} {case.key}"
        probes[name] = _Probe(f"{case.key} in a kernel", _kernel_opener(case, threads, library))
        graph = case.capture.graph
        moved = float(roofline.external_bytes(case.capture, range(len(graph.nodes))) or 0)
        unit = "element/s" if case.elements else "flop/s"
        cases[name] = _Timed(case.key, True, case.work, unit, case.pieces, moved)


def _kernel_opener(case: kernel_cases.KernelCase, threads: int, library: Path) -> Callable[[], Callable[[], object]]:
    inputs = case.capture.graph.inputs
    node = helper.make_node(case.fused.name, list(inputs), ["y"], domain="graphopt.fused")
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.integers(0, 512, case.shapes[name]) if name in case.indices else f32(*case.shapes[name])
        for name in inputs
        if name not in case.constants
    }
    constants = {
        name: rng.integers(0, 250, case.shapes[name]) if name in case.indices else f32(*case.shapes[name])
        for name in inputs
        if name in case.constants
    }
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
            f"the fastest of {PASSES} passes"
        )

    def quantity(self, value: float, unit: str) -> Quantity:
        """A measured number."""
        return Quantity(value, unit, "measured", self.scope, self.measured)


def _machine(name: str, probes: Mapping[str, _Probe], cases: Mapping[str, _Timed], sources: _Sources) -> Machine:
    call = probes["call"].best
    seconds = {key: max(probe.best - call, 0.05 * probe.best) for key, probe in probes.items()}
    memory = _levels({int(key.split()[1]): seconds[key] for key in probes if key.startswith("bandwidth ")}, sources)
    bare = Machine(name, name, sources.scope, {"float32": sources.quantity(1.0, "flop/s")}, memory, {}, {})
    measured: dict[bool, dict[str, list[Measurement]]] = {False: {}, True: {}}
    peak: dict[str, float] = {}
    for key, case in cases.items():
        if key.startswith("peak "):
            peak[case.key] = case.work / seconds[key]
            continue
        found = Measurement(case.key, seconds[key], case.work, case.unit, case.pieces, case.moved)
        measured[case.fused].setdefault(case.key, []).append(found)
        if case.key in ("gemm", "conv") and not case.fused:
            peak["float32"] = max(peak["float32"], case.work / seconds[key])
    tables: dict[bool, tuple[dict[str, Quantity], dict[str, Quantity]]] = {}
    for fused, groups in measured.items():
        fitted = {key: fit(group, bare) for key, group in groups.items()}
        work = {key: sources.quantity(rates.work, rates.unit) for key, rates in fitted.items()}
        each = {key: sources.quantity(rates.pieces, "piece/s") for key, rates in fitted.items() if rates.pieces}
        tables[fused] = work, each
    per_node = sources.quantity(seconds["nodes"] / chains.LENGTH, "s")
    per_kernel = sources.quantity(seconds["kernels"] / chains.LENGTH, "s") if "kernels" in seconds else None
    count = "one core" if sources.threads == 1 else f"{sources.threads} threads"
    return Machine(
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


def _levels(sweep: Mapping[int, float], sources: _Sources) -> tuple[MemoryLevel, ...]:
    """Memory levels out of seconds by working set: a core's own cache, what is behind it, and main memory."""
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
    levels = [MemoryLevel("L2", capacity, sources.quantity(max(speed[size] for size in near), "byte/s"))]
    beyond = [size for size in sizes if size >= 3 * capacity.value] or sizes[-1:]
    shared = speed[beyond[0]]
    held = max(size for size in beyond if all(speed[s] >= HOLDS * shared for s in beyond if s <= size))
    if held < beyond[-1]:
        text = f"the largest working set with {HOLDS:.0%} of the bandwidth behind L2"
        size = Quantity(float(held), "byte", "measured", sources.scope, text)
        levels.append(MemoryLevel("L3", size, sources.quantity(shared, "byte/s")))
    levels.append(MemoryLevel("DRAM", None, sources.quantity(speed[beyond[-1]], "byte/s")))
    return tuple(levels)
