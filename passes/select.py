"""Choose disjoint occurrences with the greatest total saving that can all be contracted without making a cycle.

Occurrences that share operators conflict. Each connected component of the conflict graph is solved by itself: exactly
as an integer program while it is small, by greed and local improvement when it is large. Convex sets can still form a
cycle together (A feeds B and B feeds A through different operators), so the choice is contracted and checked; each
cycle found becomes a constraint, and the components that it touches are solved again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from graphopt.graph import OperatorGraph

LARGEST_EXACT = 300
"""Most occurrences in a component that is solved exactly."""

MOST_SECONDS = 10.0
"""Time limit for one integer program; the best choice found until then is used."""


@dataclass(frozen=True)
class Candidate:
    """An occurrence that could be fused.

    Attributes:
        nodes: its operators, ascending.
        saving: what fusing it saves, in any unit, the same for all candidates.
    """

    nodes: tuple[int, ...]
    saving: float


def select(graph: OperatorGraph, candidates: Sequence[Candidate], *, largest_exact: int = LARGEST_EXACT) -> list[int]:
    """Indices of the chosen candidates, ascending; only ones with a positive saving are chosen.

    Args:
        graph: the operator graph; each candidate is convex in it.
        candidates: what there is to choose from.
        largest_exact: components of more candidates are solved by greed and local improvement.
    """
    useful = [index for index, candidate in enumerate(candidates) if candidate.saving > 0]
    cuts: list[frozenset[int]] = []
    while True:
        chosen: list[int] = []
        for component in _components(candidates, useful, cuts):
            here = [cut for cut in cuts if cut & set(component)]
            solve = _exact if len(component) <= largest_exact else _greedy
            chosen += solve(candidates, component, here)
        cycle = find_cycle(graph, [candidates[index].nodes for index in chosen])
        if not cycle:
            return sorted(chosen)
        cuts.append(frozenset(chosen[position] for position in cycle))


def find_cycle(graph: OperatorGraph, sets: Sequence[Sequence[int]]) -> list[int]:
    """Positions of sets that lie on a cycle when every set is contracted to one operator; empty when there is none.

    Args:
        graph: the operator graph.
        sets: disjoint convex sets of nodes.

    Returns:
        Positions of the sets on one cycle, of few sets; any choice that contains all of them has that cycle.
    """
    owner = {index: position for position, nodes in enumerate(sets) for index in nodes}
    count = len(sets)
    place = [owner.get(index, count + index) for index in range(len(graph.nodes))]
    followers: dict[int, set[int]] = {}
    waiting: dict[int, int] = dict.fromkeys(place, 0)
    for producer, _, consumer, _ in graph.edges:
        a, b = place[producer], place[consumer]
        if a != b and b not in followers.setdefault(a, set()):
            followers[a].add(b)
            waiting[b] += 1
    ready = [vertex for vertex, feeders in waiting.items() if not feeders]
    while ready:
        vertex = ready.pop()
        del waiting[vertex]
        for follower in followers.get(vertex, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    best: list[int] = []
    stuck = sorted(vertex for vertex in waiting if vertex < count)
    for start in stuck[:64]:  # any cycle will do; a short one makes a strong constraint
        path = _shortest_cycle(start, followers, waiting)
        sets_on_path = [vertex for vertex in path if vertex < count]
        if sets_on_path and (not best or len(sets_on_path) < len(best)):
            best = sets_on_path
        if len(best) == 2:
            break
    return sorted(best)


def _shortest_cycle(start: int, followers: dict[int, set[int]], stuck: dict[int, int]) -> list[int]:
    before: dict[int, int] = {}
    layer = [start]
    while layer:
        following = []
        for vertex in layer:
            for follower in sorted(followers.get(vertex, ())):
                if follower == start:
                    path = [vertex]
                    while path[-1] != start:
                        path.append(before[path[-1]])
                    return path
                if follower in stuck and follower not in before:
                    before[follower] = vertex
                    following.append(follower)
        layer = following
    return []


def _components(
    candidates: Sequence[Candidate], useful: Sequence[int], cuts: Sequence[frozenset[int]]
) -> list[list[int]]:
    parent = {index: index for index in useful}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    holder: dict[int, int] = {}
    for index in useful:
        for node in candidates[index].nodes:
            parent[root(index)] = root(holder.setdefault(node, index))
    for cut in cuts:
        members = sorted(cut)
        for index in members[1:]:
            parent[root(index)] = root(members[0])
    groups: dict[int, list[int]] = {}
    for index in useful:
        groups.setdefault(root(index), []).append(index)
    return [groups[key] for key in sorted(groups, key=lambda k: groups[k][0])]


def _exact(candidates: Sequence[Candidate], component: Sequence[int], cuts: Sequence[frozenset[int]]) -> list[int]:
    """The best choice in a component, by integer programming."""
    if len(component) == 1:
        return list(component)
    column = {index: position for position, index in enumerate(component)}
    rows: list[tuple[list[int], int]] = []
    users: dict[int, list[int]] = {}
    for index in component:
        for node in candidates[index].nodes:
            users.setdefault(node, []).append(column[index])
    rows += [(list(row), 1) for row in sorted({tuple(sorted(row)) for row in users.values() if len(row) > 1})]
    rows += [([column[index] for index in sorted(cut)], len(cut) - 1) for cut in cuts]
    savings = np.array([candidates[index].saving for index in component])
    scale = savings.max()
    constraints = []
    if rows:
        at = [(r, c) for r, (columns, _) in enumerate(rows) for c in columns]
        matrix = csr_array(
            (np.ones(len(at)), ([r for r, _ in at], [c for _, c in at])), shape=(len(rows), len(component))
        )
        constraints.append(LinearConstraint(matrix, ub=np.array([limit for _, limit in rows])))
    result = milp(
        -savings / scale,
        constraints=constraints,
        integrality=np.ones(len(component), np.int64),
        bounds=Bounds(0, 1),
        options={"time_limit": MOST_SECONDS, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        return _greedy(candidates, component, cuts)
    return [index for index in component if result.x[column[index]] > 0.5]


def _greedy(candidates: Sequence[Candidate], component: Sequence[int], cuts: Sequence[frozenset[int]]) -> list[int]:
    """A good choice in a large component: the best first, then swaps that gain until there are none."""
    users: dict[int, list[int]] = {}
    for index in component:
        for node in candidates[index].nodes:
            users.setdefault(node, []).append(index)
    chosen: set[int] = set()
    taken: dict[int, int] = {}

    def rivals(index: int) -> set[int]:
        return {taken[node] for node in candidates[index].nodes if node in taken}

    def forbidden(index: int, without: set[int]) -> bool:
        return any(index in cut and cut - {index} <= chosen - without for cut in cuts)

    def put(index: int) -> None:
        chosen.add(index)
        taken.update(dict.fromkeys(candidates[index].nodes, index))

    def drop(index: int) -> None:
        chosen.discard(index)
        for node in candidates[index].nodes:
            del taken[node]

    order = sorted(component, key=lambda i: (-candidates[i].saving, len(candidates[i].nodes), i))
    for index in order:
        if not rivals(index) and not forbidden(index, set()):
            put(index)
    for _ in range(10):
        improved = False
        for index in order:
            if index in chosen:
                continue
            # Out with what is in the way, in with this one and with whatever else fits into the gap.
            out = rivals(index)
            if forbidden(index, out):
                continue
            before = sum(candidates[i].saving for i in out)
            for rival in out:
                drop(rival)
            put(index)
            gap = {other for rival in out for node in candidates[rival].nodes for other in users[node]}
            into = [index]
            for other in sorted(gap, key=lambda i: (-candidates[i].saving, i)):
                if other not in chosen and not rivals(other) and not forbidden(other, set()):
                    put(other)
                    into.append(other)
            if sum(candidates[i].saving for i in into) > before * (1 + 1e-12):
                improved = True
                continue
            for other in into:
                drop(other)
            for rival in out:
                put(rival)
        if not improved:
            break
    return sorted(chosen)
