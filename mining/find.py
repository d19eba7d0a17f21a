"""The whole of ``graphopt mine``: from captures and a machine to a report of opportunities."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import fsum

from graphopt import operators
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, OperatorGraph
from graphopt.machine import Machine
from graphopt.mining.folding import folded, with_bodies
from graphopt.mining.graphs import MiningGraph, from_operator_graph, merged
from graphopt.mining.marginal import widened
from graphopt.mining.miner import DEFAULT_BUDGET, MiningResult, Progress, absolute_support, mine
from graphopt.mining.opportunities import ClassShare, Report, Stopped
from graphopt.mining.opportunity import Opportunity
from graphopt.mining.pattern import Pattern
from graphopt.mining.ranking import Ranking
from graphopt.mining.rules import OPERATOR_RULES, Rule, stopped_operator, stopped_pattern
from graphopt.mining.saving import whole
from graphopt.mining.shard import Code
from graphopt.operators import FusionClass

Refusal = Callable[[OperatorGraph, Sequence[int]], str | None]
"""(graph, nodes of an occurrence) to the reason why its pattern is not wanted; None when it is."""

NODES_FOR_PROCESSES = 10_000
"""Operators that patterns may hold, in all graphs, below which starting worker processes costs more than it saves."""

NEVER_IN_PATTERNS = frozenset({"unknown-operator", "control-flow", "unknown-type", "metadata"})
"""Rules whose operators take no part even in patterns that are only listed as ruled out: nothing is known of their
cost."""


def find_opportunities(
    captures: Sequence[Capture],
    machine: Machine,
    *,
    k: int | None = 10,
    min_support: int | float | Fraction = 1,
    max_size: int = 8,
    jobs: int | None = None,
    ruled_out: bool = False,
    refuse: Refusal | None = None,
    engine: str | None = None,
    scheduler: str | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Report:
    """Mine captures, apply the fusion rules, and rank what is left by marginal saving.

    Patterns that are not closed are left out: a pattern gives way to a larger one that the rules allow, that has the
    same occurrences, and that holds operators of the same fusion classes besides element-wise and layout ones (an
    element- wise pattern never gives way to one that needs a contraction kernel).

    Each body of an If, Loop or Scan that ran (see ``Capture.bodies``) is a graph of its own, which was executed as
    often as the graph around it times its trips. Of a control-flow operator itself, the price of its node is left.

    Args:
        captures: what was executed.
        machine: the roofline.
        k: how many opportunities at most; all that save time when None.
        min_support: least executions, or a fraction of the executions of all captures.
        max_size: most operators of a pattern.
        jobs: worker processes; all processors when None.
        ruled_out: also list patterns that a rule stops, with what they would be worth.
        refuse: a further reason to leave patterns out, such as that no kernel can be generated; asked for the patterns
            that the rules allow, with one occurrence each. It must depend on the pattern only.
        engine: see mine; worker processes where they pay, when None.
        scheduler: see mine.
        budget: see mine.
        progress: called after each level with its size, its patterns and their occurrences.

    Returns:
        The report. Opportunities that save nothing are not in it.

    Raises:
        GraphoptError: there are no captures, or an argument makes no sense.
    """
    if not captures:
        raise GraphoptError("nothing to mine: no captures")
    if max_size < 2:
        raise GraphoptError("an opportunity has at least two operators: max_size must be 2 or more")
    if k is not None and k < 1:
        raise GraphoptError("k must be 1 or more")
    given, executions = len(captures), sum(capture.executions for capture in captures)
    least_support = absolute_support(min_support, executions)
    observed = with_bodies(folded(captures))
    captures = [one.capture for one in observed]
    rules = _all_stopping_rules(captures)
    graphs = _mining_graphs(captures, rules, ruled_out)
    distinct, index = merged(graphs)
    first = {graph: capture for capture, graph in reversed(list(zip(captures, index, strict=True)))}
    judge = _Judge([first[graph].graph for graph in range(len(distinct))], rules, refuse)
    ranking = Ranking(observed, index, machine)
    gains, unit = whole([ranking.gains[graph].tolist() for graph in range(len(distinct))])
    for graph, position in {graph: place for place, graph in reversed(list(enumerate(index)))}.items():
        graphs[position] = replace(graphs[position], gains=gains[graph])

    def search(least_saving: float) -> tuple[MiningResult, list[Opportunity]]:
        found = mine(
            graphs,
            min_support=least_support,
            max_size=max_size,
            min_size=2,
            clipped=True,
            engine=engine or ("processes" if _pays(distinct) else "serial"),
            jobs=jobs,
            scheduler=scheduler,
            budget=budget,
            group=judge.groups,
            least_saving=least_saving,
            progress=progress,
        )
        return found, ranking.best((pattern for pattern in found if judge.rule(pattern) is None), k)

    def weakest(found: tuple[MiningResult, list[Opportunity]]) -> float:
        return min(one.saving_seconds for one in found[1]) / unit if len(found[1]) == k else 0.0

    if k is None or ruled_out:
        result, best = search(0.0)
    else:
        result, best = widened(k, sum(map(sum, gains)), search, weakest)
    stopped = [pattern for pattern in result if judge.rule(pattern) is not None] if ruled_out else []
    return Report(
        machine=machine.name,
        captures=given,
        graphs=result.distinct,
        executions=executions,
        seconds=ranking.seconds,
        operators=sum(len(capture.graph.nodes) for capture in first.values()),
        operators_unknown=sum(
            sum(
                any(ranking.times[id(c)][node] is None for c in ranking.by_graph[graph])
                for node in range(len(capture.graph.nodes))
            )
            for graph, capture in first.items()
        ),
        max_size=max_size,
        min_support=result.min_support,
        patterns=sum(judge.rule(pattern) is None for pattern in result),
        incomplete=tuple(sorted({captures[position].graph.name for position, _ in result.truncated})),
        classes=_classes(ranking, first),
        stopped=_stopped(ranking, first, rules),
        opportunities=tuple(best),
        ruled_out=tuple(ranking.best(stopped, k, judge.rule)),
    )


def _pays(graphs: Sequence[MiningGraph]) -> bool:
    """Whether there is enough to mine for worker processes."""
    return sum(graph.eligible_nodes.bit_count() for graph in graphs) >= NODES_FOR_PROCESSES


def _all_stopping_rules(captures: Iterable[Capture]) -> dict[int, tuple[Rule | None, ...]]:
    """For each graph, by its identity, the rule that stops each node."""
    graphs = {id(capture.graph): capture.graph for capture in captures}
    return {
        key: tuple(stopped_operator(graph, node) for node in range(len(graph.nodes))) for key, graph in graphs.items()
    }


def mining_graphs(captures: Sequence[Capture], *, ruled_out: bool = False) -> list[MiningGraph]:
    """The graphs of captures with what the rules say about growth, for ``mine``.

    Args:
        captures: what was executed.
        ruled_out: whether patterns that a rule stops shall be found, too.
    """
    return _mining_graphs(captures, _all_stopping_rules(captures), ruled_out)


def _mining_graphs(
    captures: Sequence[Capture], rules: Mapping[int, Sequence[Rule | None]], ruled_out: bool
) -> list[MiningGraph]:
    """The captures' graphs, each converted once, with the weight of each capture."""
    converted: dict[int, MiningGraph] = {}
    graphs = []
    for capture in captures:
        key = id(capture.graph)
        if key not in converted:
            stopping = rules[key]

            def grows(_: OperatorGraph, node: int, stopping: Sequence[Rule | None] = stopping) -> bool:
                rule = stopping[node]
                return rule is None or (ruled_out and rule.name not in NEVER_IN_PATTERNS)

            converted[key] = from_operator_graph(capture.graph, eligible=grows, planned=not ruled_out)
            _ = converted[key].fingerprint  # its copies share it
        graphs.append(converted[key].weighted(capture.executions))
    return graphs


