"""What an engine is: it holds shards, wherever they live, and calls one method on all of them at a time.

Shards keep their occurrences to themselves; what travels is, for each level, a tally per pattern. Graphs are dealt out
by size, and every result is put in order by digest, so the outcome does not depend on how many shards there are.
"""

from types import TracebackType
from typing import Any, Protocol, Self

from graphopt.mining.graphs import MiningGraph
from graphopt.mining.shard import Shard

Numbered = list[tuple[int, MiningGraph]]
"""Graphs with their indices among all graphs."""


class Engine(Protocol):
    """Calls a method of every shard."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Results of ``Shard.method(*arguments)``, one per shard."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def answer(shard: Shard, method: str, arguments: tuple[Any, ...]) -> Any:
    """What one shard says: the result of a method, or an attribute."""
    found = getattr(shard, method)
    return found(*arguments) if callable(found) else found


def dealt(graphs: Numbered, shards: int) -> list[Numbered]:
    """Graphs dealt out to shards: the largest first, each to the shard that has the fewest nodes so far."""
    hands: list[Numbered] = [[] for _ in range(shards)]
    loads = [0] * shards
    for index, graph in sorted(graphs, key=lambda pair: (-pair[1].eligible_nodes.bit_count(), pair[0])):
        shard = loads.index(min(loads))
        hands[shard].append((index, graph))
        loads[shard] += graph.eligible_nodes.bit_count() + 1
    return [sorted(hand, key=lambda pair: pair[0]) for hand in hands]
