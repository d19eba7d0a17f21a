"""The roofline: seconds that an operator, or a set of operators as one kernel, takes on a machine.

An operator takes the longer of its arithmetic and its traffic, plus the runtime's price per node. As one kernel, the
arithmetic of the operators adds up, only what enters and leaves the set is moved, and the price is paid once (Park et
al., 2018, section 3.3, with memory levels, rates per operator class and overhead added). docs/roofline.md says more.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from graphopt import operators
from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.operators.base import Cost, FusionClass, Operator, element_bytes
from graphopt.operators.opaque import CONTROL_FLOW


@dataclass(frozen=True, slots=True)
class CaptureSeconds:
    """Predicted time of one execution of a capture.

    Attributes:
        seconds: sum over the operators whose time is known.
        unknown: how many operators have no known time (see operator_seconds).
    """

    seconds: float
    unknown: int


def operator_seconds(capture: Capture, index: int, machine: Machine) -> float | None:
    """Seconds that one operator takes as a node of its own.

    Args:
        capture: the graph with its shapes.
        index: which node.
        machine: the hardware.

    Returns:
        Seconds; None when the operator is not in the table, a shape is missing, or it has bodies (If, Loop, Scan).
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
    """Seconds that a set of operators takes as one kernel.

    Args:
        capture: the graph with its shapes.
        nodes: the set.
        machine: the hardware.

    Returns:
        The longer of the summed arithmetic and the traffic of what enters and leaves, plus the price of one node; None
        when the time of any operator or the size of any tensor is unknown.
    """
    profile = _profile(capture)
    rates = profile.on(machine)
    compute = 0.0
    for index in nodes:
        own = rates.fused_compute[index]
        if own is None:
            return None
        compute += own
    traffic = profile.external_traffic(nodes)
    if traffic is None:
        return None
    moved, parameters = traffic
    memory = machine.seconds_to_move(moved) + profile.seconds_of_parameters(parameters, machine)
    return max(compute, memory) + machine.kernel_seconds


def external_bytes(capture: Capture, nodes: Sequence[int]) -> int | None:
    """Bytes that a set of operators reads and writes as one kernel, constants included; None when unknown."""
    traffic = _profile(capture).external_traffic(nodes)
    return None if traffic is None else sum(traffic)


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
        self.shape: Callable[[str], tuple[int, ...] | None] = {
            name: shape for name in self.graph.tensors if (shape := capture.shape(name)) is not None
        }.get
        self.rows: list[Operator | None] = [operators.find(node) for node in self.graph.nodes]
        self.costs: list[Cost | None] = [
            None if row is None or row.op_type in CONTROL_FLOW else operators.cost(capture, index)
            for index, row in enumerate(self.rows)
        ]
        self.machines: weakref.WeakKeyDictionary[Machine, _OnMachine] = weakref.WeakKeyDictionary()

    def on(self, machine: Machine) -> _OnMachine:
        found = self.machines.get(machine)
        if found is None:
            count = range(len(self.graph.nodes))
            found = _OnMachine(
                [self._seconds(index, machine) for index in count],
                [self._compute(index, machine, fused=True) for index in count],
            )
            self.machines[machine] = found
        return found

    @cached_property
    def parameter_bytes(self) -> int:
        """Bytes of constants that one execution reads, each once: they decide where weights stay between executions."""
        return sum(cost.parameter_bytes for cost in self.costs if cost is not None)

    def seconds_of_parameters(self, size: int, machine: Machine) -> float:
        """Weights come from the level that holds all of the model's, for each execution reads them all again."""
        return machine.seconds_to_move(size, max(size, self.parameter_bytes)) if size else 0.0

    def _seconds(self, index: int, machine: Machine) -> float | None:
        cost = self.costs[index]
        compute = self._compute(index, machine, fused=False)
        if cost is None or compute is None:
            return None
        memory = machine.seconds_to_move(cost.bytes_read + cost.bytes_written)
        memory += self.seconds_of_parameters(cost.parameter_bytes, machine)
        return max(compute, memory) + machine.node_seconds

    def _compute(self, index: int, machine: Machine, *, fused: bool) -> float | None:
        """Seconds of arithmetic. In a kernel, layout operators are index maps: free unless the machine says."""
        cost, row = self.costs[index], self.rows[index]
        if cost is None or row is None:
            return None
        if row.fusion_class is FusionClass.METADATA or not (cost.flops or cost.bytes_written):
            return 0.0
        node = self.graph.nodes[index]
        classes = [name for name in (cost.rate_class, row.rate_class) if name]
        if not fused:
            rate = machine.rate(node.operator, classes)
        elif row.fusion_class is FusionClass.LAYOUT:
            rate = next((machine.kernel_rates[n] for n in (node.operator, *classes) if n in machine.kernel_rates), None)
        else:
            rate = machine.kernel_rate(node.operator, classes)
        if rate is None:
            return cost.flops / machine.peak_of(self._dtype(index))
        if rate.unit == "flop/s":
            return cost.flops / rate.value
        return sum(prod(self.shape(name) or (0,)) for name in node.outputs if name) / rate.value

    def _dtype(self, index: int) -> str:
        """The dtype that an operator computes in: its first operand's, or its first result's without operands."""
        node = self.graph.nodes[index]
        name = next((name for name in (*node.inputs, *node.outputs) if name), "")
        return self.graph.tensors[name].dtype if name in self.graph.tensors else "float32"

    def external_traffic(self, nodes: Sequence[int]) -> tuple[int, int] | None:
        """Bytes that cross the border of a set of nodes: computed tensors and results, and constants apart."""
        moved = parameters = 0
        for name in self.graph.external_outputs(nodes):
            size = self._bytes(name)
            if size is None:
                return None
            moved += size
        members = set(nodes)
        for name in self.graph.external_inputs(nodes):
            size = self._read(name, members)
            if size is None:
                return None
            if self.graph.tensors[name].constant:
                parameters += size
            else:
                moved += size
        return moved, parameters

    def _bytes(self, name: str) -> int | None:
        shape, tensor = self.shape(name), self.graph.tensors.get(name)
        return None if shape is None or tensor is None else prod(shape) * element_bytes(tensor.dtype)

    def _read(self, name: str, members: set[int]) -> int | None:
        """Bytes of an entering tensor that the set reads: all, or less where each reader picks parts of it."""
        whole = self._bytes(name)
        if whole is None:
            return None
        constant = self.graph.tensors[name].constant
        picked = 0
        for index, slot in self.graph.consumers.get(name, ()):
            if index not in members:
                continue
            cost, row = self.costs[index], self.rows[index]
            if cost is None or row is None:
                return None
            if slot in row.structural:
                continue  # the host reads it to plan
            if row.fusion_class is FusionClass.METADATA:
                continue
            picks = row.fusion_class in (FusionClass.LOOKUP, FusionClass.LAYOUT) and cost.bytes_written > 0
            if not picks:
                return whole
            picked += cost.parameter_bytes if constant else cost.bytes_read
        return min(whole, picked)


_profiles: dict[int, _Profile] = {}


def _profile(capture: Capture) -> _Profile:
    # Captures hold mappings, so they have no hash; their identity serves while they live.
    key = id(capture)
    found = _profiles.get(key)
    if found is None:
        found = _profiles[key] = _Profile(capture)
        weakref.finalize(capture, _profiles.pop, key, None).atexit = False
    return found
