"""The roofline: seconds that an operator, or a set of operators as one kernel, takes on a machine.

An operator takes about the longer of its arithmetic and its traffic, plus the runtime's price per node. As one kernel,
the arithmetic of the operators adds up, only what enters and leaves the set is moved, and the price is paid once (Park
et al., 2018, section 3.3, with memory levels, rates per operator class, pieces and overhead added). docs/roofline.md
says more.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import TypeVar, cast

from graphopt import operators
from graphopt.graph import Capture, Node, OperatorGraph
from graphopt.machine import Machine
from graphopt.operators.base import Cost, FusionClass, Operator, storage_bytes
from graphopt.operators.blocked import DOMAIN
from graphopt.operators.executed import Executed, executed
from graphopt.operators.opaque import CONTROL_FLOW
from graphopt.operators.pieces import Shapes, counts, regimes, spans
from graphopt.residence import Touches, touches

OVERLAP = 3.0
"""Arithmetic a and traffic t together take (a^OVERLAP + t^OVERLAP)^(1/OVERLAP): the longer one where they are far
apart, up to a quarter more where they are alike, for then neither hides behind the other all the time (measured:
docs/roofline.md)."""

SPECIAL = "_"
"""Stands between a class and its special case in the name of a rate."""

UNIT = "gemm_unit"
"""Key of the kernel rate of products by a matrix unit: machines that have it have one."""

BROADCAST = "broadcast"
"""Key of the kernel rate at which operands that repeat are copied out, in elements of the result."""

T = TypeVar("T")

MOVED = "moved"
"""Special case of kernels that compute nothing: what they move goes straight to its place."""

Move = tuple[float, float, float]
"""Bytes that are read, that are written, and that are in use meanwhile."""

_ENDS = (FusionClass.REDUCTION, FusionClass.CONTRACTION, FusionClass.WINDOW, FusionClass.SEQUENTIAL)
"""Operators whose results do not stand where their operands stood."""

_Turn = tuple[str, tuple[int, ...], int]
"""An operator that changes the order of elements: its name, for a transpose its permutation, and its number."""


@dataclass(frozen=True, slots=True)
class CaptureSeconds:
    """Predicted time of one execution of a capture.

    Attributes:
        seconds: sum over the operators whose time is known.
        unknown: how many operators have no known time (see operator_seconds).
    """

    seconds: float
    unknown: int


@dataclass(frozen=True, slots=True)
class KernelSeconds:
    """Predicted time of a set of operators as one kernel, and what it consists of, in seconds.

    Attributes:
        arithmetic: what it computes, along with
        traffic: what it reads, writes and leaves for itself.
        packing: what it brings into order before that, and weights that it waits for.
        price: of the call and of the steps after the first.
    """

    arithmetic: float
    traffic: float
    packing: float
    price: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return together(self.arithmetic, self.traffic) + self.packing + self.price


def operator_seconds(capture: Capture, index: int, machine: Machine) -> float | None:
    """Seconds that one operator takes as a node of its own.

    Args:
        capture: the graph with its shapes.
        index: which node.
        machine: the hardware.

    Returns:
        Seconds; None when the operator is not in the table, a shape is missing, or it has bodies (If, Loop, Scan) that
        are unknown.
    """
    return operator_times(capture, machine)[index]


def operator_times(capture: Capture, machine: Machine) -> list[float | None]:
    """operator_seconds of every node, in node order. Computed once per capture and machine: do not change the list."""
    return _profile(capture).on(machine).times


def capture_seconds(capture: Capture, machine: Machine) -> CaptureSeconds:
    """Predicted seconds of one execution, and how many operators it leaves out."""
    times = operator_times(capture, machine)
    known = [seconds for seconds in times if seconds is not None]
    return CaptureSeconds(sum(known), len(times) - len(known))


def fused_seconds(capture: Capture, nodes: Sequence[int], machine: Machine) -> float | None:
    """Seconds that a set of operators takes as one kernel; see kernel_seconds."""
    found = kernel_seconds(capture, nodes, machine)
    return None if found is None else found.seconds


def kernel_seconds(capture: Capture, nodes: Sequence[int], machine: Machine) -> KernelSeconds | None:
    """What a set of operators takes as one kernel.

    Args:
        capture: the graph with its shapes.
        nodes: the set.
        machine: the hardware.

    Returns:
        The summed arithmetic together with the traffic of what enters and leaves, plus the price of one kernel; None
        when the time of any operator or the size of any tensor is unknown.
    """
    profile = _profile(capture)
    work = profile.seconds_of_kernel(nodes, machine)
    traffic = profile.external_traffic(nodes)
    if work is None or traffic is None:
        return None
    compute, packing = work
    memory, waited = (
        sum(machine.seconds_to_move(*move) for move in moves)
        for moves in profile.moves_of_kernel(nodes, UNIT in machine.kernel_rates)
    )
    further = profile.further_steps(nodes) * machine.step_seconds
    return KernelSeconds(compute, memory, packing + waited, machine.kernel_seconds + further)


def traffic_seconds(capture: Capture, nodes: Sequence[int], machine: Machine) -> float | None:
    """Seconds that a set of operators takes as one kernel at least: what enters and leaves, from where it lies.

    Returns:
        Seconds at the bandwidth of the levels that the tensors' memory still lies in; None when a size is unknown.
    """
    return _profile(capture).seconds_of_external_traffic(nodes, machine)


def operator_gains(capture: Capture, machine: Machine) -> list[float]:
    """The most that each operator can add to what a fusion saves: its time beyond its arithmetic in a kernel.

    A kernel takes at least the arithmetic of its operators, so no set of operators saves more than their gains together
    (see fused_seconds). 0 where the time is unknown: a set with such an operator has no known saving.
    """
    rates = _profile(capture).on(machine)
    return [
        0.0 if own is None or fused is None else max(0.0, own - fused)
        for own, fused in zip(rates.times, rates.fused_compute, strict=True)
    ]


def rate_keys(operator: str, cost: Cost, row: Operator, kinds: Sequence[str] = ()) -> list[str]:
    """Names that an operator's rate may have on a machine, the most special one first.

    Args:
        operator: its full name.
        cost: of this execution.
        row: its row in the table.
        kinds: special cases that may have a class of their own (``transpose_elements``, ``gemm_row``), the most special
            one first; see ``operators.pieces.regimes``.
    """
    names = [name for name in (operator, cost.rate_class, row.rate_class) if name]
    return [f"{name}{SPECIAL}{kind}" for kind in kinds for name in names] + names


def together(arithmetic: float, traffic: float) -> float:
    """Seconds that arithmetic and traffic take when they overlap as well as they do (see OVERLAP)."""
    longer, shorter = max(arithmetic, traffic), min(arithmetic, traffic)
    return longer * (1.0 + (shorter / longer) ** OVERLAP) ** (1.0 / OVERLAP) if longer else 0.0


def arithmetic_by_rate(capture: Capture, machine: Machine, *, fused: bool) -> dict[str, float]:
    """Seconds of arithmetic of all operators of a capture by the machine's rate that they are computed with.

    Args:
        capture: the graph with its shapes.
        machine: the hardware.
        fused: whether the operators are one kernel: then only rates of kernels count.

    Returns:
        Key of the machine's ``rates`` (or ``kernel_rates``) to seconds; operators without such a rate are left out.
    """
    profile = _profile(capture)
    table = machine.kernel_rates if fused else machine.rates
    found: dict[str, float] = {}
    for index in range(len(capture.graph.nodes)):
        key = next((key for key in profile.keys(index) if key in table), None)
        seconds = profile.on(machine).fused_compute[index] if fused else profile.compute(index, machine, fused=False)
        if key is not None and seconds:
            found[key] = found.get(key, 0.0) + seconds
    return found


def external_bytes(capture: Capture, nodes: Sequence[int]) -> int | None:
    """Bytes that a set of operators reads and writes as one kernel, constants included; None when unknown."""
    traffic = _profile(capture).external_traffic(nodes)
    return None if traffic is None else sum(traffic)


def node_moves(capture: Capture, index: int) -> list[Move]:
    """What an operator that runs alone, again and again, moves as a node of its own; nothing where that is unknown."""
    profile = _profile(capture)
    cost = profile.costs[index]
    if cost is None:
        return []
    read, written = float(cost.bytes_read + cost.parameter_bytes), float(cost.bytes_written)
    return [(read, written, read + written), *profile.repeated_moves(index)]


def kernel_moves(capture: Capture, nodes: Sequence[int], *, unit: bool) -> tuple[list[Move], list[Move]]:
    """What a set of operators as one kernel moves; ``external_bytes`` tells whether that is known.

    Args:
        capture: the graph with its shapes.
        nodes: the set.
        unit: whether kernels use a matrix unit.

    Returns:
        what goes along with the arithmetic, and what it waits for.
    """
    return _profile(capture).moves_of_kernel(nodes, unit)


# ------------------------------------------------------------------ what is computed once per capture


@dataclass(frozen=True, slots=True)
class _OnMachine:
    times: list[float | None]
    fused_compute: list[float | None]


class _Profile:
    """Costs of a capture's operators, kept as long as the capture lives."""

    def __init__(self, capture: Capture) -> None:
        # No reference to the capture: it would keep itself alive through the registry below.
        self.graph = capture.graph
        self.bodies = capture.bodies
        self.shape: Callable[[str], tuple[int, ...] | None] = {
            name: shape for name in self.graph.tensors if (shape := capture.shape(name)) is not None
        }.get
        self.rows: list[Operator | None] = [operators.find(node) for node in self.graph.nodes]
        self.costs: list[Cost | None] = [
            None if row is None or row.op_type in CONTROL_FLOW else operators.cost(capture, index)
            for index, row in enumerate(self.rows)
        ]
        self._known: dict[tuple[int, Callable[..., object]], object] = {}
        self._executed: dict[tuple[int, bool], Executed | None] = {}
        self.machines: weakref.WeakKeyDictionary[Machine, _OnMachine] = weakref.WeakKeyDictionary()

    def on(self, machine: Machine) -> _OnMachine:
        found = self.machines.get(machine)
        if found is None:
            count = range(len(self.graph.nodes))
            found = _OnMachine(
                [self._seconds(index, machine) for index in count],
                [self.compute(index, machine, fused=True) for index in count],
            )
            self.machines[machine] = found
        return found

    @cached_property
    def parameter_bytes(self) -> int:
        """Bytes of constants that one execution reads, each once: they decide where weights stay between executions."""
        return sum(cost.parameter_bytes for cost in self.costs if cost is not None)

    def seconds_of_parameters(self, size: int, machine: Machine) -> float:
        """Weights come from the level that holds all of the model's, for each execution reads them all again."""
        return machine.seconds_to_move(size, 0.0, max(size, self.parameter_bytes)) if size else 0.0

    def _seconds(self, index: int, machine: Machine) -> float | None:
        node = self.graph.nodes[index]
        if node.name in self.bodies:
            return self._seconds_of_bodies(node, machine)
        cost = self.costs[index]
        compute = self.compute(index, machine, fused=False)
        if cost is None or compute is None:
            return None
        memory = self._seconds_of_traffic(index, cost, machine)
        memory += self.seconds_of_parameters(cost.parameter_bytes, machine)
        memory += sum(machine.seconds_to_move(*move) for move in self.repeated_moves(index))
        return together(compute, memory) + machine.node_seconds

    def repeated_moves(self, index: int) -> list[Move]:
        """Weights that a recurrent layer as a node of its own reads again in each step."""
        work = self.executed(index, unit=False) if self._is(index, FusionClass.SEQUENTIAL) else None
        return [] if work is None else [(work.again[0] * work.again[1], 0.0, work.again[0])]

    def _seconds_of_traffic(self, index: int, cost: Cost, machine: Machine) -> float:
        """Seconds to read and write computed tensors, each from the level that its memory still lies in."""
        own = cost.bytes_read + cost.bytes_written
        touched = self._touches[index]
        seconds = 0.0
        directions = (cost.bytes_read, 0.0, touched.reads), (0.0, cost.bytes_written, touched.writes)
        for read, written, tensors in directions:
            whole = sum(tensor.bytes for tensor in tensors)
            if not read + written or not whole:
                seconds += machine.seconds_to_move(read, written, own)
                continue
            for tensor in tensors:
                share = tensor.bytes / whole
                seconds += machine.seconds_to_move(read * share, written * share, max(own, tensor.distance))
        return seconds

    @cached_property
    def _touches(self) -> list[Touches]:
        """Where each operator's operands and results lie."""
        classes = [None if row is None else row.fusion_class for row in self.rows]
        moving = [cost is None or bool(cost.bytes_read or cost.bytes_written) for cost in self.costs]
        in_place = [kind is FusionClass.ELEMENTWISE for kind in classes]
        views = [not moves and kind is not FusionClass.METADATA for moves, kind in zip(moving, classes, strict=True)]
        return touches(self.graph, lambda name: self._bytes(name) or 0, in_place, views)

    def _seconds_of_bodies(self, node: Node, machine: Machine) -> float | None:
        """What the bodies of a control-flow node take, as often as they ran, and its own price."""
        seconds = machine.node_seconds
        for body in self.bodies[node.name]:
            for own in operator_times(body.capture, machine):
                if own is None:
                    return None
                seconds += body.trips * own
        return seconds

    def compute(self, index: int, machine: Machine, *, fused: bool) -> float | None:
        """Seconds of arithmetic.

        In a kernel, layout operators are index maps: what does not keep the order is in seconds_of_strided_reads, and
        the others cost what the machine says that kernels take for copies.
        """
        cost, row = self.costs[index], self.rows[index]
        if cost is None or row is None:
            return None
        if row.fusion_class is FusionClass.METADATA or not (cost.flops or cost.bytes_written):
            return 0.0
        if fused and (seconds := self._seconds_as_executed(index, machine)) is not None:
            return seconds
        keys = self.keys(index)
        if fused and row.fusion_class is FusionClass.LAYOUT:
            return 0.0  # an index map, whose price depends on what else the kernel does
        if fused and row.fusion_class is FusionClass.LOOKUP and self._is_summed(index):
            return 0.0  # an embedding bag adds up rows where they lie
        return self._seconds_at_rate(index, cost, keys, machine, fused=fused)

    def _seconds_at_rate(self, index: int, cost: Cost, keys: Sequence[str], machine: Machine, *, fused: bool) -> float:
        """Work and what else is counted, at the first rate that the machine knows."""
        rate = machine.kernel_rate(keys, self.graph.nodes[index].operator) if fused else machine.rate(keys)
        if rate is None:
            seconds = cost.flops / machine.peak_of(self._dtype(index))
        else:
            seconds = (cost.flops if rate.unit == "flop/s" else self._results_of(index)) / rate.value
        return seconds + machine.seconds_of_counts(keys, self._counted(index, counts), fused=fused)

    def executed(self, index: int, *, unit: bool) -> Executed | None:
        """What a kernel executes for a contraction or a recurrent layer; None for other operators."""
        row = self.rows[index]
        if row is None or row.fusion_class not in (FusionClass.CONTRACTION, FusionClass.SEQUENTIAL):
            return None

        def found(graph: OperatorGraph, node: Node, row: Operator, inputs: Shapes, outputs: Shapes) -> Executed | None:
            right = graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
            computed = right is None or not right.constant
            return executed(node, inputs, outputs[0] or (), computed=computed, unit=unit) if outputs else None

        if (index, unit) not in self._executed:
            self._executed[index, unit] = self._count(index, found)
        return self._executed[index, unit]

    def _seconds_as_executed(self, index: int, machine: Machine) -> float | None:
        """Seconds of arithmetic of a contraction in a kernel; None where the machine does not say how kernels do it."""
        work, cost, row = self.executed(index, unit=UNIT in machine.kernel_rates), self.costs[index], self.rows[index]
        if work is None or cost is None or row is None:
            return None
        keys = rate_keys(self.graph.nodes[index].operator, cost, row, [work.regime] if work.regime else [])
        rate = next((machine.kernel_rates[key] for key in keys if key in machine.kernel_rates), None)
        if rate is None:
            return None
        return work.operations / rate.value + machine.seconds_of_counts(keys, work.counts, fused=True)

    def moves_of_kernel(self, nodes: Sequence[int], unit: bool) -> tuple[list[Move], list[Move]]:
        """What a kernel moves: what enters and leaves, what one step leaves for another, weights as it keeps them."""
        read, written, parameters = self.external_traffic(nodes) or (0, 0, 0)
        kept = self.bytes_between_steps(nodes)
        found: list[Move] = [(float(read + kept), float(written + kept), float(read + written + kept))]
        waited: list[Move] = []
        share = 1.0
        waits = False
        for index in nodes:
            work, cost = self.executed(index, unit=unit), self.costs[index]
            if work is None or cost is None or not cost.parameter_bytes:
                continue
            share, waits = max(share, work.parameter_share), waits or work.waits
            if work.again[1]:
                (waited if work.waits else found).append((work.again[0] * work.again[1], 0.0, work.again[0]))
        if parameters:
            move = (share * parameters, 0.0, share * max(parameters, self.parameter_bytes))
            (waited if waits else found).append(move)
        return found, waited

    def seconds_of_kernel(self, nodes: Sequence[int], machine: Machine) -> tuple[float, float] | None:
        """What a set of operators computes as one kernel, and what it packs before that; None when unknown.

        Returns:
            Seconds of arithmetic, which goes along with the traffic, and seconds of copying out operands that repeat or
            do not lie in the order of the result, which comes before it. A kernel that only moves packs nothing: its
            copies are what it computes.
        """
        inside = set(nodes)
        own = self.on(machine).fused_compute
        kinds = {row.fusion_class for index in inside if (row := self.rows[index]) is not None}
        moves = kinds <= {FusionClass.LAYOUT, FusionClass.LOOKUP, FusionClass.METADATA}
        compute = 0.0
        for index in inside:
            seconds, row, cost = own[index], self.rows[index], self.costs[index]
            if seconds is None or row is None or cost is None:
                return None
            if moves and seconds:
                seconds = self._seconds_at_rate(index, cost, self._kernel_keys(index, moves=True), machine, fused=True)
            compute += seconds
        # each loop computes anew what it needs; a machine that knows no kernels gives lower bounds
        for cone in self._nests(inside)[1:] if machine.kernel_rates else ():
            compute += sum(own[index] or 0.0 for index in cone if self._is(index, FusionClass.ELEMENTWISE))
        packing = self._seconds_of_copies(inside, machine, moves=moves)
        if FusionClass.REDUCTION not in kinds:  # along rows, what repeats stays where it is
            packing += self._seconds_of_broadcasts(inside, machine)
        return (compute + packing, 0.0) if moves else (compute, packing)

    def _nests(self, inside: set[int]) -> list[set[int]]:
        """What each loop over results computes, the one that computes most first.

        Results of one shape that walk their operands in the same order are computed together. A loop begins at what is
        in memory: operands, and results of sums.
        """
        leaving = [result.name for index in sorted(inside) for result in self._results[index] if result.leaves(inside)]
        found: dict[tuple[object, ...], set[int]] = {}
        for name in leaving if len(leaving) > 1 else ():
            paths, cone = self._paths(name, inside)
            found.setdefault((self.shape(name), paths), set()).update(cone)
        return sorted(found.values(), key=len, reverse=True)

    def _paths(self, result: str, inside: set[int]) -> tuple[frozenset[object], set[int]]:
        """The changes of order on the ways from a result to what is in memory, and the nodes on these ways."""
        paths: dict[str, set[tuple[str, ...]]] = {}
        cone: set[int] = set()
        todo: list[tuple[str, tuple[str, ...]]] = [(result, ())]
        seen = set(todo)
        while todo:
            name, path = todo.pop()
            index = self.graph.producers.get(name, (-1, 0))[0]
            if index not in inside or self._is(index, *_ENDS):
                paths.setdefault(name, set()).add(path)
                continue
            cone.add(index)
            op_type, cost = self.graph.nodes[index].op_type, self.costs[index]
            after = path
            if self._is(index, FusionClass.LAYOUT) and cost is not None and cost.bytes_written:
                step = op_type if op_type in ("ReorderInput", "ReorderOutput") else "view"
                if path[-1:] == ("ReorderInput",) and step == "ReorderOutput":
                    after = path[:-1]
                elif path[-1:] != (step,):
                    after = (*path, step)
            for operand in self.graph.nodes[index].inputs:
                if operand and (operand, after) not in seen:
                    seen.add((operand, after))
                    todo.append((operand, after))
        return frozenset(frozenset(own) for own in paths.values()), cone

    def _kernel_keys(self, index: int, *, moves: bool) -> list[str]:
        keys = self.keys(index)
        return [*(f"{key}{SPECIAL}{MOVED}" for key in keys), *keys] if moves else keys

    def further_steps(self, nodes: Sequence[int]) -> int:
        """How many steps of a kernel come after its first: lookups, reductions and contractions stand for one each."""
        kinds = (FusionClass.LOOKUP, FusionClass.REDUCTION, FusionClass.CONTRACTION, FusionClass.WINDOW)
        return max(0, sum(self._is(index, *kinds) for index in nodes) - 1)

    def bytes_between_steps(self, nodes: Sequence[int]) -> int:
        """Bytes that one step of a kernel leaves in memory for a later one, which reads them again.

        A contraction has its computed operands in memory; what is computed from one, or changes the order, is in
        memory before sums, windows and lookups read it.
        """
        inside = set(nodes)
        below = {index for index in inside if self._is(index, FusionClass.CONTRACTION) or index in self._turns}
        if not below or len(inside) < 2:
            return 0
        kept: set[str] = set()
        for index in sorted(inside):  # node order is topological
            made = {
                name: self.graph.producers[name][0]
                for name in self.graph.nodes[index].inputs
                if name in self.graph.producers and self.graph.producers[name][0] in inside
            }
            if self._is(index, FusionClass.CONTRACTION):
                kept.update(made)
            elif self._is(index, FusionClass.REDUCTION, FusionClass.WINDOW, FusionClass.LOOKUP):
                kept.update(name for name, producer in made.items() if producer in below)
            if below.intersection(made.values()):
                below.add(index)
        return sum(self._bytes(name) or 0 for name in kept)

    def _is(self, index: int, *kinds: FusionClass) -> bool:
        row = self.rows[index]
        return row is not None and row.fusion_class in kinds

    def _seconds_of_broadcasts(self, inside: set[int], machine: Machine) -> float:
        """Seconds that a kernel needs to copy out operands that repeat along a result; single values are free."""
        if BROADCAST not in machine.kernel_rates:
            return 0.0
        done: set[tuple[str, tuple[int, ...]]] = set()
        seconds = 0.0
        for index in inside:
            row, node = self.rows[index], self.graph.nodes[index]
            result = self.shape(node.outputs[0])
            if row is None or row.fusion_class is not FusionClass.ELEMENTWISE or not result:
                continue
            for name in dict.fromkeys(node.inputs):
                shape = self.shape(name)
                if shape is None or not 1 < prod(shape) < prod(result) or (name, result) in done:
                    continue
                done.add((name, result))
                numbers = {"": spans(result, [result, shape])}
                seconds += prod(result) / machine.kernel_rates[BROADCAST].value
                seconds += machine.seconds_of_counts([BROADCAST], numbers, fused=True)
        return seconds

    def _is_summed(self, index: int) -> bool:
        """Whether nothing but reductions reads an operator's result."""
        users = [user for name in self.graph.nodes[index].outputs for user, _ in self.graph.consumers.get(name, ())]
        rows = [self.rows[user] for user in users]
        return bool(rows) and all(row is not None and row.fusion_class is FusionClass.REDUCTION for row in rows)

    def keys(self, index: int) -> list[str]:
        """Names that an operator's rate may have; see rate_keys."""
        cost, row = self.costs[index], self.rows[index]
        if cost is None or row is None:
            return []
        return rate_keys(self.graph.nodes[index].operator, cost, row, self._counted(index, regimes))

    def _results_of(self, index: int) -> int:
        """Elements of an operator's results."""
        shapes = (self.shape(name) for name in self.graph.nodes[index].outputs if name)
        return sum(prod(shape) for shape in shapes if shape is not None)

    def _counted(self, index: int, count: Callable[..., T]) -> T:
        """What a function of ``operators.pieces`` says about a node that has a row; computed once."""
        found = self._known.get((index, count))
        if found is None:
            found = self._known[index, count] = self._count(index, count)
        return cast(T, found)

    def _count(self, index: int, count: Callable[..., T]) -> T:
        node = self.graph.nodes[index]
        inputs = [self.shape(name) if name else None for name in node.inputs]
        outputs = [self.shape(name) if name else None for name in node.outputs]
        return count(self.graph, node, self.rows[index], inputs, outputs)

    def _dtype(self, index: int) -> str:
        """The dtype that an operator computes in: its first operand's, or its first result's without operands."""
        node = self.graph.nodes[index]
        name = next((name for name in (*node.inputs, *node.outputs) if name), "")
        return self.graph.tensors[name].dtype if name in self.graph.tensors else "float32"

    def _seconds_of_copies(self, inside: set[int], machine: Machine, *, moves: bool) -> float:
        """Seconds that a kernel needs for operands that do not lie in the order in which it writes.

        On the way from a result back to an operand, layout operators become one index map: the slowest of them counts,
        for as many elements as the smallest tensor on the way has. Transposes and reorders compose; where they cancel
        (an operand in the blocked layout whose result is in the blocked layout again), they are free.
        """
        copied = {index: each for index in inside if (each := self._seconds_of_copy(index, machine, moves=moves))}
        if not copied:
            return 0.0
        seconds = 0.0
        todo: list[tuple[str, tuple[_Turn, ...], float, float]] = [
            (result.name, (), self._elements(result.name), 0.0)
            for index in sorted(inside)
            for result in self._results[index]
            if result.leaves(inside)
        ]
        seen: set[tuple[str, tuple[_Turn, ...]]] = set()
        while todo:
            name, turns, least, slowest = todo.pop()
            if (name, turns) in seen:
                continue
            seen.add((name, turns))
            least = min(least, self._elements(name))
            index = self.graph.producers.get(name, (-1, 0))[0]
            if index in inside:
                if self._is(index, *_ENDS):  # what was computed lies in memory, and the way begins anew
                    seconds += least * max([slowest, *(copied.get(number, 0.0) for _, _, number in turns)])
                    todo += [(operand, (), inf, 0.0) for operand in self.graph.nodes[index].inputs if operand]
                    continue
                turn = self._turns.get(index)
                after = turns if turn is None else _composed(turns, turn)
                slowest = max(slowest, copied.get(index, 0.0) if turn is None else 0.0)
                todo += [(operand, after, least, slowest) for operand in self.graph.nodes[index].inputs if operand]
            else:
                seconds += least * max([slowest, *(copied.get(number, 0.0) for _, _, number in turns)])
        return seconds

    def _seconds_of_copy(self, index: int, machine: Machine, *, moves: bool) -> float:
        """Seconds for each element that a layout operator moves inside of a kernel; 0 where that costs nothing."""
        row, cost = self.rows[index], self.costs[index]
        if row is None or row.fusion_class is not FusionClass.LAYOUT or cost is None or not cost.bytes_written:
            return 0.0
        keys = self._kernel_keys(index, moves=moves)
        elements = self._results_of(index)
        if not elements or not any(key in machine.kernel_rates for key in keys):
            return 0.0
        return self._seconds_at_rate(index, cost, keys, machine, fused=True) / elements

    def _elements(self, name: str) -> int:
        return prod(self.shape(name) or (0,))

    def seconds_of_external_traffic(self, nodes: Sequence[int], machine: Machine) -> float | None:
        """Seconds to move what crosses the border of a set of nodes, each tensor from the level that it lies in."""
        traffic = self.external_traffic(nodes)
        if traffic is None:
            return None
        read, written, parameters = traffic
        inside = set(nodes)
        entering: dict[str, int] = {}
        leaving: dict[str, int] = {}
        names = {result.name for index in inside for result in self._results[index] if result.leaves(inside)}
        for index in inside:
            for touch in self._touches[index].reads:
                if self.graph.producers.get(touch.name, (-1, 0))[0] not in inside:
                    entering[touch.name] = min(touch.distance, entering.get(touch.name, touch.distance))
            for touch in self._touches[index].writes:
                if touch.name in names:
                    leaving[touch.name] = touch.distance
        seconds = self.seconds_of_parameters(parameters, machine)
        for own_read, own_written, distances in ((read, 0, entering), (0, written, leaving)):
            whole = sum(self._bytes(name) or 0 for name in distances)
            if not whole:
                seconds += machine.seconds_to_move(own_read, own_written, read + written)
            for name, distance in distances.items():
                share = (self._bytes(name) or 0) / whole if whole else 0.0
                seconds += machine.seconds_to_move(own_read * share, own_written * share, max(read + written, distance))
        return seconds

    def external_traffic(self, nodes: Sequence[int]) -> tuple[int, int, int] | None:
        """Bytes that cross the border of a set of nodes: that are read, that are written, and constants apart."""
        inside = set(nodes)
        read = written = parameters = 0
        entering: dict[str, int] = {}
        for index in inside:
            for result in self._results[index]:
                if result.leaves(inside):
                    if result.bytes is None:
                        return None
                    written += result.bytes
            for use in self._uses[index]:
                if use.producer in inside:
                    continue
                if use.bytes is None or use.read is None:
                    return None
                before = entering.get(use.name, 0)
                now = entering[use.name] = min(use.bytes, before + use.read)
                if use.constant:
                    parameters += now - before
                else:
                    read += now - before
        return read, written, parameters

    @cached_property
    def _turns(self) -> dict[int, _Turn]:
        """Nodes that change the order of elements."""
        return {i: turn for i, node in enumerate(self.graph.nodes) if (turn := _turn(node, i)) is not None}

    @cached_property
    def _results(self) -> list[list["_Result"]]:
        """Results of each node."""
        wanted = set(self.graph.outputs)
        return [
            [
                _Result(
                    name, self._bytes(name), name in wanted, frozenset(u for u, _ in self.graph.consumers.get(name, ()))
                )
                for name in node.outputs
                if name
            ]
            for node in self.graph.nodes
        ]

    @cached_property
    def _uses(self) -> list[list["_Use"]]:
        """Operands of each node that move."""
        return [
            [
                _Use(
                    name,
                    self.graph.producers.get(name, (-1, 0))[0],
                    self.graph.tensors[name].constant,
                    self._bytes(name),
                    self._read(index, name),
                )
                for slot, name in enumerate(node.inputs)
                if name and not self._is_planned(index, slot)
            ]
            for index, node in enumerate(self.graph.nodes)
        ]

    def _bytes(self, name: str) -> int | None:
        shape, tensor = self.shape(name), self.graph.tensors.get(name)
        return None if shape is None or tensor is None else storage_bytes(tensor.dtype, prod(shape))

    def _is_planned(self, index: int, slot: int) -> bool:
        """Whether the host reads an operand to plan, so that nothing moves."""
        row = self.rows[index]
        return row is not None and (slot in row.structural or row.fusion_class is FusionClass.METADATA)

    def _read(self, index: int, name: str) -> int | None:
        """Bytes of an operand that a node reads: all of it, or less where the operator picks parts."""
        cost, row = self.costs[index], self.rows[index]
        if cost is None or row is None:
            return None
        if row.fusion_class in (FusionClass.LOOKUP, FusionClass.LAYOUT) and cost.bytes_written:
            return cost.parameter_bytes if self.graph.tensors[name].constant else cost.bytes_read
        return self._bytes(name)  # what hands storage on (a Reshape) reads nothing, but what comes after it does


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    bytes: int | None
    wanted: bool
    users: frozenset[int]

    def leaves(self, inside: set[int]) -> bool:
        """Whether something outside of a set of nodes, or the caller, reads it."""
        return self.wanted or not inside.issuperset(self.users)


