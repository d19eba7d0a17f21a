"""Cut a set of operators out of a graph as a body of its own, in an order and with names that only its meaning decides.

Two occurrences with the same body text are served by one local function and one kernel. The text holds the labels,
all attributes, how tensors run between the operators, which of them leave, which outside operands are the same
tensor, and the values of labelled constants; sizes and values of other constants are no part of it.

The order comes from colour refinement: every operator starts with its own description as colour and takes in the
colours around it until nothing splits any more; ties are broken by singling out one of the equals and refining again.
Ties that are no symmetry may come out in two orders for two occurrences: they then get two functions, both right.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.operators import commutative_slot, find, label

IDENTITY_DIGITS = 12
LONGEST_NAME = 40


@dataclass(frozen=True)
class Extraction:
    """A set of operators as a body, and how it is called where it stood.

    Attributes:
        identity: hexadecimal digest of the body's text.
        name: name of the fused operator, a C identifier that begins with its operators and ends with the identity.
        body: the operators alone; inputs ``x0``, ``x1``, …, outputs ``y0``, …, values in between ``t0``, …,
            labelled constants ``c0``, …; its inputs and outputs stand in call order.
        nodes: index in the original graph of each of the body's nodes.
        inputs: original tensor behind each of the body's inputs.
        outputs: original tensor behind each of the body's outputs.
    """

    identity: str
    name: str
    body: OperatorGraph
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def extract(graph: OperatorGraph, nodes: Iterable[int]) -> Extraction:
    """Cut out a set of nodes.

    Args:
        graph: the operator graph.
        nodes: indices of the nodes; at least one. Convexity is the caller's business.

    Returns:
        The body with canonical names and order. Operands of two-operand commutative operators are put in canonical
        order, which changes no result.
    """
    members = tuple(sorted(set(nodes)))
    inside = set(members)
    constants = {graph.nodes[index].inputs[slot] for index in members for slot in _labelled_slots(graph, index)}
    escaping = set(graph.external_outputs(members))
    order, colours = _canonical_order(graph, members, constants, escaping)

    names: dict[str, str] = {}
    counts = {"x": 0, "y": 0, "t": 0, "c": 0}

    def formal(name: str, kind: str) -> str:
        if name not in names:
            names[name] = f"{kind}{counts[kind]}"
            counts[kind] += 1
        return names[name]

    body_nodes: list[Node] = []
    inputs: list[str] = []
    outputs: list[str] = []
    kept_constants: list[str] = []
    text: list[str] = []
    for position, index in enumerate(order):
        node = graph.nodes[index]
        operands = list(node.inputs)
        if len(operands) == 2 and all(operands) and commutative_slot(node, 1) == 0:
            operands.sort(key=lambda name: _operand_key(name, graph, names, inside, colours))
        for name in operands:
            if not name or name in names:
                continue
            if name in constants:
                formal(name, "c")
                kept_constants.append(name)
            else:  # producers inside come first in the order, so what has no name yet comes from outside
                formal(name, "x")
                inputs.append(name)
        for name in node.outputs:
            if name:
                formal(name, "y" if name in escaping else "t")
                if name in escaping:
                    outputs.append(name)
        taken = tuple(names[name] if name else "" for name in operands)
        given = tuple(names[name] if name else "" for name in node.outputs)
        body_nodes.append(replace(node, name=f"n{position}", inputs=taken, outputs=given, scope=""))
        text.append(f"{_description(graph, index)} {','.join(taken)} -> {','.join(given)}")

    # A kernel may rely on a constant operand: it reads it once, and indices it gathers by when it plans.
    text.append(",".join(names[original] for original in inputs if graph.tensors[original].constant))
    identity = hashlib.sha256("\n".join(text).encode()).hexdigest()[:IDENTITY_DIGITS]
    name = f"{_readable(body_nodes)}_{identity}"
    tensors = {}
    for original, given_name in names.items():
        tensor = graph.tensors[original]
        if original in constants:
            tensors[given_name] = replace(tensor, name=given_name)
        else:
            tensors[given_name] = Tensor(given_name, tensor.dtype, tensor.rank, tensor.constant)
    body = OperatorGraph(
        name,
        tuple(body_nodes),
        tensors,
        tuple(names[original] for original in inputs),
        tuple(names[original] for original in outputs),
    )
    return Extraction(identity, name, body, tuple(order), tuple(inputs), tuple(outputs))


def _labelled_slots(graph: OperatorGraph, index: int) -> list[int]:
    """Slots whose constant value belongs to the label and is known, so that it goes into the body."""
    node = graph.nodes[index]
    operator = find(node)
    if operator is None:
        return []
    present = [slot for slot in operator.labelled if slot < len(node.inputs) and node.inputs[slot]]
    return [slot for slot in present if graph.tensors[node.inputs[slot]].value is not None]


def _description(graph: OperatorGraph, index: int) -> str:
    """Everything about one node except where its tensors come from and go to."""
    node = graph.nodes[index]
    attributes = ";".join(f"{key}={_value(value)}" for key, value in sorted(node.attributes.items()))
    values = ";".join(
        f"{slot}={_value(graph.tensors[node.inputs[slot]].value)}" for slot in _labelled_slots(graph, index)
    )
    results = ",".join(graph.tensors[name].dtype if name else "" for name in node.outputs)
    # The label sorts the operands of commutative operators; a formal name below stands for one dtype and rank anyhow.
    return f"{node.operator}@{node.version} {label(graph, index)} [{attributes}] [{values}] {results}"


def _value(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return repr(value)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _canonical_order(
    graph: OperatorGraph, members: tuple[int, ...], constants: set[str], escaping: set[str]
) -> tuple[list[int], dict[str, str]]:
    """Members in canonical topological order, and the final colour of every tensor they touch."""
    inside = set(members)
    colour: dict[int, str] = {}
    for index in members:
        node = graph.nodes[index]
        leaving = tuple(name in escaping for name in node.outputs)
        colour[index] = _digest(_description(graph, index), leaving)
    operands: dict[int, list[tuple[int, str]]] = {}
    sources: dict[int, list[tuple[int, int, int]]] = {}  # (slot, producer, output)
    targets: dict[int, list[tuple[int, int, int]]] = {index: [] for index in members}  # (output, slot, consumer)
    outside_uses: dict[str, list[tuple[int, int]]] = {}  # tensor to (consumer, slot)
    feeders: dict[int, set[int]] = {}
    for index in members:
        node = graph.nodes[index]
        operands[index], sources[index], feeders[index] = [], [], set()
        for position, name in enumerate(node.inputs):
            if not name or name in constants:
                continue
            slot = commutative_slot(node, position)
            producer = graph.producers.get(name)
            if producer is not None and producer[0] in inside:
                sources[index].append((slot, *producer))
                targets[producer[0]].append((producer[1], slot, index))
                feeders[index].add(producer[0])
            else:
                operands[index].append((slot, name))
                outside_uses.setdefault(name, []).append((index, slot))
    tensor_colour = {name: _digest(graph.tensors[name].dtype, graph.tensors[name].rank) for name in outside_uses}

    def refine() -> None:
        classes = len(set(colour.values()))
        for _ in range(len(members) + 1):
            for name, uses in outside_uses.items():
                around = sorted((slot, colour[index]) for index, slot in uses)
                tensor_colour[name] = _digest(graph.tensors[name].dtype, graph.tensors[name].rank, around)
            fresh = {
                index: _digest(
                    colour[index],
                    sorted((slot, tensor_colour[name]) for slot, name in operands[index]),
                    sorted((slot, colour[producer], output) for slot, producer, output in sources[index]),
                    sorted((output, slot, colour[consumer]) for output, slot, consumer in targets[index]),
                )
                for index in members
            }
            colour.update(fresh)
            found = len(set(colour.values()))
            if found == classes:
                return
            classes = found

    refine()
    order: list[int] = []
    waiting = {index: len(feeders[index]) for index in members}
    ready = [index for index in members if not waiting[index]]
    while ready:
        smallest = min(colour[index] for index in ready)
        chosen = min(index for index in ready if colour[index] == smallest)
        if sum(1 for index in members if colour[index] == smallest) > 1:
            colour[chosen] = _digest(smallest, len(order))
            refine()
        order.append(chosen)
        ready.remove(chosen)
        for _, _, consumer in targets[chosen]:
            if chosen in feeders[consumer]:
                feeders[consumer].discard(chosen)
                waiting[consumer] -= 1
                if not waiting[consumer]:
                    ready.append(consumer)
    return order, tensor_colour


def _operand_key(
    name: str, graph: OperatorGraph, names: dict[str, str], inside: set[int], colours: dict[str, str]
) -> tuple[int, str, str]:
    """Sorting key for operands of commutative operators: values made inside, then operands named already, then new."""
    producer = graph.producers.get(name)
    if producer is not None and producer[0] in inside:
        return 0, f"{len(names[name]):04}{names[name]}", ""
    if name in names:
        return 1, f"{len(names[name]):04}{names[name]}", ""
    return 2, colours.get(name, ""), ""


def _readable(nodes: list[Node]) -> str:
    """The operators in a C identifier: repetitions once, the middle of long lists left out."""
    words: list[str] = []
    for node in nodes:
        word = re.sub(r"\W", "", node.op_type) or "Op"
        if not words or words[-1] != word:
            words.append(word)
    text = "_".join(words)
    if len(text) > LONGEST_NAME:
        kept = list(words)
        while len(kept) > 2 and len("_".join(kept)) > LONGEST_NAME - 4:
            kept.pop()
        text = f"{'_'.join(kept)[:LONGEST_NAME]}_{len(nodes)}"
    return text
