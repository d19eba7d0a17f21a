"""Marginal order, and the best k of it: the best is taken, its nodes count as covered, the others are valued again."""

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Protocol, TypeVar

FIRST_SHARE = 0.1
"""What each of the best k is first expected to save at least: this share of a k-th of all gains."""

NEXT_SHARE = 0.9
"""What they are expected to save after that: this share of what the least of those found saves."""

MOST_ATTEMPTS = 3
"""Times that graphs are mined for the best k at most; the last time, for everything."""

SLACK = 1e-9
"""Rounding that bounds on savings allow for, as a share of them."""

Covered = Mapping[int, int]
"""For each graph, bits of nodes."""

Found = TypeVar("Found")


class Values(Protocol):
    """What patterns, by name, save while some nodes are covered."""

    def most(self, name: str, covered: Covered) -> float:
        """No less than what ``value`` says with this or anything more covered, and faster."""

    def value(self, name: str, covered: Covered) -> float:
        """What occurrences save that are disjoint and hold nothing covered."""

    def touched(self, name: str) -> Covered:
        """All nodes that occurrences may hold."""

    def take(self, name: str, covered: Covered) -> Covered:
        """The nodes of the occurrences that ``value`` counts."""


def marginal_order(names: Iterable[str], values: Values, k: int | None) -> list[str]:
    """Patterns that save anything, each beyond what those before it save; of equals, the first by name.

    Most patterns are never valued: what is left of the nodes that they hold is worth too little.

    Args:
        names: the patterns.
        values: what they save.
        k: how many at most; all when None.
    """
    known: dict[str, float] = {}
    covered: dict[int, int] = {}
    chosen: list[str] = []
    # The most promising first, with how many were chosen when their bound was found.
    waiting = [(-values.most(name, covered), name, 0) for name in names]
    heapify(waiting)
    while k is None or len(chosen) < k:
        greatest = max(known.values(), default=0.0)
        while waiting and -waiting[0][0] >= greatest and waiting[0][0] < 0:
            _, name, then = heappop(waiting)
            if then < len(chosen):
                heappush(waiting, (-values.most(name, covered), name, len(chosen)))
            else:
                known[name] = values.value(name, covered)
                greatest = max(greatest, known[name])
        if greatest <= 0:
            break
        best = min(name for name, value in known.items() if value == greatest)
        del known[best]
        chosen.append(best)
        fresh = values.take(best, covered)
        for graph, mask in fresh.items():
            covered[graph] = covered.get(graph, 0) | mask
        for name in known:
            held = values.touched(name)
            if any(held.get(graph, 0) & mask for graph, mask in fresh.items()):
                known[name] = values.value(name, covered)
    return chosen


def widened(k: int, gains: float, search: Callable[[float], Found], weakest: Callable[[Found], float]) -> Found:
    """What a search for the best k finds, with as high a threshold as may be.

    A search with a threshold finds all that saves as much. If k of what it finds save as much each, beyond those before
    it, nothing that it left out is among the best k.

    Args:
        k: how many are wanted.
        gains: no less than what everything together can save.
        search: searches with a threshold; with 0, for everything.
        weakest: what the least of the best k saves; 0 where there are not as many.
    """
    threshold = FIRST_SHARE * gains / k
    for _ in range(MOST_ATTEMPTS - 1):
        found = search(threshold)
        if weakest(found) >= threshold * (1 + SLACK):
            return found
        threshold = weakest(found) * NEXT_SHARE
    return search(0.0)