@dataclass(frozen=True, slots=True)
class _Use:
    name: str
    producer: int
    constant: bool
    bytes: int | None
    read: int | None


_profiles: dict[int, _Profile] = {}


def _profile(capture: Capture) -> _Profile:
    # Captures hold mappings, so they have no hash; their identity serves while they live.
    key = id(capture)
    found = _profiles.get(key)
    if found is None:
        found = _profiles[key] = _Profile(capture)
        weakref.finalize(capture, _profiles.pop, key, None).atexit = False
    return found


_OPPOSITE = {f"{DOMAIN}.ReorderInput": f"{DOMAIN}.ReorderOutput", f"{DOMAIN}.ReorderOutput": f"{DOMAIN}.ReorderInput"}


def _turn(node: Node, index: int) -> _Turn | None:
    if node.operator in _OPPOSITE:
        return node.operator, (), index
    perm = node.attributes.get("perm")
    if node.operator != "Transpose":
        return None
    return "Transpose", tuple(p for p in perm if isinstance(p, int)) if isinstance(perm, tuple) else (), index


def _composed(turns: tuple[_Turn, ...], turn: _Turn) -> tuple[_Turn, ...]:
    """Turns met on the way back from a result, with one more that stands before them."""
    if not turns:
        return (turn,)
    (name, perm, _), (before, earlier, index) = turns[-1], turn
    if _OPPOSITE.get(name) == before:
        return turns[:-1]
    if name == before == "Transpose" and len(perm) == len(earlier):
        both = tuple(earlier[axis] for axis in perm) or tuple(range(2))  # without permutation: reversed twice
        return turns[:-1] if both == tuple(range(len(both))) else (*turns[:-1], ("Transpose", both, index))
    return (*turns, turn)
