"""Occurrences in one model that could be fused, what each would save, and why others could not."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from graphopt import roofline
from graphopt.graph import Capture, OperatorGraph
from graphopt.machine import Machine
from graphopt.mining import rules
from graphopt.operators import FusionClass, find
from graphopt.passes import match, regions
from graphopt.passes.base import WantedPattern
from graphopt.passes.extract import Extraction, extract
from graphopt.passes.reach import reach

Lowerable = Callable[[OperatorGraph], str | None]
"""Body to None where a kernel can be generated for it, else the reason why not."""

MOST_OPERANDS = 128
"""Most operands and results of a kernel, together."""

LEAST_ALONE = 0.1
"""Share of its time, besides what every operator costs, that a kernel must save to take one operator's place."""

LEAST_ALONE_SECONDS = 1e-6

HOPED_SHARE = 0.8
"""Share of the runtime's time that a kernel's product with weights takes on processors with a matrix unit."""

LEAST_HOPED = 1e-12
"""Seconds per operator that a kernel may be hoped to save whatever is predicted."""

MOST_WITHOUT_LOOKUP = 64
"""Most operators of a kernel that looks nothing up: only embedding tables stand side by side in greater numbers."""

BELOW_SUPPORT = "below support, or below the file's -k: no opportunity of the file occurs here"

LARGEST_SHAPE = 8
"""Most elements of an integer vector that is taken for a shape."""


@dataclass(frozen=True)
class Occurrence:
    """A set of operators that one kernel can compute.

    Attributes:
        extraction: its body, and how the body is called.
        before: predicted seconds of its operators, one by one; per execution, averaged over the captures.
        after: predicted seconds as one kernel; likewise.
        hoped: predicted seconds saved per execution where a kernel's products are as fast as they may be, and more
            than nothing where it holds a convolution or a product with weights: how fast these are, no rate says
            well for all sizes.
    """

    extraction: Extraction
    before: float
    after: float
    hoped: float = 0.0

    @property
    def saving(self) -> float:
        """Predicted seconds saved per execution."""
        return self.before - self.after


@dataclass(frozen=True)
class Refusal:
    """A set of operators that was looked at and not fused.

    Attributes:
        nodes: indices in the graph.
        reason: why.
        saving: predicted seconds per execution that fusing would save; None when unknown.
    """

    nodes: tuple[int, ...]
    reason: str
    saving: float | None = None


@dataclass(frozen=True)
class Candidates:
    """What ``find_candidates`` found."""

    occurrences: tuple[Occurrence, ...]
    refusals: tuple[Refusal, ...]


class Fusibility:
    """Whether one kernel may compute a set of operators: the rules, then the kernel generator. Answers are kept."""

    def __init__(
        self,
        graph: OperatorGraph,
        captures: Sequence[Capture],
        lowerable: Lowerable,
        most_operands: int = MOST_OPERANDS,
    ) -> None:
        self.graph = graph
        self.captures = captures
        self.lowerable = lowerable
        self.most_operands = most_operands
        self._extractions: dict[tuple[int, ...], Extraction] = {}
        self._reasons: dict[str, str | None] = {}
        self._operator_rules: dict[int, rules.Rule | None] = {}

    def extraction(self, nodes: tuple[int, ...]) -> Extraction:
        """The set as a body."""
        if nodes not in self._extractions:
            self._extractions[nodes] = extract(self.graph, nodes)
        return self._extractions[nodes]

    def _operator_rule(self, index: int) -> rules.Rule | None:
        if index not in self._operator_rules:
            self._operator_rules[index] = rules.stopped_kernel_operator(self.graph, index)
        return self._operator_rules[index]

    def _is_shape(self, name: str) -> bool:
        """Whether a tensor looks like a shape: a few 64-bit integers in one dimension.

        onnxruntime follows such values when it infers shapes, through operators that it knows. A kernel would hide
        them, for no gain: a session can then plan less, and some are refused.
        """
        tensor = self.graph.tensors[name]
        if tensor.dtype != "int64" or tensor.rank is None or tensor.rank > 1:
            return False
        sizes = [capture.shape(name) for capture in self.captures]
        return all(shape is None or all(size <= LARGEST_SHAPE for size in shape) for shape in sizes)

    def _looks_up(self, index: int) -> bool:
        operator = find(self.graph.nodes[index])
        return operator is not None and operator.fusion_class is FusionClass.LOOKUP

    def reason(self, nodes: tuple[int, ...]) -> str | None:
        """None where one kernel may compute the set, else the reason why not."""
        if len({self.graph.nodes[index].scope for index in nodes}) > 1:
            return "operators of different bodies"
        if len(nodes) > MOST_WITHOUT_LOOKUP and not any(self._looks_up(index) for index in nodes):
            return "too large"
        for index in nodes:
            node = self.graph.nodes[index]
            operator = find(node)
            rule = self._operator_rule(index)
            if rule is not None:
                return f"rule {rule.name}: {node.operator}: {rule.reason}"
            if operator is None or operator.lowering is None:
                return f"no lowering for {node.operator}"
            better = regions.better_in_runtime(self.graph, index)
            if better is not None:
                return f"{node.operator} {better}: the runtime's own is as fast"
            found = (
                operator.fusion_class is FusionClass.REDUCTION and self.graph.tensors[node.inputs[0]].dtype != "int64"
            )
            if not found and all(self._is_shape(name) for name in node.outputs if name):
                return f"{node.operator} computes a shape"  # where something stands (ArgMax) is none
        pattern_rule = rules.stopped_pattern(self.graph, nodes) if len(nodes) > 1 else None
        if pattern_rule is not None:
            return f"rule {pattern_rule.name}: {pattern_rule.reason}"
        extraction = self.extraction(nodes)
        count = len(extraction.inputs) + len(extraction.outputs)
        if count > self.most_operands:
            return f"{count} operands and results are more than {self.most_operands}"
        if extraction.identity not in self._reasons:
            self._reasons[extraction.identity] = self.lowerable(extraction.body)
        return self._reasons[extraction.identity]


