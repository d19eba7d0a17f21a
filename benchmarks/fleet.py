"""A fleet that is as large as one likes: distinct graphs, made from a few real ones by the edits that engineers make.

- depth: a repeated block (an encoder layer, a residual unit) stands more often or less often;
- width: a branch into a Concat is added or dropped; channel groups are scaled throughout;
- an element-wise operator is dropped, or one that keeps the type is inserted;
- an activation is exchanged for another, throughout.

It makes the graphs that the miner works on (``MiningGraph``), not operator graphs: labels and edges are all that mining
looks at, and ten thousand of them still fit into memory. An edit keeps dtypes and ranks right: what is inserted or
exchanged has been seen in the folder with the same ones. The same seed makes the same fleet.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graphopt import operators
from graphopt.mining.canonical import Edge
from graphopt.mining.graphs import ANY_OPERAND, MiningGraph, bits

MEAN_SIZE = 300
"""Operators of a graph on average."""

SMALLEST, LARGEST = 40, 1200
"""Operators of a graph at least and at most."""

MOST_GROWTH = 5
"""A graph has at most so many times the operators of the one that it is made from."""

MOST_EDITS = 6
"""Edits of single operators, branches and labels in one graph."""

PLAIN_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu", "Gelu", "QuickGelu", "Softplus")
"""Activations that stand for themselves; those fused into a convolution are an attribute of its label."""


class Operand(NamedTuple):
    """An edge into a node: where it comes from, its slot there, and whether no pattern may hold it."""

    producer: int
    output: int
    slot: int
    apart: bool


class Node(NamedTuple):
    """A node of a graph that is being edited; a producer stands before its consumers."""

    label: str
    operands: tuple[Operand, ...]
    eligible: bool = True


class Block(NamedTuple):
    """A block that stands at ``start`` and again right behind."""

    start: int
    length: int


@dataclass(frozen=True)
class Base:
    """A graph that others are made from.

    Attributes:
        nodes: its nodes.
        blocks: its repeated blocks.
    """

    nodes: tuple[Node, ...]
    blocks: tuple[Block, ...]


def fleet(graphs: Sequence[MiningGraph], count: int, *, seed: int = 0, mean: int = MEAN_SIZE) -> list[MiningGraph]:
    """Distinct graphs, made by realistic edits.

    Args:
        graphs: what they are made from.
        count: how many.
        seed: the same one makes the same fleet.
        mean: operators of a graph on average.

    Returns:
        the graphs, each with weight 1.

    Raises:
        ValueError: there is nothing to make them from.
    """
    bases = [base(graph) for graph in graphs if graph.labels]
    if not bases:
        raise ValueError("no graph to make a fleet from")
    pool = same_type_labels(bases)
    chance = random.Random(seed)
    seen: set[int] = set()
    made: list[MiningGraph] = []
    edges: dict[Edge, Edge] = {}
    total = 0
    while len(made) < count:
        # Sizes spread as 40 … 1200; what is behind or ahead of the mean so far is made good.
        wished = chance.lognormvariate(0, 0.5) * 0.88 * mean + (mean * len(made) - total) / 20
        target = min(max(round(wished), SMALLEST), LARGEST)
        graph = finished(edited(chance, nearest(chance, bases, target), target, pool))
        key = hash((graph.labels, graph.edges))
        if key not in seen:
            seen.add(key)
            made.append(graph.sharing(edges))
            total += len(graph.labels)
    return made


def base(graph: MiningGraph) -> Base:
    """A graph's nodes in topological order, and its repeated blocks."""
    place = {node: position for position, node in enumerate(graph.topological)}
    if list(place) == sorted(place) or all(producer < consumer for producer, _, consumer, _ in graph.edges):
        place = {node: node for node in range(len(graph.labels))}  # the order it was written in keeps blocks together
    apart = set(graph.apart)
    nodes = []
    for node in sorted(place, key=place.__getitem__):
        operands = tuple(Operand(place[p], o, s, (p, node) in apart) for p, o, s in graph.incoming[node])
        nodes.append(Node(graph.labels[node], operands, bool(graph.eligible_nodes >> node & 1)))
    return Base(tuple(nodes), tuple(blocks(nodes)))


