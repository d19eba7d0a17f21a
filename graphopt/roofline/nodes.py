"""Seconds of operators as nodes of their own, and of whole captures."""

from dataclasses import dataclass

from graphopt.graph import Capture, Node
from graphopt.machine import Machine
from graphopt.operators.base import Cost, FusionClass
from graphopt.roofline.arithmetic import kernel_arithmetic, node_arithmetic, together
from graphopt.roofline.profile import Move, Profile, profile_of

WAITED = 0.5
"""Share of the time to fetch its weights that a contraction waits; the rest goes by while it computes (measured:
docs/roofline.md)."""


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
        Seconds; None when the operator is not in the table, a shape is missing, or it has bodies (If, Loop, Scan) that
        are unknown.
    """
    return operator_times(capture, machine)[index]


def operator_times(capture: Capture, machine: Machine) -> list[float | None]:
    """operator_seconds of every node, in node order. Computed once per capture and machine: do not change the list."""
    profile = profile_of(capture)
    found = profile.node_seconds.get(machine)
    if found is None:
        found = [_node_seconds(profile, index, machine) for index in range(len(profile.graph.nodes))]
        profile.node_seconds[machine] = found
    return found


def times_beside_bodies(capture: Capture, machine: Machine) -> list[float | None]:
    """The same without what bodies take: of If, Loop and Scan whose bodies are known, the price of their node alone."""
    return [
        machine.node_seconds if node.name in capture.bodies else seconds
        for node, seconds in zip(capture.graph.nodes, operator_times(capture, machine), strict=True)
    ]


def capture_seconds(capture: Capture, machine: Machine) -> CaptureSeconds:
    """Predicted seconds of one execution, and how many operators it leaves out."""
    times = operator_times(capture, machine)
    known = [seconds for seconds in times if seconds is not None]
    return CaptureSeconds(sum(known), len(times) - len(known))


def operator_gains(capture: Capture, machine: Machine) -> list[float]:
    """The most that each operator can add to what a fusion saves: its time beyond its arithmetic in a kernel.

    A kernel takes at least the arithmetic of its operators, so no set of operators saves more than their gains together
    (see fused_seconds). 0 where the time is unknown: a set with such an operator has no known saving.
    """
    fused_arithmetic = kernel_arithmetic(profile_of(capture), machine)
    return [
        0.0 if own is None or fused is None else max(0.0, own - fused)
        for own, fused in zip(operator_times(capture, machine), fused_arithmetic, strict=True)
    ]


def node_moves(capture: Capture, index: int) -> tuple[list[Move], list[Move]]:
    """What an operator that runs alone, again and again, moves as a node of its own; nothing where that is unknown.

    Returns:
        what goes along with the arithmetic, and what it waits for.
    """
    profile = profile_of(capture)
    cost = profile.costs[index]
    if cost is None:
        return [], []
    waited = _waits(profile, index) * cost.parameter_bytes
    read, written = float(cost.bytes_read + cost.parameter_bytes), float(cost.bytes_written)
    along = [(read - waited, written, read + written), *profile.repeated_moves(index)]
    return along, [(waited, 0.0, read + written)] if waited else []


def _node_seconds(profile: Profile, index: int, machine: Machine) -> float | None:
    node = profile.graph.nodes[index]
    if node.name in profile.bodies:
        return _seconds_of_bodies(profile, node, machine)
    cost = profile.costs[index]
    compute = node_arithmetic(profile, index, machine)
    if cost is None or compute is None:
        return None
    memory = _seconds_of_traffic(profile, index, cost, machine)
    memory += sum(machine.seconds_to_move(*move) for move in profile.repeated_moves(index))
    weights, waits = _seconds_of_parameters(profile, cost.parameter_bytes, machine), _waits(profile, index)
    return together(compute, memory + (1.0 - waits) * weights) + waits * weights + machine.node_seconds


def _waits(profile: Profile, index: int) -> float:
    """Share of the time to fetch its weights that an operator waits."""
    return WAITED if profile.is_of(index, FusionClass.CONTRACTION) else 0.0


def _seconds_of_traffic(profile: Profile, index: int, cost: Cost, machine: Machine) -> float:
    """Seconds to read and write computed tensors, each from the level that its memory still lies in."""
    own = cost.bytes_read + cost.bytes_written
    touched = profile.residence[index]
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


def _seconds_of_bodies(profile: Profile, node: Node, machine: Machine) -> float | None:
    """What the bodies of a control-flow node take, as often as they ran, and its own price."""
    seconds = machine.node_seconds
    for body in profile.bodies[node.name]:
        for own in operator_times(body.capture, machine):
            if own is None:
                return None
            seconds += body.trips * own
    return seconds


def _seconds_of_parameters(profile: Profile, size: int, machine: Machine) -> float:
    """Weights come from the level that holds all of the model's, for each execution reads them all again."""
    return machine.seconds_to_move(size, 0.0, max(size, profile.parameter_bytes)) if size else 0.0
