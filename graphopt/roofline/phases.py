"""Phases of a kernel: what runs when, what later phases read or compute again, and what works row by row.

A kernel takes reductions of rows and what goes along with them in one pass. What reads results of contractions,
windows, recurrent layers or sums down columns begins when these have ended: its phase is a later one, in which operands
are read again, and element-wise work on the way from them is done again, unless a contraction had the values put into
memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.operators.base import FusionClass
from graphopt.roofline.profile import Profile

HEAVY = (FusionClass.CONTRACTION, FusionClass.WINDOW, FusionClass.SEQUENTIAL)
"""Operators that are steps of their own, behind which others begin when they have ended."""


@dataclass(frozen=True, slots=True)
class Phases:
    """What the phases of a kernel have to do with each other.

    Attributes:
        read_again: bytes of operands that phases after the first one read again.
        computed_again: nodes whose work is done again, once for each further phase.
        along_rows: nodes that a pass over rows computes: what repeats there stays in registers.
    """

    read_again: int
    computed_again: tuple[int, ...]
    along_rows: frozenset[int]


ONE = Phases(0, (), frozenset())
"""Of a kernel in which nothing waits for anything."""


def phases_of(profile: Profile, inside: set[int]) -> Phases:
    """The phases of a set of nodes as one kernel."""
    heads = [index for index in inside if profile.is_of(index, FusionClass.REDUCTION, *HEAVY)]
    if not heads:
        return ONE
    begins: dict[int, int] = {}
    for index in sorted(inside):  # node order is topological
        made = (profile.graph.producers.get(name, (-1, 0))[0] for name in profile.graph.nodes[index].inputs)
        begins[index] = max((begins[p] + _ends_phase(profile, p) for p in made if p in begins), default=0)
    stored = {
        name: begins[index]
        for index in sorted(heads, reverse=True)
        if profile.is_of(index, *HEAVY)
        for name in profile.graph.nodes[index].inputs
    }
    read: dict[str, set[int]] = {}
    computed: dict[int, set[int]] = {}

    def walk(names: Iterable[str], phase: int) -> None:
        todo = [name for name in names if name]
        while todo:
            name = todo.pop()
            index = profile.graph.producers.get(name, (-1, 0))[0]
            if index not in inside:
                read.setdefault(name, set()).add(phase)
            elif not profile.is_of(index, FusionClass.REDUCTION, *HEAVY) and stored.get(name, phase) >= phase:
                before = computed.setdefault(index, set())
                if phase not in before:
                    before.add(phase)
                    todo += [operand for operand in profile.graph.nodes[index].inputs if operand]

    for index in heads:
        walk(profile.graph.nodes[index].inputs, begins[index])
    for index in inside.difference(heads):
        leaving = [result.name for result in profile.results[index] if result.leaves(inside)]
        walk(leaving, begins[index])
    rows = {begins[index] for index in heads if _along_rows(profile, index)}
    return Phases(
        sum(
            (len(when) - 1) * (profile.bytes_of(name) or 0)
            for name, when in read.items()
            if not _constant(profile, name)
        ),
        tuple(index for index, when in sorted(computed.items()) for _ in range(len(when) - 1)),
        frozenset(index for index, when in computed.items() if when & rows),
    )


def _ends_phase(profile: Profile, index: int) -> bool:
    """Whether what reads a result has to wait until all of it is there."""
    return profile.is_of(index, *HEAVY) or (
        profile.is_of(index, FusionClass.REDUCTION) and not _along_rows(profile, index)
    )


def _along_rows(profile: Profile, index: int) -> bool:
    """Whether a node is a reduction of rows, or of whole tensors."""
    found = profile.sums(index)
    return profile.is_of(index, FusionClass.REDUCTION) and (found is None or not found.down_columns)


def _constant(profile: Profile, name: str) -> bool:
    tensor = profile.graph.tensors.get(name)
    return tensor is not None and tensor.constant
