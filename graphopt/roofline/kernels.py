"""Seconds of a set of operators as one kernel."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.operators.base import FusionClass
from graphopt.roofline.arithmetic import UNIT, kernel_arithmetic, seconds_at_rate, together
from graphopt.roofline.packing import kernel_keys, nests, seconds_of_broadcasts, seconds_of_copies
from graphopt.roofline.phases import HEAVY, Phases, phases_of
from graphopt.roofline.profile import Move, Profile, profile_of


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
    profile = profile_of(capture)
    phases = phases_of(profile, set(nodes))
    work = _work(profile, nodes, phases, machine)
    traffic = _external_traffic(profile, nodes)
    if work is None or traffic is None:
        return None
    compute, packing = work
    memory, waited = (
        sum(machine.seconds_to_move(*move) for move in moves)
        for moves in _moves(profile, nodes, phases, UNIT in machine.kernel_rates)
    )
    further = _further_steps(profile, nodes) * machine.step_seconds
    return KernelSeconds(compute, memory, packing + waited, machine.kernel_seconds + further)


def external_bytes(capture: Capture, nodes: Sequence[int]) -> int | None:
    """Bytes that a set of operators reads and writes as one kernel, constants included; None when unknown."""
    traffic = _external_traffic(profile_of(capture), nodes)
    return None if traffic is None else traffic[0] + traffic[1] + sum(traffic[2].values())


def kernel_moves(capture: Capture, nodes: Sequence[int], *, unit: bool) -> tuple[list[Move], list[Move]]:
    """What a set of operators as one kernel moves; ``external_bytes`` tells whether that is known.

    Args:
        capture: the graph with its shapes.
        nodes: the set.
        unit: whether kernels use a matrix unit.

    Returns:
        what goes along with the arithmetic, and what it waits for.
    """
    profile = profile_of(capture)
    return _moves(profile, nodes, phases_of(profile, set(nodes)), unit)


def _moves(profile: Profile, nodes: Sequence[int], phases: Phases, unit: bool) -> tuple[list[Move], list[Move]]:
    """What a kernel moves: what enters and leaves, what one step leaves for another, weights as it keeps them."""
    read, written, constants = _external_traffic(profile, nodes) or (0, 0, {})
    kept = _bytes_between_steps(profile, nodes)
    apart = _turned(profile, nodes)
    whole = float(read + written + kept)
    found: list[Move] = [(float(read - apart[0] + kept + phases.read_again), float(written - apart[1] + kept), whole)]
    waited: list[Move] = [(float(apart[0]), float(apart[1]), whole)] if any(apart) else []
    for index in nodes:
        work = profile.executed(index, unit=unit)
        size = constants.get(index, 0)
        if not size:
            continue
        share, waits = (1.0, 0.0) if work is None else (work.parameter_share, work.waits)
        weights = [(share * size, share * max(sum(constants.values()), profile.parameter_bytes))]
        if work is not None and work.again[1]:
            weights.append((work.again[0] * work.again[1], work.again[0]))
        for moves, part in ((found, 1.0 - waits), (waited, waits)):
            moves += [(part * moved, 0.0, held) for moved, held in weights if part]
    return found, waited


def _work(profile: Profile, nodes: Sequence[int], phases: Phases, machine: Machine) -> tuple[float, float] | None:
    """What a set of operators computes as one kernel, and what it packs before that; None when unknown.

    Returns:
        Seconds of arithmetic, which goes along with the traffic, and seconds of copying out operands that repeat or
        do not lie in the order of the result, which comes before it. A kernel that only moves packs nothing: its
        copies are what it computes.
    """
    inside = set(nodes)
    own = kernel_arithmetic(profile, machine)
    kinds = {row.fusion_class for index in inside if (row := profile.rows[index]) is not None}
    moves = kinds <= {FusionClass.LAYOUT, FusionClass.LOOKUP, FusionClass.METADATA}
    compute = 0.0
    for index in inside:
        seconds, row, cost = own[index], profile.rows[index], profile.costs[index]
        if seconds is None or row is None or cost is None:
            return None
        if moves and seconds:
            seconds = seconds_at_rate(
                profile, index, cost, kernel_keys(profile, index, moves=True), machine, fused=True
            )
        compute += seconds
    # each loop computes anew what it needs; a machine that knows no kernels gives lower bounds
    for cone in nests(profile, inside)[1:] if machine.kernel_rates else ():
        compute += sum(own[index] or 0.0 for index in cone if profile.is_of(index, FusionClass.ELEMENTWISE))
    packing = seconds_of_copies(profile, inside, machine, moves=moves)
    if machine.kernel_rates:
        compute += sum(own[index] or 0.0 for index in phases.computed_again)
        packing += seconds_of_broadcasts(profile, inside - phases.along_rows, machine)
    return (compute + packing, 0.0) if moves else (compute, packing)


def _further_steps(profile: Profile, nodes: Sequence[int]) -> int:
    """How many steps of a kernel come after its first: reductions, contractions and windows stand for one each."""
    return max(0, sum(profile.is_of(index, FusionClass.REDUCTION, *HEAVY) for index in nodes) - 1)


def _bytes_between_steps(profile: Profile, nodes: Sequence[int]) -> int:
    """Bytes that one step of a kernel leaves in memory for a later one, which reads them again.

    A contraction or a window has its computed operands in memory; what is computed from a contraction, or changes the
    order, is in memory before sums and lookups read it.
    """
    inside = set(nodes)
    if len(inside) < 2:
        return 0
    below = {index for index in inside if profile.is_of(index, FusionClass.CONTRACTION) or _turns(profile, index)}
    kept: set[str] = set()
    for index in sorted(inside):  # node order is topological
        made = {
            name: profile.graph.producers[name][0]
            for name in profile.graph.nodes[index].inputs
            if name in profile.graph.producers and profile.graph.producers[name][0] in inside
        }
        if profile.is_of(index, FusionClass.CONTRACTION, FusionClass.WINDOW):
            kept.update(made)
        elif profile.is_of(index, FusionClass.REDUCTION, FusionClass.LOOKUP):
            kept.update(name for name, producer in made.items() if producer in below)
        if below.intersection(made.values()):
            below.add(index)
    return sum(profile.bytes_of(name) or 0 for name in kept)


def _turns(profile: Profile, index: int) -> bool:
    """Whether a node changes the order for others than sums over all positions, which take the blocked layout."""
    if index not in profile.turns:
        return False
    users = {user for name in profile.graph.nodes[index].outputs for user, _ in profile.graph.consumers.get(name, ())}
    sums = [profile.sums(user) for user in users if profile.is_of(user, FusionClass.REDUCTION)]
    return not sums or not all(one is not None and one.down_columns for one in sums)


def _turned(profile: Profile, nodes: Sequence[int]) -> tuple[int, int]:
    """Bytes read and written by what brings results of contractions into another order: it comes after them.

    Operands that the contractions read themselves, and what stays in their order, count nothing.
    """
    inside = set(nodes)
    heavy = {index for index in inside if profile.is_of(index, *HEAVY)}
    in_order, turned = set(heavy), set[int]()
    for index in sorted(inside - heavy) if heavy else ():  # node order is topological
        made = {profile.graph.producers.get(name, (-1, 0))[0] for name in profile.graph.nodes[index].inputs}
        if made & turned or (made & in_order and index in profile.turns):
            turned.add(index)
        elif made & in_order:
            in_order.add(index)
    uses = (use for index in turned for use in profile.uses[index] if not use.constant and use.producer not in inside)
    results = (result for index in turned for result in profile.results[index] if result.leaves(inside))
    read = {use.name: min(use.read or 0, use.bytes or 0) for use in uses}
    return sum(read.values()), sum(result.bytes or 0 for result in results)


def _external_traffic(profile: Profile, nodes: Sequence[int]) -> tuple[int, int, dict[int, int]] | None:
    """Bytes that cross the border of a set of nodes: that are read, that are written, and constants by their reader."""
    inside = set(nodes)
    read = written = 0
    constants: dict[int, int] = {}
    entering: dict[str, int] = {}
    for index in inside:
        for result in profile.results[index]:
            if result.leaves(inside):
                if result.bytes is None:
                    return None
                written += result.bytes
        for use in profile.uses[index]:
            if use.producer in inside:
                continue
            if use.bytes is None or use.read is None:
                return None
            before = entering.get(use.name, 0)
            now = entering[use.name] = min(use.bytes, before + use.read)
            if not use.constant:
                read += now - before
            elif now > before:
                constants[index] = constants.get(index, 0) + now - before
    return read, written, constants
