"""Mining: every frequent, connected, convex pattern of a set of weighted graphs, or only the closed ones."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.mining.closedness import Judged, agreed
from graphopt.mining.engine import Engine
from graphopt.mining.engines import open_engine
from graphopt.mining.graphs import MiningGraph, Weighted, from_any, merged
from graphopt.mining.marginal import widened
from graphopt.mining.pattern import Corpus, Pattern
from graphopt.mining.refinement import Flags
from graphopt.mining.saving import Gain, Saving, Savings, label_gains, whole
from graphopt.mining.shard import Code
from graphopt.mining.tallies import Tallies, combined, joined_up, located

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[int, int, int], None]
"""Called after each level with its size, its number of frequent patterns, and their occurrences."""

DEFAULT_BUDGET = 20_000
"""Representative occurrences that one graph may have on one level before the miner gives up on it."""

LEAST_DEPTH = 10
"""Greatest size from which on it pays to look for what always comes along; what is closed is the same."""


@dataclass(frozen=True)
class MiningResult:
    """Patterns in order of size and digest; the best k in marginal order.

    Attributes:
        patterns: what was found.
        graphs: number of graphs given; ``distinct`` of them differ.
        distinct: number of distinct graphs.
        weight: sum of all weights.
        min_support: the threshold that was applied, as a weight.
        index: for each graph given, the index of its distinct graph, as places of patterns name it.
        larger: number of patterns of max_size nodes that were left out because larger ones have the same occurrences:
            where it is not 0, a greater size finds more, and ``clipped`` what there is of these up to max_size.
        visited: number of frequent patterns that were grown or could have been, closed or not; where graphs were mined
            several times for the best k, of all times.
        truncated: graphs (by position among those given) that exceeded the work budget, with the size from which on
            occurrences of theirs are missing.
        unjudged: number of patterns that may give way to larger ones or not, because these would occur in graphs that
            exceeded the work budget: left out, or, with ``clipped``, listed without being called closed.
    """

    patterns: tuple[Pattern, ...]
    graphs: int
    distinct: int
    weight: int
    min_support: int
    index: tuple[int, ...] = ()
    larger: int = 0
    visited: int = 0
    truncated: tuple[tuple[int, int], ...] = ()
    unjudged: int = 0

    @property
    def incomplete(self) -> bool:
        """Whether the work budget cut something off: supports and counts are then lower bounds."""
        return bool(self.truncated)

    def __iter__(self) -> Iterator[Pattern]:
        return iter(self.patterns)

    def __len__(self) -> int:
        return len(self.patterns)

    def __getitem__(self, digest: str) -> Pattern:
        """The pattern with this digest, or with the only digest that starts so."""
        matches = [pattern for pattern in self.patterns if pattern.digest.startswith(digest)]
        if len(matches) != 1:
            raise KeyError(digest)
        return matches[0]


def mine(
    graphs: Iterable[Weighted | MiningGraph],
    *,
    min_support: int | float | Fraction = 1,
    max_size: int = 8,
    min_size: int = 1,
    closed: bool = True,
    clipped: bool = False,
    k: int | None = None,
    saving: Saving | None = None,
    gain: Gain | None = None,
    engine: str = "processes",
    jobs: int | None = None,
    scheduler: "str | Client | None" = None,
    budget: int = DEFAULT_BUDGET,
    group: Callable[[Sequence[Code]], Mapping[str, Hashable]] | None = None,
    least_saving: float = 0.0,
    progress: Progress | None = None,
) -> MiningResult:
    """Find every frequent pattern.

    A *pattern* is a connected labelled DAG up to isomorphism: node labels, and for each edge the index of the result
    and the slot of the operand, with parallel edges. An *occurrence* is a set of nodes of a graph that induces the
    pattern and is convex: no path leaves it and comes back. The *support* of a pattern is the sum of the weights of
    the graphs with at least one occurrence.

    A pattern is *closed* when no pattern of one node more has the same occurrences: when there is none such that each
    occurrence of either lies in, or holds, exactly one of the other, and such that occurrences which are disjoint stay
    disjoint. Whoever can fuse a set of disjoint occurrences of a pattern that is not closed can fuse as many of the
    larger one instead. Of a long chain of operators that stands in one place, only the whole is closed: where that has
    more than ``max_size`` nodes, nothing is found unless ``clipped`` asks for it, and ``larger`` of the result says so.

    Graphs written alike count as one with the sum of their weights: weight *w* equals *w* copies. The result is the
    same for any order of graphs or nodes, any engine and any number of jobs.

    Args:
        graphs: operator graphs, captures, networkx DiGraphs or MultiDiGraphs (``label`` on nodes; ``slot`` and
            ``output`` on edges, 0 by default), or pairs of one of those and a weight (a whole number, of any size).
        min_support: least support, as a weight (whole number) or as a fraction of all weight (between 0 and 1, rounded
            up).
        max_size: most nodes of a pattern.
        min_size: fewest nodes of a pattern that is returned.
        closed: whether only closed patterns are returned.
        clipped: whether patterns of ``max_size`` nodes are returned where they are not closed, too: all that there is
            of what is larger; and, for the same reason, patterns of which the work budget leaves open whether they are.
            Always so for ``k`` and ``group``.
        k: return only the k patterns that save most, in marginal order: the best, then the best of what its occurrences
            leave over, and so on; of equals, the first by digest. A pattern saves ``saving`` for each execution of each
            of its disjoint occurrences (see Pattern.disjoint_in) that holds no node of a better pattern's. Those that
            save nothing are left out. Growth is bounded by the most that can still be saved (see bounds.py).
        saving: for ``k``: what one execution of one occurrence of a pattern saves, no more than the gains of its nodes
            together; their gains but the greatest, when None.
        gain: for ``k``: the most that a node with this label can add to that; 1 for all, when None, so that a pattern
            of n nodes saves n - 1.
        engine: ``processes``, ``serial`` or ``dask``.
        jobs: number of worker processes on this machine; all processors when None.
        scheduler: for ``dask``: the address of a scheduler, or a client, all of whose workers are used; worker
            processes on this machine when None.
        budget: most (representative) occurrences of one graph and size; see MiningResult.truncated.
        group: called once with all frequent patterns; returns a group for each digest. A pattern then only gives way to
            larger ones of its own group.
        least_saving: leave out what can neither save so much nor be part of anything that does, by the gains of the
            graphs' nodes (see bounds.py). Whatever saves so much is found, and whether it is closed.
        progress: called after each level.

    Returns:
        the patterns, and whether the work budget cut something off.

    Raises:
        GraphoptError: a graph cannot be mined, or an argument makes no sense.

    Example:
        Two graphs with ``a → b`` in common, one of them executed three times:

        >>> import networkx as nx
        >>> first, second = nx.DiGraph(), nx.DiGraph()
        >>> first.add_nodes_from([(0, {"label": "a"}), (1, {"label": "b"}), (2, {"label": "c"})])
        >>> first.add_edges_from([(0, 1), (1, 2)])
        >>> second.add_nodes_from([("x", {"label": "a"}), ("y", {"label": "b"})])
        >>> second.add_edge("x", "y", slot=0)
        >>> for pattern in mine([(first, 1), (second, 3)], min_support=4, engine="serial"):
        ...     print(pattern.labels, pattern.edges, pattern.support, pattern.occurrences)
        ('a', 'b') ((0, 0, 1, 0),) 4 4
    """
    items = list(graphs)  # which keeps them alive, as what is known by identity must be
    known: dict[int, MiningGraph] = {}
    given = tuple(from_any(item, known) for item in items)
    if max_size < 1 or min_size < 1:
        raise GraphoptError("patterns have at least one node: max_size and min_size must be 1 or more")
    if k is not None and k < 1:
        raise GraphoptError("k must be 1 or more")
    distinct, index = merged(given)
    weight = sum(graph.weight for graph in given)
    threshold = absolute_support(min_support, weight)
    if not distinct:
        return MiningResult((), len(given), 0, 0, threshold)

    def mined(graphs: Sequence[MiningGraph], least: float) -> MiningResult:
        corpus = Corpus(given, tuple(graphs), tuple(index))
        with open_engine(engine, graphs, jobs=jobs, budget=budget, scheduler=scheduler) as running:
            asked = _Asked(threshold, min_size, max_size, closed, clipped or k is not None or group is not None)
            return _mined(running, corpus, asked, group, least, progress)

    if k is None:
        return mined(distinct, least_saving)
    own_gain = gain or (lambda _: 1)

    def gains_but_the_greatest(pattern: Pattern) -> float:
        gains = sorted(map(own_gain, pattern.labels))
        return sum(gains[:-1])

    gains, unit = whole(label_gains(distinct, own_gain))
    distinct = [replace(graph, gains=row) for graph, row in zip(distinct, gains, strict=True)]
    visited = 0

    def search(least: float) -> tuple[MiningResult, float]:
        nonlocal visited
        found = mined(distinct, least)
        visited += found.visited
        savings = Savings(found.patterns, distinct, saving or gains_but_the_greatest)
        best = savings.best(k)
        return replace(found, patterns=tuple(best)), savings.last / unit if len(best) == k else 0.0

    found, _ = widened(k, sum(map(sum, gains)), search, lambda found: found[1])
    return replace(found, visited=visited)


class _Asked(NamedTuple):
    """What is mined; see mine."""

    threshold: int
    min_size: int
    max_size: int
    closed: bool
    clipped: bool


def _mined(
    running: Engine,
    corpus: Corpus,
    asked: _Asked,
    group: Callable[[Sequence[Code]], Mapping[str, Hashable]] | None,
    least_saving: float,
    progress: Progress | None,
) -> MiningResult:
    """What an engine finds in its graphs, those of the corpus; see mine."""
    levels: list[Tallies] = []
    verdicts: list[Judged] = []
    known = 0
    at_once = asked.closed and not asked.clipped and asked.max_size >= LEAST_DEPTH
    reach = asked.max_size + 1 if at_once else 0
    level = combined(running.call("start", asked.max_size if least_saving else 0, reach))
    while True:
        promising = (level.support >= asked.threshold).astype(np.bool_) & (level.bound >= least_saving)
        frequent = level.of(promising)
        levels.append(frequent)
        last = len(levels) == asked.max_size
        if progress is not None:
            progress(len(levels), len(frequent.keys), int(frequent.occurrences.sum()))
        if not len(frequent.keys) or (last and (asked.clipped or not asked.closed)):
            running.call("keep", frequent.keys)
            break
        answers = running.call("grow", frequent.keys, asked.closed)
        judged = agreed(answers, frequent.shards, known) if asked.closed else None
        known += len(frequent.keys)
        if judged is not None:
            verdicts.append(judged)
        if last:
            break
        level = combined(running.call("tally", *(judged.pairs.forced() if judged is not None else ())))
    running.call("end", len(levels))
    tallies = joined_up(levels)
    sizes = np.repeat(np.arange(1, len(levels) + 1), [len(frequent.keys) for frequent in levels])
    wanted = sizes >= asked.min_size
    closed = giving_way = unjudged = np.zeros(len(wanted), dtype=np.bool_)
    codes: list[Code] = []
    if group is not None:
        every = np.arange(len(tallies.keys))
        codes = sorted(itertools.chain(*running.call("describe", every, tallies.first)), key=lambda code: code.id)
    if asked.closed:
        groups = None if group is None else group(codes)
        named = None if groups is None else [groups[code.digest] for code in codes]
        giving_way, unjudged = _standing(levels, verdicts, named)
        closed = ~(giving_way | unjudged)
        wanted &= ~giving_way if asked.clipped else closed
    ids = np.flatnonzero(wanted)
    if group is None:
        codes = list(itertools.chain(*running.call("describe", ids, tallies.first[ids])))
    else:
        codes = [code for code in codes if wanted[code.id]]
    codes.sort(key=lambda code: (len(code.labels), code.digest))
    found = {
        size: tuple(running.call("hand_over", size, ids[sizes[ids] == size])) for size in range(len(levels), 0, -1)
    }
    cut: dict[int, int] = {}
    for truncated in running.call("truncated"):
        cut.update(truncated)
    support, occurrences = tallies.support.tolist(), tallies.occurrences.tolist()
    patterns = tuple(
        Pattern(
            digest=code.digest,
            labels=code.labels,
            edges=code.edges,
            support=support[code.id],
            occurrences=occurrences[code.id],
            closed=True if closed[code.id] else None,
            _corpus=corpus,
            _found=found[len(code.labels)],
            _id=code.id,
        )
        for code in codes
    )
    return MiningResult(
        patterns=patterns,
        graphs=len(corpus.given),
        distinct=len(corpus.distinct),
        weight=sum(graph.weight for graph in corpus.given),
        min_support=asked.threshold,
        index=corpus.index,
        visited=len(tallies.keys),
        larger=int((giving_way & (sizes == asked.max_size)).sum()),
        unjudged=int((unjudged & (sizes >= asked.min_size) & (sizes <= len(verdicts))).sum()),
        truncated=tuple((position, cut[graph]) for position, graph in enumerate(corpus.index) if graph in cut),
    )


def absolute_support(min_support: int | float | Fraction, weight: int) -> int:
    """The least support as a weight: a whole number as it is, a fraction of all weight rounded up; at least 1.

    Raises:
        GraphoptError: it is neither.
    """
    if isinstance(min_support, bool) or min_support < 0:
        raise GraphoptError(f"the least support must be a whole number or a fraction below 1, not {min_support!r}")
    if isinstance(min_support, int):
        return max(min_support, 1)
    if min_support > 1:
        raise GraphoptError(f"the least support must be a whole number or a fraction below 1, not {min_support!r}")
    # 0.01 means one in a hundred, not the binary fraction that is closest to it.
    fraction = Fraction(repr(min_support)) if isinstance(min_support, float) else min_support
    return max(ceil(fraction * weight), 1)


def _standing(
    levels: Sequence[Tallies], verdicts: Sequence[Judged], groups: Sequence[Hashable] | None
) -> tuple[Flags, Flags]:
    """Which patterns, by id, give way to one, or one of their group; and of which nobody knows whether they do.

    Args:
        levels: the patterns of each size.
        verdicts: for each size, which of them give way to which of one node more; none where that was not asked.
        groups: for each id the pattern's group; None where all are of one.
    """
    starts = np.cumsum([0, *(len(level.keys) for level in levels)])
    giving_way = np.zeros(int(starts[-1]), dtype=np.bool_)
    unjudged = np.zeros(len(giving_way), dtype=np.bool_)
    numbers: dict[Hashable, int] = {}
    group = None if groups is None else np.array([numbers.setdefault(one, len(numbers)) for one in groups])
    for size, (pairs, cut, only) in enumerate(verdicts, start=1):
        small = pairs.small
        if group is not None:
            at = located(pairs.large, levels[size].keys)
            small = small[(at >= 0) & (group[small] == group[starts[size] + at])]
        giving_way[small] = True
        unjudged[cut] = giving_way[cut]
        unjudged[only] = True
        giving_way[cut] = False
    unjudged[starts[len(verdicts)] :] = True
    return giving_way, unjudged