def blocks(nodes: Sequence[Node]) -> Iterator[Block]:
    """Places where a block is followed by its like, which goes on from it: labels and inner edges are the same.

    Of all places of one length in one run of equal labels, the first.
    """
    for length in range(2, len(nodes) // 2 + 1):
        run = 0
        for at in range(len(nodes) - length):
            if nodes[at].label != nodes[at + length].label:
                run = 0
                continue
            run += 1
            start = at + 1 - length
            if run < length or not goes_on(nodes, start, length):
                continue
            if inner(nodes, start, length) == inner(nodes, start + length, length):
                yield Block(start, length)
                run = -len(nodes)  # no more of this run


def goes_on(nodes: Sequence[Node], start: int, length: int) -> bool:
    """Whether the block behind reads what this one gives: blocks side by side are no depth."""
    behind = nodes[start + length : start + 2 * length]
    return any(start <= o.producer < start + length for node in behind for o in node.operands)


def inner(nodes: Sequence[Node], start: int, length: int) -> list[list[Operand]]:
    """Edges within a block, by place in the block."""
    return [
        [o._replace(producer=o.producer - start) for o in node.operands if o.producer >= start]
        for node in nodes[start : start + length]
    ]


def nearest(chance: random.Random, bases: Sequence[Base], target: int) -> Base:
    """A graph that can be brought to this size."""

    def reaches(candidate: Base) -> bool:
        size = len(candidate.nodes)
        if not candidate.blocks:
            return 0.8 * target <= size <= 1.2 * target
        return 0.6 * size <= target <= MOST_GROWTH * size

    fitting = [candidate for candidate in bases if reaches(candidate)]
    return chance.choice(fitting or bases)


def edited(chance: random.Random, origin: Base, target: int, pool: Mapping[str, Sequence[str]]) -> Base:
    """A graph of about this size, with some further edits."""
    nodes = list(origin.nodes)
    for _ in range(4):
        missing = target - len(nodes)
        fitting = [block for block in origin.blocks if block.length <= max(abs(missing), 2) * 1.3]
        if not fitting or abs(missing) < 0.1 * target:
            break
        block = chance.choice(fitting)
        if missing > 0:
            times = max(1, round(missing / block.length * chance.uniform(0.5, 1)))
            nodes = repeated(nodes, block, times)
        else:
            nodes = without_block(nodes, block)
        origin = Base(tuple(nodes), tuple(blocks_left(nodes, origin.blocks)))
    for _ in range(chance.randrange(1, MOST_EDITS + 1)):
        edit = chance.choices(EDITS, WEIGHTS)[0]
        nodes = edit(chance, nodes, pool)
    return Base(tuple(nodes), ())


def blocks_left(nodes: Sequence[Node], known: Sequence[Block]) -> Iterator[Block]:
    """Those of some blocks that are still followed by their like."""
    for start, length in known:
        first, second = nodes[start : start + length], nodes[start + length : start + 2 * length]
        if [node.label for node in first] == [node.label for node in second]:
            yield Block(start, length)


def repeated(nodes: Sequence[Node], block: Block, times: int) -> list[Node]:
    """The second of two equal blocks stands so many times more, each copy behind the one that it is a copy of."""
    start, end = block.start + block.length, block.start + 2 * block.length
    grown = list(nodes[:end])
    for copy in range(1, times + 1):
        shift = copy * block.length
        for node in nodes[start:end]:
            # What came from the block before comes from the copy before; what came from far away still does.
            operands = tuple(
                o._replace(producer=o.producer + shift) if o.producer >= block.start else o for o in node.operands
            )
            grown.append(node._replace(operands=operands))
    shift = times * block.length
    for node in nodes[end:]:
        operands = tuple(o._replace(producer=o.producer + shift) if o.producer >= start else o for o in node.operands)
        grown.append(node._replace(operands=operands))
    return grown


def without_block(nodes: Sequence[Node], block: Block) -> list[Node]:
    """The second of two equal blocks is gone; what it gave, the first one gives."""
    start, end = block.start + block.length, block.start + 2 * block.length
    left = list(nodes[:start])
    for node in nodes[end:]:
        operands = tuple(
            o._replace(producer=o.producer - block.length) if o.producer >= start else o for o in node.operands
        )
        left.append(node._replace(operands=operands))
    return left


def dropped(chance: random.Random, nodes: list[Node], pool: Mapping[str, Sequence[str]]) -> list[Node]:
    """An element-wise operator with one operand, of the type of its result, is gone."""
    candidates = [at for at, node in enumerate(nodes) if keeps_type(nodes, node)]
    if not candidates:
        return nodes
    gone = chance.choice(candidates)
    source = nodes[gone].operands[0]
    left = []
    for node in (*nodes[:gone], *nodes[gone + 1 :]):
        operands = []
        for operand in node.operands:
            if operand.producer == gone:
                operand = operand._replace(producer=source.producer, output=source.output)
            elif operand.producer > gone:
                operand = operand._replace(producer=operand.producer - 1)
            operands.append(operand)
        left.append(node._replace(operands=tuple(operands)))
    return left


def inserted(chance: random.Random, nodes: list[Node], pool: Mapping[str, Sequence[str]]) -> list[Node]:
    """An element-wise operator stands behind the first result of another operator; all consumers read it."""
    candidates = [at for at, node in enumerate(nodes) if node.eligible and results(node.label)[0] in pool]
    if not candidates:
        return nodes
    at = chance.choice(candidates)
    new = Node(chance.choice(pool[results(nodes[at].label)[0]]), (Operand(at, 0, 0, False),))
    grown = [*nodes[: at + 1], new]
    for node in nodes[at + 1 :]:
        operands = []
        for operand in node.operands:
            moved = operand.producer > at or (operand.producer == at and operand.output == 0)
            operands.append(operand._replace(producer=operand.producer + 1) if moved else operand)
        grown.append(node._replace(operands=tuple(operands)))
    return grown


def another_activation(chance: random.Random, nodes: list[Node], pool: Mapping[str, Sequence[str]]) -> list[Node]:
    """One activation gives way to another, throughout."""
    present = sorted({name(node.label) for node in nodes} & set(PLAIN_ACTIVATIONS))
    fused = sorted({found[0] for node in nodes if (found := re.search(r"activation=\w+", node.label))})
    if fused and (not present or chance.random() < 0.5):
        old = chance.choice(fused)
        new = f"activation={chance.choice(('Relu', 'Sigmoid', 'Tanh', 'HardSigmoid'))}"
        return [node._replace(label=node.label.replace(old, new)) for node in nodes]
    if not present:
        return nodes
    old = chance.choice(present)
    choice = chance.random()
    changed = []
    for node in nodes:
        if name(node.label) == old:
            others = [label for label in pool.get(results(node.label)[0], ()) if name(label) in PLAIN_ACTIVATIONS]
            if others:
                node = node._replace(label=others[int(choice * len(others))])
        changed.append(node)
    return changed


def another_width(chance: random.Random, nodes: list[Node], pool: Mapping[str, Sequence[str]]) -> list[Node]:
    """Channels are scaled throughout: grouped convolutions have other numbers of groups."""
    factor = chance.choice((0.25, 0.5, 0.75, 1.25, 1.5, 2, 3))

    def scaled(found: "re.Match[str]") -> str:
        groups = int(found[1])
        return f"group={max(2, int(groups * factor))}" if groups > 1 else found[0]

    return [node._replace(label=re.sub(r"\bgroup=(\d+)", scaled, node.label)) for node in nodes]


def another_branch(chance: random.Random, nodes: list[Node], pool: Mapping[str, Sequence[str]]) -> list[Node]:
    """A branch into a Concat is added once more."""
    found = branches(nodes)
    if not found:
        return nodes
    end, slot, branch = chance.choice(found)
    grown = list(nodes[:end])
    place: dict[int, int] = {}
    for at in branch:
        operands = (o._replace(producer=place.get(o.producer, o.producer)) for o in nodes[at].operands)
        place[at] = len(grown)
        grown.append(nodes[at]._replace(operands=tuple(operands)))
    last = nodes[end].operands[slot]
    joined = nodes[end]._replace(
        label=with_operands(nodes[end].label, 1, last_type(nodes, last)),
        operands=(*nodes[end].operands, last._replace(producer=place[last.producer])),
    )
    for node in (joined, *nodes[end + 1 :]):
        operands = (
            o._replace(producer=o.producer + len(branch)) if o.producer >= end and node is not joined else o
            for o in node.operands
        )
        grown.append(node._replace(operands=tuple(operands)))
    return grown


def one_branch_less(chance: random.Random, nodes: list[Node], pool: Mapping[str, Sequence[str]]) -> list[Node]:
    """A branch into a Concat of three or more is gone."""
    found = [entry for entry in branches(nodes) if len(nodes[entry[0]].operands) > 2]
    if not found:
        return nodes
    end, slot, branch = chance.choice(found)
    gone = set(branch)
    place: dict[int, int] = {}
    left: list[Node] = []
    for at, node in enumerate(nodes):
        if at in gone:
            continue
        operands = node.operands
        if at == end:
            node = node._replace(label=with_operands(node.label, -1, last_type(nodes, operands[slot])))
            operands = operands[:slot] + operands[slot + 1 :]
        place[at] = len(left)
        left.append(node._replace(operands=tuple(o._replace(producer=place[o.producer]) for o in operands)))
    return left


EDITS = (inserted, dropped, another_activation, another_width, another_branch, one_branch_less)
WEIGHTS = (3, 3, 2, 2, 1, 1)


def branches(nodes: Sequence[Node]) -> list[tuple[int, int, list[int]]]:
    """Rows of nodes that lead to nothing but one Concat: (the Concat, which of its operands, the nodes of the row)."""
    uses: list[set[int]] = [set() for _ in nodes]
    for at, node in enumerate(nodes):
        for operand in node.operands:
            uses[operand.producer].add(at)
    found = []
    for end, node in enumerate(nodes):
        if name(node.label) not in ANY_OPERAND:
            continue
        for slot, operand in enumerate(node.operands):
            row: list[int] = []
            at, consumer = operand.producer, end
            while uses[at] == {consumer} and sum(o.producer == at for o in nodes[consumer].operands) == 1:
                row.append(at)
                if len(nodes[at].operands) != 1:
                    break
                at, consumer = nodes[at].operands[0].producer, at
            if row:
                found.append((end, slot, row[::-1]))
    return found


def same_type_labels(bases: Sequence[Base]) -> dict[str, list[str]]:
    """Type of a tensor to labels of element-wise operators that take one and make one of the same type."""
    pool: dict[str, set[str]] = {}
    for origin in bases:
        for node in origin.nodes:
            if node.eligible and keeps_type(origin.nodes, node):
                pool.setdefault(results(node.label)[0], set()).add(node.label)
    return {kind: sorted(labels) for kind, labels in pool.items()}


def keeps_type(nodes: Sequence[Node], node: Node) -> bool:
    """Whether a node is element-wise, with one operand, of the type of its one result."""
    row = operators.table().get(name(node.label))
    return (
        row is not None
        and row.fusion_class is operators.FusionClass.ELEMENTWISE
        and len(node.operands) == 1
        and len(results(node.label)) == 1
        and last_type(nodes, node.operands[0]) == results(node.label)[0]
    )


def name(label: str) -> str:
    """Domain and type of an operator, from its label."""
    return re.split(r"[{(]", label, maxsplit=1)[0]


def results(label: str) -> list[str]:
    """Types of an operator's results, from its label; one of no known type where it names none."""
    return label.rpartition("->")[2].split(",")


def last_type(nodes: Sequence[Node], operand: Operand) -> str:
    """Type of the tensor that an edge carries."""
    kinds = results(nodes[operand.producer].label)
    return kinds[operand.output] if operand.output < len(kinds) else kinds[0]


def with_operands(label: str, change: int, kind: str) -> str:
    """The label of a Concat with one operand more or less of a type."""
    head, arrow, tail = label.rpartition(")->")
    front, _, operands = head.rpartition("(")
    kinds = operands.split(",")
    if change > 0:
        kinds.append(kind)
    elif kind in kinds:
        kinds.remove(kind)
    return f"{front}({','.join(kinds)}{arrow}{tail}"


def finished(made: Base) -> MiningGraph:
    """The graph for the miner."""
    nodes = made.nodes
    edges = sorted((o.producer, o.output, at, o.slot) for at, node in enumerate(nodes) for o in node.operands)
    return MiningGraph(
        labels=tuple(node.label for node in nodes),
        edges=tuple(edges),
        eligible=-1 if all(node.eligible for node in nodes) else bits(i for i, n in enumerate(nodes) if n.eligible),
        apart=tuple(sorted({(o.producer, at) for at, node in enumerate(nodes) for o in node.operands if o.apart})),
        identities=range(len(nodes)),
    )
