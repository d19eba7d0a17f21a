"""Grow the largest regions of operators that one kernel may compute.

Every operator that may be fused begins as a region of its own. Edges are taken in the order of the bytes they would
save, and the regions at both ends become one unless something speaks against it: the kernel generator, a fusion rule,
or a path from one to the other through operators outside of both. Regions are merged in the graph in which they are
already contracted, so all regions of one growth can be fused together without a cycle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.graph import Capture, OperatorGraph
from graphopt.operators import FusionClass, find
from graphopt.operators.base import element_bytes
from graphopt.operators.lowering import Convolving, MatrixProduct, Pooling, Recurring
from graphopt.operators.products import FACTORS, factor_slots

Fusible = Callable[[tuple[int, ...]], str | None]
"""Set of nodes, ascending, to None where one kernel may compute it, else the reason why not."""

EdgeFilter = Callable[[OperatorGraph, Sequence[Capture], tuple[int, int, int, int]], bool]


@dataclass(frozen=True)
class Growth:
    """Regions and what stopped them.

    Attributes:
        regions: sets of two or more nodes, ascending.
        stopped: for each pair of regions that an edge joins and that stayed apart, the reason: (nodes of both, reason).
    """

    regions: tuple[tuple[int, ...], ...]
    stopped: tuple[tuple[tuple[int, ...], str], ...]


def any_edge(graph: OperatorGraph, captures: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
    """Every edge may join regions, but for those of convolutions of images: what reads one ends its kernel.

    Nor does what leaves the blocked layout join the element-wise work of such a kernel: it begins the next one.
    """
    producer, _, consumer, _ = edge
    if any(_convolves_image(graph, captures, end) for end in (producer, consumer)):
        return False
    operator, sources = find(graph.nodes[producer]), graph.nodes[producer].inputs
    return not (
        graph.nodes[consumer].op_type == "ReorderOutput"
        and operator is not None
        and operator.fusion_class is FusionClass.ELEMENTWISE
        and any(
            name in graph.producers and _convolves_image(graph, captures, graph.producers[name][0]) for name in sources
        )
    )


def _convolves_image(graph: OperatorGraph, captures: Sequence[Capture], index: int) -> bool:
    """Whether a convolution has more than one pixel; others are small products, as in a squeeze and excitation."""
    shapes = [capture.shape(graph.nodes[index].outputs[0]) for capture in captures]
    return convolves(graph, index) and not all(shape is not None and prod(shape[2:]) == 1 for shape in shapes)


def same_size(graph: OperatorGraph, captures: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
    """Only edges between operators with as many result elements, so that a kernel is one loop over them."""
    producer, _, consumer, _ = edge
    return any_edge(graph, captures, edge) and all(
        _size(capture, producer) == _size(capture, consumer) for capture in captures
    )


def computing(graph: OperatorGraph, captures: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
    """Only edges between element-wise operators of the same size."""
    ends = [find(graph.nodes[edge[0]]), find(graph.nodes[edge[2]])]
    classes = {operator.fusion_class for operator in ends if operator is not None}
    return classes == {FusionClass.ELEMENTWISE} and same_size(graph, captures, edge)


def only_consumer(graph: OperatorGraph, captures: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
    """Only edges whose tensor nobody else reads, so that no value in the middle is written out."""
    return any_edge(graph, captures, edge) and _reads_alone(graph, edge)


def _reads_alone(graph: OperatorGraph, edge: tuple[int, int, int, int]) -> bool:
    tensor = graph.nodes[edge[0]].outputs[edge[1]]
    return tensor not in graph.outputs and len({user for user, _ in graph.consumers[tensor]}) == 1


def epilogue(graph: OperatorGraph, captures: Sequence[Capture], edge: tuple[int, int, int, int]) -> bool:
    """Edges from a convolution on: element-wise work on its result, which nobody else reads, in either layout."""
    producer, consumer = find(graph.nodes[edge[0]]), find(graph.nodes[edge[2]])
    if producer is None or consumer is None or convolves(graph, edge[2]):
        return False
    moves = {FusionClass.ELEMENTWISE, FusionClass.LAYOUT}
    if any(
        operator.fusion_class is FusionClass.LAYOUT and not operator.op_type.startswith("Reorder")
        for operator in (producer, consumer)
    ):
        return False
    begins = convolves(graph, edge[0]) or producer.fusion_class in moves
    return begins and consumer.fusion_class in moves and _reads_alone(graph, edge)


def without_last_reorders(graph: OperatorGraph, nodes: tuple[int, ...]) -> tuple[int, ...]:
    """A region with a convolution less what leaves the blocked layout at its end: that takes a pass of its own."""
    if not any(convolves(graph, index) for index in nodes):
        return nodes
    kept = set(nodes)
    while True:
        last = [
            index
            for index in kept
            if graph.nodes[index].op_type == "ReorderOutput"
            and not any(user in kept for user, _ in graph.consumers.get(graph.nodes[index].outputs[0], ()))
        ]
        if not last:
            return tuple(sorted(kept))
        kept -= set(last)


def with_first_reorders(
    graph: OperatorGraph, captures: Sequence[Capture], nodes: tuple[int, ...], fusible: Fusible
) -> tuple[int, ...]:
    """A region and what leaves the blocked layout for nobody else: its kernel reads the blocks where they lie.

    Kernels of convolutions of images read plain tensors that are in memory.
    """
    if any(_convolves_image(graph, captures, index) for index in nodes):
        return nodes
    members = set(nodes)
    sources = {
        graph.producers[name][0] for index in nodes for name in graph.nodes[index].inputs if name in graph.producers
    }
    for source in sorted(sources - members):
        node = graph.nodes[source]
        readers = {user for user, _ in graph.consumers.get(node.outputs[0], ())}
        if node.op_type == "ReorderOutput" and readers <= members and node.outputs[0] not in graph.outputs:
            union = tuple(sorted((*members, source)))
            if fusible(union) is None:
                members.add(source)
    return tuple(sorted(members))


def convolves(graph: OperatorGraph, index: int) -> bool:
    """Whether an operator is a convolution that a kernel can compute."""
    operator = find(graph.nodes[index])
    return operator is not None and isinstance(operator.lowering, Convolving)


def multiplies(graph: OperatorGraph, index: int) -> bool:
    """Whether an operator is a matrix product that a kernel can compute."""
    operator = find(graph.nodes[index])
    return operator is not None and isinstance(operator.lowering, MatrixProduct)


def multiplies_weights(graph: OperatorGraph, index: int) -> bool:
    """Whether an operator is a matrix product with a constant right operand, which a kernel packs once."""
    return multiplies(graph, index) and graph.tensors[graph.nodes[index].inputs[1]].constant


def hard_to_price(graph: OperatorGraph, index: int) -> bool:
    """Whether no rate says well how fast its kernel is.

    Convolutions, pools, products with weights, recurrent layers, and what onnxruntime computes with integers of eight
    bits.
    """
    operator = find(graph.nodes[index])
    if operator is None or operator.lowering is None:
        return False
    apart = isinstance(operator.lowering, Pooling | Recurring) or operator.rate_class.endswith("_int8")
    return apart or convolves(graph, index) or multiplies_weights(graph, index)


LEAST_WINDOW = 64
"""Elements under a window from which a kernel takes a convolution of integers: a tile of the matrix unit."""


def better_in_runtime(graph: OperatorGraph, index: int) -> str | None:
    """Why onnxruntime computes a convolution of integers at least as fast as a kernel; None where it does not.

    Convolutions with unsigned weights are its faster ones; windows of fewer elements than a tile are mostly zeros in a
    kernel.
    """
    node = graph.nodes[index]
    if node.op_type not in FACTORS or "Conv" not in node.op_type:
        return None
    weights = graph.tensors[node.inputs[factor_slots(node)[1]]]
    few = weights.shape is not None and prod(weights.shape[1:]) < LEAST_WINDOW
    unsigned = weights.constant and weights.dtype == "uint8"
    return f"has fewer than {LEAST_WINDOW} elements under a window without signs" if few and unsigned else None


FILTERS: tuple[EdgeFilter, ...] = (any_edge, same_size, only_consumer, computing, epilogue)
"""Ways to grow regions: first the largest, then such as remain right where the largest do not pay."""


def grow(
    graph: OperatorGraph,
    captures: Sequence[Capture],
    fusible: Fusible,
    *,
    allowed: EdgeFilter = any_edge,
    max_size: int = 160,
) -> Growth:
    """Grow regions; see the module's text.

    Args:
        graph: the operator graph.
        captures: the graph with the shapes it ran with: they say which edges carry most.
        fusible: whether one kernel may compute a set of nodes.
        allowed: edges that may join regions.
        max_size: most operators in a region.
    """
    alone = {index: fusible((index,)) is None for index in range(len(graph.nodes))}
    quotient = _Quotient(graph)
    edges = [edge for edge in graph.edges if alone[edge[0]] and alone[edge[2]] and allowed(graph, captures, edge)]
    edges = [edge for edge in edges if not _decides_structure(graph, edge)]
    edges = [edge for edge in edges if graph.nodes[edge[0]].scope == graph.nodes[edge[2]].scope]
    weight = {edge: _bytes(graph, captures, edge) for edge in edges}
    edges.sort(key=lambda edge: (-weight[edge], edge[2], edge[0], edge[1], edge[3]))
    refused: dict[tuple[int, ...], str] = {}
    pending = edges
    while pending:
        left, merged = [], False
        for edge in pending:
            first, second = quotient.owner[edge[0]], quotient.owner[edge[2]]
            if first == second:
                continue
            union = tuple(sorted(quotient.members[first] + quotient.members[second]))
            if union in refused:
                left.append(edge)
                continue
            reason = "too large" if len(union) > max_size else None
            if reason is None and not quotient.can_merge(first, second):
                reason = "a path leaves the region and comes back"
            if reason is None:
                reason = _structure_inside(graph, union) or fusible(union)
            if reason is None:
                quotient.merge(first, second)
                merged = True
            else:
                refused[union] = reason
                left.append(edge)
        pending = left if merged else []
    regions = sorted(tuple(sorted(nodes)) for nodes in quotient.members.values() if len(nodes) > 1)
    final = {tuple(sorted(nodes)) for nodes in quotient.members.values()}
    pieces = {index: nodes for nodes in final for index in nodes}
    stopped = [
        (union, reason)
        for union, reason in sorted(refused.items())
        if len({pieces[index] for index in union}) == 2 and len({*sum((pieces[i] for i in union), ())}) == len(union)
    ]
    return Growth(tuple(regions), tuple(stopped))


def _decides_structure(graph: OperatorGraph, edge: tuple[int, int, int, int]) -> bool:
    """Whether the consumer needs the tensor's values to plan (a Reshape's shape): then it must come from outside."""
    operator = find(graph.nodes[edge[2]])
    return edge[3] < 0 or operator is None or edge[3] in operator.structural


def _structure_inside(graph: OperatorGraph, nodes: tuple[int, ...]) -> str | None:
    inside = set(nodes)
    for index in nodes:
        node = graph.nodes[index]
        operator = find(node)
        for slot in operator.structural if operator is not None else ():
            name = node.inputs[slot] if slot < len(node.inputs) else ""
            if name in graph.producers and graph.producers[name][0] in inside:
                return f"{node.operator} would take its {name} from inside of the kernel"
    return None


def _size(capture: Capture, index: int) -> int | None:
    shape = capture.shape(capture.graph.nodes[index].outputs[0])
    if shape is None:
        return None
    count = 1
    for size in shape:
        count *= size
    return count


def _bytes(graph: OperatorGraph, captures: Sequence[Capture], edge: tuple[int, int, int, int]) -> int:
    tensor = graph.nodes[edge[0]].outputs[edge[1]]
    total = 0
    for capture in captures:
        shape = capture.shape(tensor)
        count = 1
        for size in shape or ():
            count *= size
        total += capture.executions * count * element_bytes(graph.tensors[tensor].dtype)
    return total


class _Quotient:
    """The graph with regions contracted, kept in a topological order while regions merge."""

    def __init__(self, graph: OperatorGraph) -> None:
        count = len(graph.nodes)
        self.owner = list(range(count))
        self.members: dict[int, tuple[int, ...]] = {index: (index,) for index in range(count)}
        self.order = list(range(count))
        self.place = list(range(count))
        self.followers: dict[int, set[int]] = {index: set() for index in range(count)}
        self.feeders: dict[int, set[int]] = {index: set() for index in range(count)}
        for producer, _, consumer, _ in graph.edges:
            self.followers[producer].add(consumer)
            self.feeders[consumer].add(producer)

    def _behind(self, first: int, second: int) -> set[int] | None:
        """Regions between both in the order that the first reaches; None when a path leads on to the second."""
        limit = self.place[second]
        seen: set[int] = set()
        pending = [region for region in self.followers[first] if region != second and self.place[region] < limit]
        while pending:
            region = pending.pop()
            if region in seen:
                continue
            seen.add(region)
            for follower in self.followers[region]:
                if follower == second:
                    return None
                if self.place[follower] < limit:
                    pending.append(follower)
        return seen

    def can_merge(self, first: int, second: int) -> bool:
        """Whether merging makes no cycle; an edge leads from the first to the second."""
        return self._behind(first, second) is not None

    def merge(self, first: int, second: int) -> None:
        """Merge the second region into the first."""
        behind = self._behind(first, second) or set()
        start, end = self.place[first], self.place[second]
        window = self.order[start : end + 1]
        before = [region for region in window if region not in behind and region not in (first, second)]
        after = [region for region in window if region in behind]
        # The place of the second stays, as a gap that nothing owns.
        for offset, region in enumerate([*before, first, *after, -1]):
            self.order[start + offset] = region
            if region >= 0:
                self.place[region] = start + offset
        for index in self.members[second]:
            self.owner[index] = first
        self.members[first] += self.members.pop(second)
        for follower in self.followers.pop(second):
            self.feeders[follower].discard(second)
            if follower != first:
                self.followers[first].add(follower)
                self.feeders[follower].add(first)
        for feeder in self.feeders.pop(second):
            self.followers[feeder].discard(second)
            if feeder != first:
                self.followers[feeder].add(first)
                self.feeders[first].add(feeder)
        self.followers[first].discard(first)
        self.feeders[first].discard(first)