def _stopped(
    ranking: Ranking, first: Mapping[int, Capture], rules: Mapping[int, Sequence[Rule | None]]
) -> tuple[Stopped, ...]:
    found = []
    for rule in OPERATOR_RULES:
        count = 0
        seconds: list[float] = []
        for graph, capture in first.items():
            nodes = [node for node, own in enumerate(rules[id(capture.graph)]) if own is rule]
            count += len(nodes)
            for one in ranking.by_graph[graph]:
                times = (ranking.times[id(one)][node] for node in nodes)
                seconds.extend(time * one.executions for time in times if time is not None)
        if count:
            found.append(Stopped(rule.name, rule.reason, count, fsum(seconds)))
    return tuple(found)


def _classes(ranking: Ranking, first: Mapping[int, Capture]) -> tuple[ClassShare, ...]:
    """What the operators of each fusion class take in all executions."""
    counts: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    for graph, capture in first.items():
        for index, node in enumerate(capture.graph.nodes):
            row = operators.find(node)
            name = "unknown" if row is None else str(row.fusion_class)
            counts[name] = counts.get(name, 0) + 1
            times = ((ranking.times[id(one)][index], one.executions) for one in ranking.by_graph[graph])
            seconds.setdefault(name, []).extend(time * runs for time, runs in times if time is not None)
    found = [ClassShare(name, counts[name], fsum(seconds[name])) for name in counts]
    return tuple(sorted(found, key=lambda share: (-share.seconds, share.fusion_class)))


class _Judge:
    """Which rule stops a pattern, asked once for each pattern, of one of its occurrences."""

    def __init__(
        self, graphs: Sequence[OperatorGraph], stopping: Mapping[int, Sequence[Rule | None]], refuse: Refusal | None
    ) -> None:
        self._graphs = graphs
        self._stopping = stopping
        self._refuse = refuse
        self._rules: dict[str, Rule | None] = {}
        self._groups: dict[str, Hashable] = {}

    def rule(self, pattern: Pattern) -> Rule | None:
        """The rule that stops a pattern; None when it is fusible."""
        return self._rules[pattern.digest]

    def groups(self, codes: Sequence[Code]) -> dict[str, Hashable]:
        """For the miner: what patterns have in common that may give way to each other. Fills in all verdicts."""
        light = (FusionClass.ELEMENTWISE, FusionClass.LAYOUT)
        found = self._groups
        for code in codes:
            if code.digest in found:
                continue
            graph = self._graphs[code.graph]
            rule = self._rules[code.digest] = self._verdict(graph, code.nodes)
            kinds = {row.fusion_class for node in code.nodes if (row := operators.find(graph.nodes[node])) is not None}
            found[code.digest] = (rule.name if rule else "", frozenset(kinds.difference(light)))
        return found

    def _verdict(self, graph: OperatorGraph, nodes: Sequence[int]) -> Rule | None:
        stopping = self._stopping[id(graph)]
        rule = next((found for node in nodes if (found := stopping[node]) is not None), None)
        rule = rule or stopped_pattern(graph, nodes)
        if rule is None and self._refuse is not None and len(nodes) > 1:
            reason = self._refuse(graph, nodes)
            if reason is not None:
                return Rule("refused", reason, "pattern", lambda graph, nodes: True)
        return rule
