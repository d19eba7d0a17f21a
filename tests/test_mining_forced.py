"""What always comes along, by brute force: no closed pattern has an occurrence that holds the one without the other."""

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.mining.shard import Shard
from tests import brute_force
from tests.brute_force import Entry, Limits
from tests.random_dags import corpora, numbered, repeated
from tests.test_mining_exact import given_graphs


def images(shard: Shard) -> list[dict[bytes, set[tuple[int, frozenset[int]]]]]:
    """For each size, by the key of the pattern, all occurrences that are left."""
    found = []
    for size, patterns in enumerate(shard.patterns):
        own: dict[bytes, set[tuple[int, frozenset[int]]]] = {}
        for batch in shard.batches:
            level = batch.levels[size]
            for nodes, number, position in zip(level.nodes.tolist(), level.pattern, level.graph, strict=True):
                offset = int(batch.offsets[position])
                local = tuple(node - offset for node in nodes)
                mask = sum(1 << node for node in local)
                places = own.setdefault(patterns.keys[number].tobytes(), set())
                for image in batch.symmetries[position].images(mask, local):
                    places.add((int(batch.indices[position]), frozenset(image)))
        found.append(own)
    return found


def check(corpus: list[Entry], max_size: int) -> None:
    """Grow all levels without taking anything at once, and look at what could have been."""
    shard = Shard(list(enumerate(given_graphs(corpus))), 20_000)
    level = shard.start(0, max_size + 1)
    said = []
    for _ in range(max_size):
        judged = shard.grow(level.keys, paired=True)
        assert judged is not None
        pairs = judged.pairs
        inner = shard.patterns[-2]
        small = inner.keys[np.searchsorted(inner.ids, pairs.small)]
        said.append([(p.tobytes(), q.tobytes()) for p, q, a in zip(small, pairs.large, pairs.always, strict=True) if a])
        level = shard.tally()
    known = images(shard)
    closed = [place for one in brute_force.mine(corpus, 1, max_size, "closed") for place in one.places]
    for size, always in enumerate(said):
        for small_key, large_key in always:
            for graph, nodes in known[size][small_key]:
                larger = [whole for at, whole in known[size + 1][large_key] if at == graph and nodes < whole]
                assert len(larger) == 1
                assert all(larger[0] <= other for at, other in closed if at == graph and nodes <= other)


@settings(max_examples=150, deadline=None)
@given(corpora(8, 3), st.integers(1, 8))
def test_what_always_comes_along(corpus: list[Entry], max_size: int) -> None:
    check(corpus, max_size)


@settings(max_examples=150, deadline=None)
@given(st.lists(repeated(), min_size=1, max_size=2), st.integers(1, 8))
def test_what_always_comes_along_in_repeated_blocks(found: list[nx.MultiDiGraph], max_size: int) -> None:
    check([(graph, 1, Limits()) for graph in found], max_size)


def test_what_is_attached_to_one_of_several_equal_nodes() -> None:
    """``v`` always comes along with ``c`` and both ``x``, but with ``w`` it is at the same ``x`` or the other one."""
    corpus: list[Entry] = []
    for end in ("x1", "x2"):
        graph = nx.MultiDiGraph([("c", "x1"), ("c", "x2"), ("x1", "v"), (end, "w")])
        nx.set_node_attributes(graph, {node: node[0] for node in graph}, "label")
        corpus.append((numbered(graph), 1, Limits()))
    for max_size in range(1, 6):
        check(corpus, max_size)
