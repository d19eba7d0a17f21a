"""Seconds of arithmetic: an operator's work at the machine's rates, as a node of its own and inside of a kernel."""

from collections.abc import Sequence

from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.operators.base import Cost, FusionClass
from graphopt.operators.executed import Executed
from graphopt.operators.pieces import counts
from graphopt.roofline.profile import Profile, Seconds, profile_of, rate_keys

OVERLAP = 3.0
"""Arithmetic a and traffic t together take (a^OVERLAP + t^OVERLAP)^(1/OVERLAP): the longer one where they are far
apart, up to a quarter more where they are alike, for then neither hides behind the other all the time (measured:
docs/roofline.md)."""

UNIT = "gemm_unit"
"""Key of the kernel rate of products by a matrix unit: machines whose kernels use one have it."""


def together(arithmetic: float, traffic: float) -> float:
    """Seconds that arithmetic and traffic take when they overlap as well as they do (see OVERLAP)."""
    longer, shorter = max(arithmetic, traffic), min(arithmetic, traffic)
    return longer * (1.0 + (shorter / longer) ** OVERLAP) ** (1.0 / OVERLAP) if longer else 0.0


def node_arithmetic(profile: Profile, index: int, machine: Machine) -> float | None:
    """Seconds of an operator's arithmetic as a node of its own; None when unknown."""
    cost = profile.costs[index]
    if cost is None:
        return None
    if _computes_nothing(profile, index, cost):
        return 0.0
    return seconds_at_rate(profile, index, cost, profile.keys(index), machine, fused=False)


def kernel_arithmetic(profile: Profile, machine: Machine) -> Seconds:
    """Seconds of arithmetic of every operator inside of a kernel; None when unknown.

    Layout operators are index maps: what they cost depends on what else the kernel does (``packing``).
    """
    found = profile.kernel_seconds.get(machine)
    if found is None:
        found = [_in_kernel(profile, index, machine) for index in range(len(profile.graph.nodes))]
        profile.kernel_seconds[machine] = found
    return found


def _in_kernel(profile: Profile, index: int, machine: Machine) -> float | None:
    cost = profile.costs[index]
    if cost is None:
        return None
    if _computes_nothing(profile, index, cost) or profile.is_of(index, FusionClass.LAYOUT):
        return 0.0
    if profile.is_of(index, FusionClass.LOOKUP) and profile.is_summed(index):
        return 0.0  # an embedding bag adds up rows where they lie
    keys, work = _kernel_keys(profile, index, machine)
    if work is None:
        return seconds_at_rate(profile, index, cost, keys, machine, fused=True)
    rate = next(machine.kernel_rates[key] for key in keys if key in machine.kernel_rates)
    return work.operations / rate.value + machine.seconds_of_counts(keys, work.counts, fused=True)


def _computes_nothing(profile: Profile, index: int, cost: Cost) -> bool:
    return profile.is_of(index, FusionClass.METADATA) or not (cost.flops or cost.bytes_written)


def _kernel_keys(profile: Profile, index: int, machine: Machine) -> tuple[list[str], Executed | None]:
    """Names that an operator's rate in a kernel may have; what is executed, where the machine has its rate."""
    work, cost, row = (
        profile.executed(index, unit=UNIT in machine.kernel_rates),
        profile.costs[index],
        profile.rows[index],
    )
    if work is not None and cost is not None and row is not None:
        keys = rate_keys(profile.graph.nodes[index].operator, cost, row, [work.regime] if work.regime else [])
        if any(key in machine.kernel_rates for key in keys):
            return keys, work
    return profile.keys(index), None


def seconds_at_rate(
    profile: Profile, index: int, cost: Cost, keys: Sequence[str], machine: Machine, *, fused: bool
) -> float:
    """Work and what else is counted, at the first rate that the machine knows."""
    rate = machine.kernel_rate(keys, profile.graph.nodes[index].operator) if fused else machine.rate(keys)
    if rate is None:
        seconds = cost.flops / machine.peak_of(profile.dtype(index))
    else:
        seconds = (cost.flops if rate.unit == "flop/s" else profile.results_of(index)) / rate.value
    return seconds + machine.seconds_of_counts(keys, profile.counted(index, counts), fused=fused)


def arithmetic_by_rate(capture: Capture, machine: Machine, *, fused: bool) -> dict[str, float]:
    """Seconds of arithmetic of all operators of a capture by the machine's rate that they are computed with.

    Args:
        capture: the graph with its shapes.
        machine: the hardware.
        fused: whether the operators are one kernel: then only rates of kernels count.

    Returns:
        Key of the machine's ``rates`` (or ``kernel_rates``) to seconds; operators without such a rate are left out.
    """
    profile = profile_of(capture)
    table = machine.kernel_rates if fused else machine.rates
    found: dict[str, float] = {}
    for index in range(len(capture.graph.nodes)):
        keys = _kernel_keys(profile, index, machine)[0] if fused else profile.keys(index)
        key = next((key for key in keys if key in table), None)
        seconds = kernel_arithmetic(profile, machine)[index] if fused else node_arithmetic(profile, index, machine)
        if key is not None and seconds:
            found[key] = found.get(key, 0.0) + seconds
    return found