def find_candidates(
    graph: OperatorGraph,
    captures: Sequence[Capture],
    machine: Machine,
    lowerable: Lowerable,
    *,
    wanted: Sequence[WantedPattern] | None = None,
    min_size: int = 1,
    max_size: int = 160,
    most_operands: int = MOST_OPERANDS,
) -> Candidates:
    """Occurrences that could be fused.

    With patterns, their exact occurrences, and where no kernel can compute a whole one, the parts that one can.
    Without, the largest regions that one kernel can compute, smaller ones inside of them in case they do not pay, and
    single operators whose kernel is clearly faster than the runtime's own.

    Args:
        graph: the operator graph.
        captures: the graph with the shapes it ran with; at least one.
        machine: for predicted times.
        lowerable: the kernel generator's judgement on a body.
        wanted: patterns to look for.
        min_size: fewest operators in an occurrence.
        max_size: most operators in an occurrence.
        most_operands: most operands and results of a kernel.

    Returns:
        Candidates, which may overlap, and what was refused.
    """
    fusibility = Fusibility(graph, captures, lowerable, most_operands)
    refusals: list[Refusal] = []
    if wanted is None:
        sets, stopped = _regions(graph, captures, fusibility, max_size)
        refusals += stopped
    else:
        sets, stopped = _wanted(graph, captures, fusibility, wanted, max_size)
        seen = {index for nodes in (*sets, *(refusal.nodes for refusal in stopped)) for index in nodes}
        refusals += [*stopped, *_below_support(graph, captures, fusibility, machine, seen, max_size)]
    found = []
    for nodes in sets:
        if len(nodes) < min_size:
            continue
        extraction = fusibility.extraction(nodes)
        if not extraction.outputs:
            continue
        times = _seconds(captures, nodes, machine)
        if times is None:
            refusals.append(Refusal(nodes, "cost unknown"))
            continue
        products = [index for index in nodes if regions.multiplies(graph, index)]
        tried = any(regions.hard_to_price(graph, index) for index in nodes)
        if len(nodes) == 1 and not tried and not _pays_alone(*times, _calls(captures, nodes), machine):
            continue
        hoped = times[0] - times[1] + _lost_alone(graph, captures, products, machine)
        if tried:
            hoped = max(hoped, LEAST_HOPED * len(nodes))
        found.append(Occurrence(extraction, *times, hoped))
    refusals += _alone(graph, fusibility, {index for nodes in sets for index in nodes})
    return Candidates(tuple(found), tuple(refusals))


def _regions(
    graph: OperatorGraph, captures: Sequence[Capture], fusibility: Fusibility, max_size: int
) -> tuple[list[tuple[int, ...]], list[Refusal]]:
    sets: dict[tuple[int, ...], None] = {}
    refusals: list[Refusal] = []
    for position, allowed in enumerate(regions.FILTERS):
        growth = regions.grow(graph, captures, fusibility.reason, allowed=allowed, max_size=max_size)
        found = (regions.without_last_reorders(graph, nodes) for nodes in growth.regions)
        several = (nodes for nodes in found if len(nodes) > 1)
        whole = (regions.with_first_reorders(graph, captures, nodes, fusibility.reason) for nodes in several)
        sets.update(dict.fromkeys(whole))
        if position == 0:
            refusals += [Refusal(nodes, reason) for nodes, reason in growth.stopped]
    sets.update({(index,): None for index in range(len(graph.nodes)) if fusibility.reason((index,)) is None})
    return sorted(sets), refusals


