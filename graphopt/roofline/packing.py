"""Packing: what a kernel brings into order before it computes, and computes anew for results in other orders."""

from math import inf, prod

from graphopt.graph import Shape
from graphopt.machine import Machine
from graphopt.operators.base import FusionClass
from graphopt.operators.pieces import spans
from graphopt.operators.products import LANES
from graphopt.roofline.arithmetic import seconds_at_rate
from graphopt.roofline.orders import Turn, blocked, composed
from graphopt.roofline.profile import SPECIAL, Profile

BROADCAST = "broadcast"
"""Key of the kernel rate at which operands that repeat are copied out, in elements of the result."""

MOVED = "moved"
"""Special case of kernels that compute nothing: what they move goes straight to its place."""

ENDS = (FusionClass.REDUCTION, FusionClass.CONTRACTION, FusionClass.WINDOW, FusionClass.SEQUENTIAL)
"""Operators whose results do not stand where their operands stood."""


def kernel_keys(profile: Profile, index: int, *, moves: bool) -> list[str]:
    """Names that an operator's rate in a kernel may have.

    Args:
        profile: of the capture.
        index: which node.
        moves: whether the kernel only moves.
    """
    keys = profile.keys(index)
    return [*(f"{key}{SPECIAL}{MOVED}" for key in keys), *keys] if moves else keys


def seconds_of_copies(profile: Profile, inside: set[int], machine: Machine, *, moves: bool) -> float:
    """Seconds that a kernel needs for operands that do not lie in the order in which it writes.

    On the way from a result back to an operand, layout operators become one index map: the slowest of them counts,
    for as many elements as the smallest tensor on the way has. Transposes and reorders compose; where they cancel
    (an operand in the blocked layout whose result is in the blocked layout again), they are free.
    """
    copied = {index: each for index in inside if (each := _seconds_of_copy(profile, index, machine, moves=moves))}
    if not copied:
        return 0.0
    seconds = 0.0
    todo: list[tuple[str, tuple[Turn, ...], float, float]] = [
        (result.name, (), profile.elements(result.name), 0.0)
        for index in sorted(inside)
        for result in profile.results[index]
        if result.leaves(inside)
    ]
    seen: set[tuple[str, tuple[Turn, ...]]] = set()
    while todo:
        name, turns, least, slowest = todo.pop()
        if (name, turns) in seen:
            continue
        seen.add((name, turns))
        least = min(least, profile.elements(name))
        index = profile.graph.producers.get(name, (-1, 0))[0]
        if index in inside:
            if profile.is_of(index, *ENDS):  # what was computed lies in memory, and the way begins anew
                seconds += least * max([slowest, *(copied.get(number, 0.0) for _, _, number in turns)])
                node, sums = profile.graph.nodes[index], profile.sums(index)
                # sums over all positions of an image take the blocked layout as it lies
                free = (blocked(index),) if sums is not None and sums.down_columns else ()
                todo += [(operand, free, inf, 0.0) for operand in node.inputs if operand]
                continue
            turn = profile.turns.get(index)
            after = turns if turn is None else composed(turns, turn)
            slowest = max(slowest, copied.get(index, 0.0) if turn is None else 0.0)
            todo += [(operand, after, least, slowest) for operand in profile.graph.nodes[index].inputs if operand]
        else:
            seconds += least * max([slowest, *(copied.get(number, 0.0) for _, _, number in turns)])
    return seconds


def _seconds_of_copy(profile: Profile, index: int, machine: Machine, *, moves: bool) -> float:
    """Seconds for each element that a layout operator moves inside of a kernel; 0 where that costs nothing."""
    row, cost = profile.rows[index], profile.costs[index]
    if row is None or row.fusion_class is not FusionClass.LAYOUT or cost is None or not cost.bytes_written:
        return 0.0
    keys = kernel_keys(profile, index, moves=moves)
    elements = profile.results_of(index)
    if not elements or not any(key in machine.kernel_rates for key in keys):
        return 0.0
    return seconds_at_rate(profile, index, cost, keys, machine, fused=True) / elements


def seconds_of_broadcasts(profile: Profile, inside: set[int], machine: Machine) -> float:
    """Seconds that a kernel needs to copy out operands that repeat along a result; single values are free."""
    if BROADCAST not in machine.kernel_rates:
        return 0.0
    done: set[tuple[str, tuple[int, ...]]] = set()
    seconds = 0.0
    for index in inside:
        row, node = profile.rows[index], profile.graph.nodes[index]
        result = profile.shape(node.outputs[0]) if node.outputs else None
        if row is None or row.fusion_class is not FusionClass.ELEMENTWISE or not result:
            continue
        for name in dict.fromkeys(node.inputs):
            shape = profile.shape(name)
            if shape is None or not 1 < prod(shape) < prod(result) or (name, result) in done:
                continue
            done.add((name, result))
            seconds += prod(result) / machine.kernel_rates[BROADCAST].value
            seconds += machine.seconds_of_counts([BROADCAST], repeats(result, shape), fused=True)
    return seconds


def repeats(result: Shape, operand: Shape) -> dict[str, int]:
    """What a kernel works through besides elements to copy out an operand that repeats along a result.

    Returns:
        Stretches; ``ragged``: those that end in the middle of a vector.
    """
    pieces = spans(result, [result, operand])
    return {"": pieces, "ragged": pieces if prod(result) // max(1, pieces) % LANES else 0}


def nests(profile: Profile, inside: set[int]) -> list[set[int]]:
    """What each loop over results computes, the one that computes most first.

    Results of one shape that walk their operands in the same order are computed together. A loop begins at what is
    in memory: operands, and results of sums.
    """
    leaving = [result.name for index in sorted(inside) for result in profile.results[index] if result.leaves(inside)]
    found: dict[tuple[object, ...], set[int]] = {}
    for name in leaving if len(leaving) > 1 else ():
        paths, cone = _paths(profile, name, inside)
        found.setdefault((profile.shape(name), paths), set()).update(cone)
    return sorted(found.values(), key=len, reverse=True)


def _paths(profile: Profile, result: str, inside: set[int]) -> tuple[frozenset[object], set[int]]:
    """The changes of order on the ways from a result to what is in memory, and the nodes on these ways."""
    paths: dict[str, set[tuple[str, ...]]] = {}
    cone: set[int] = set()
    todo: list[tuple[str, tuple[str, ...]]] = [(result, ())]
    seen = set(todo)
    while todo:
        name, path = todo.pop()
        index = profile.graph.producers.get(name, (-1, 0))[0]
        if index not in inside or profile.is_of(index, *ENDS):
            paths.setdefault(name, set()).add(path)
            continue
        cone.add(index)
        op_type, cost = profile.graph.nodes[index].op_type, profile.costs[index]
        after = path
        if profile.is_of(index, FusionClass.LAYOUT) and cost is not None and cost.bytes_written:
            step = op_type if op_type in ("ReorderInput", "ReorderOutput") else "view"
            if path[-1:] == ("ReorderInput",) and step == "ReorderOutput":
                after = path[:-1]
            elif path[-1:] != (step,):
                after = (*path, step)
        for operand in profile.graph.nodes[index].inputs:
            if operand and (operand, after) not in seen:
                seen.add((operand, after))
                todo.append((operand, after))
    return frozenset(frozenset(own) for own in paths.values()), cone
