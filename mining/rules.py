"""Fusion rules: named reasons why an operator can be part of no kernel, or why a pattern cannot be one kernel.

A rule of level ``operator`` looks at one node. Nodes that it stops take no part in patterns; the graph falls apart into
regions. A rule of level ``pattern`` looks at an occurrence, but only at what all occurrences of its pattern share
(labels and inner edges), so that its verdict belongs to the pattern. Patterns that it stops are still mined when asked
for, and listed with what they would be worth.

What a kernel can do in several steps (``graphopt.kernels``) no rule forbids: contractions and reductions one behind the
other are a matter of their price.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from graphopt import operators
from graphopt.graph import Node, OperatorGraph
from graphopt.operators import FusionClass
from graphopt.operators.opaque import CONTROL_FLOW

MOST_OPERANDS = 128
"""Tensors that one kernel may read."""

MOST_RESULTS = 16
"""Tensors that one kernel must write because nothing in it reads them."""

Check = Callable[[OperatorGraph, Sequence[int]], bool]
"""(graph, nodes of an occurrence, or one node) to whether the rule stops it."""


@dataclass(frozen=True)
class Rule:
    """A reason why something cannot be one kernel.

    Attributes:
        name: short name, as in reports and options.
        reason: one sentence for people.
        level: ``operator`` or ``pattern``.
        stops: the test.
        hereditary: whether all that contains what it stops is stopped too, so that growth need not go on.
        one_pass: whether it is about what one pass over the data can do; a generated kernel may take several.
    """

    name: str
    reason: str
    level: Literal["operator", "pattern"]
    stops: Check
    hereditary: bool = True
    one_pass: bool = False


def _operator(name: str, reason: str, test: Callable[[OperatorGraph, Node], bool]) -> Rule:
    return Rule(name, reason, "operator", lambda graph, nodes: any(test(graph, graph.nodes[node]) for node in nodes))


def _class(node: Node) -> FusionClass | None:
    row = operators.find(node)
    return None if row is None else row.fusion_class


def _rate_class(node: Node) -> str:
    row = operators.find(node)
    return "" if row is None else row.rate_class


def _opaque(node: Node, *rate_classes: str) -> bool:
    return _class(node) is FusionClass.OPAQUE and (not rate_classes or _rate_class(node) in rate_classes)


def _types_unknown(graph: OperatorGraph, node: Node) -> bool:
    tensors = (graph.tensors[name] for name in (*node.inputs, *node.outputs) if name)
    return any(tensor.dtype in ("", "string", "object") or tensor.rank is None for tensor in tensors)


# Patterns


def _inner_edges(graph: OperatorGraph, nodes: Sequence[int]) -> list[tuple[int, int, int, int]]:
    inside = set(nodes)
    return [
        (graph.producers[name][0], graph.producers[name][1], consumer, slot)
        for consumer in nodes
        for slot, name in enumerate(graph.nodes[consumer].inputs)
        if name in graph.producers and graph.producers[name][0] in inside
    ]


def _computed_plan(graph: OperatorGraph, nodes: Sequence[int]) -> bool:
    for _, _, consumer, slot in _inner_edges(graph, nodes):
        row = operators.find(graph.nodes[consumer])
        if row is not None and slot in row.structural:
            return True
    return False


def _too_many_operands(graph: OperatorGraph, nodes: Sequence[int]) -> bool:
    slots = sum(_operand_slots(graph, graph.nodes[node]) for node in nodes)
    return slots - len(_inner_edges(graph, nodes)) > MOST_OPERANDS


def _operand_slots(graph: OperatorGraph, node: Node) -> int:
    """Slots that a kernel reads: all but constants whose value belongs to the label."""
    row = operators.find(node)
    labelled = () if row is None else row.labelled
    names = enumerate(node.inputs)
    return sum(1 for slot, name in names if name and (slot not in labelled or graph.tensors[name].value is None))


def _too_many_results(graph: OperatorGraph, nodes: Sequence[int]) -> bool:
    read = {(producer, output) for producer, output, _, _ in _inner_edges(graph, nodes)}
    written = ((node, at) for node in nodes for at, name in enumerate(graph.nodes[node].outputs) if name)
    return sum(1 for result in written if result not in read) > MOST_RESULTS


RULES: tuple[Rule, ...] = (
    _operator(
        "unknown-operator", "the table of operators does not know it", lambda _, node: operators.find(node) is None
    ),
    _operator(
        "control-flow",
        "it has bodies or loops until done",
        lambda _, node: node.op_type in CONTROL_FLOW or _opaque(node, "control"),
    ),
    _operator("sorting", "sorting is not data parallel", lambda _, node: _opaque(node, "sort")),
    _operator("data-dependent-size", "the size of its result depends on data", lambda _, node: _opaque(node, "select")),
    _operator("random-numbers", "random numbers come one after the other", lambda _, node: _opaque(node, "random")),
    _operator("opaque", "it has no data-parallel form", lambda _, node: _opaque(node)),
    replace(
        _operator(
            "sequential", "a step needs the step before it", lambda _, node: _class(node) is FusionClass.SEQUENTIAL
        ),
        one_pass=True,
    ),
    _operator(
        "metadata",
        "the host computes it from shapes; no data moves",
        lambda _, node: _class(node) is FusionClass.METADATA,
    ),
    _operator("unknown-type", "a tensor of it has no known element type or rank, or holds text", _types_unknown),
    Rule("computed-plan", "a kernel must know axes, bounds and shapes before it starts", "pattern", _computed_plan),
    Rule(
        "too-many-operands",
        f"a kernel reads at most {MOST_OPERANDS} tensors",
        "pattern",
        _too_many_operands,
        hereditary=False,
    ),
    Rule(
        "too-many-results",
        f"a kernel writes at most {MOST_RESULTS} tensors",
        "pattern",
        _too_many_results,
        hereditary=False,
    ),
)
"""All rules, in the order in which they are asked; the first that stops something is its reason."""

OPERATOR_RULES = tuple(rule for rule in RULES if rule.level == "operator")
PATTERN_RULES = tuple(rule for rule in RULES if rule.level == "pattern")


def stopped_operator(graph: OperatorGraph, node: int) -> Rule | None:
    """The first rule that keeps an operator out of every pattern; None when none does."""
    return next((rule for rule in OPERATOR_RULES if rule.stops(graph, (node,))), None)


def stopped_kernel_operator(graph: OperatorGraph, node: int) -> Rule | None:
    """The first rule that keeps an operator out of every generated kernel, which may take several passes."""
    return next((rule for rule in OPERATOR_RULES if not rule.one_pass and rule.stops(graph, (node,))), None)


def stopped_pattern(graph: OperatorGraph, nodes: Sequence[int]) -> Rule | None:
    """The first rule that keeps a pattern from being one kernel; None when it can be.

    Args:
        graph: a graph that holds the pattern.
        nodes: any occurrence of it.
    """
    return next((rule for rule in PATTERN_RULES if rule.stops(graph, nodes)), None)