def _wanted(
    graph: OperatorGraph,
    captures: Sequence[Capture],
    fusibility: Fusibility,
    wanted: Sequence[WantedPattern],
    max_size: int,
) -> tuple[list[tuple[int, ...]], list[Refusal]]:
    """Occurrences of the patterns; where one kernel cannot compute a whole one, the largest parts that one can."""
    target, reachable = match.labelled(graph), reach(graph)
    sets: dict[tuple[int, ...], None] = {}
    refusals: list[Refusal] = []
    for pattern in wanted:
        refused: list[tuple[int, ...]] = []
        for nodes in match.occurrences(graph, pattern.labels, pattern.edges, target=target, reachable=reachable):
            reason = fusibility.reason(nodes) if len(nodes) <= max_size else "too large"
            if reason is None:
                sets[nodes] = None
            else:
                refusals.append(Refusal(nodes, reason))
                refused.append(nodes)
        sets.update(dict.fromkeys(_parts(graph, captures, fusibility, refused, max_size)))
    return sorted(sets), refusals


def _below_support(
    graph: OperatorGraph,
    captures: Sequence[Capture],
    fusibility: Fusibility,
    machine: Machine,
    seen: Collection[int],
    max_size: int,
) -> list[Refusal]:
    """The largest regions that one kernel could compute where no wanted pattern occurs."""

    def outside(_: OperatorGraph, __: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
        return edge[0] not in seen and edge[2] not in seen

    rows = []
    for nodes in regions.grow(graph, captures, fusibility.reason, allowed=outside, max_size=max_size).regions:
        times = _seconds(captures, nodes, machine)
        rows.append(Refusal(nodes, BELOW_SUPPORT, times[0] - times[1] if times is not None else None))
    return rows


def _parts(
    graph: OperatorGraph,
    captures: Sequence[Capture],
    fusibility: Fusibility,
    refused: Sequence[tuple[int, ...]],
    max_size: int,
) -> tuple[tuple[int, ...], ...]:
    """The largest regions inside of occurrences that no kernel can compute as a whole."""
    if not refused:
        return ()
    together = {(a, b) for nodes in refused for a in nodes for b in nodes}

    def inside(_: OperatorGraph, __: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
        return (edge[0], edge[2]) in together

    return regions.grow(graph, captures, fusibility.reason, allowed=inside, max_size=max_size).regions


def _alone(graph: OperatorGraph, fusibility: Fusibility, covered: set[int]) -> list[Refusal]:
    """Operators in no candidate that a kernel could not compute even alone."""
    rows = []
    for index in range(len(graph.nodes)):
        reason = fusibility.reason((index,)) if index not in covered else None
        if reason is not None:
            rows.append(Refusal((index,), reason))
    return rows


def _pays_alone(before: float, after: float, calls: float, machine: Machine) -> bool:
    """Whether a kernel of one operator does its work clearly faster, whatever the calls of each cost."""
    work = before - calls * machine.node_seconds
    saved = work - (after - calls * machine.kernel_seconds)
    return saved >= max(LEAST_ALONE * work, LEAST_ALONE_SECONDS)


def _lost_alone(graph: OperatorGraph, captures: Sequence[Capture], products: Sequence[int], machine: Machine) -> float:
    """Predicted seconds per execution by which kernels of these products alone are slower than is to be hoped."""
    lost = 0.0
    for index in products:
        times = _seconds(captures, (index,), machine)
        share = HOPED_SHARE if regions.multiplies_weights(graph, index) else 1.0
        lost += max(0.0, times[1] - share * times[0]) if times else 0.0
    return lost


def _calls(captures: Sequence[Capture], nodes: tuple[int, ...]) -> float:
    """How many times the nodes run per execution, averaged over the captures."""
    runs = sum(capture.executions * capture.runs(nodes[0]) for capture in captures)
    return runs / sum(capture.executions for capture in captures)


def _seconds(captures: Sequence[Capture], nodes: tuple[int, ...], machine: Machine) -> tuple[float, float] | None:
    """(before, after) per execution, averaged over the captures; None when unknown."""
    executions = sum(capture.executions for capture in captures)
    ran = [capture for capture in captures if capture.runs(nodes[0])]
    before = after = 0.0
    for capture in ran:
        weight = capture.executions * capture.runs(nodes[0])
        fused = roofline.fused_seconds(capture, nodes, machine)
        apart = [roofline.operator_seconds(capture, index, machine) for index in nodes]
        if fused is None or any(seconds is None for seconds in apart):
            return None
        before += weight * sum(seconds for seconds in apart if seconds is not None)
        after += weight * fused
    return (before / executions, after / executions) if ran else None
