"""Liveness: how many activations exist at once while a graph executes in its order."""

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt import operators
from graphopt.characterization.parameters import elements, fixed_tensors
from graphopt.graph import Capture, Node, OperatorGraph
from graphopt.operators.base import FusionClass


@dataclass(frozen=True, slots=True)
class Storage:
    """Activations that share one piece of memory: a tensor and the views of it.

    Attributes:
        tensors: their names, the first one is the one that was computed.
        elements: size.
        birth: place in the execution order of the node that computes it; -1 for an input of the graph.
        death: place of the last node that reads it; the number of nodes for an output of the graph.
    """

    tensors: tuple[str, ...]
    elements: int
    birth: int
    death: int


@dataclass(frozen=True, slots=True)
class Liveness:
    """The most activations that are live at once.

    Attributes:
        elements: how many.
        node: place of the node during which they are.
        unknown: activations without a known shape, which are left out.
    """

    elements: int
    node: int
    unknown: int = 0


def storages(capture: Capture, *, in_place: bool = False) -> tuple[list[Storage], int]:
    """All activations of a capture by storage, and how many have no known shape.

    Args:
        capture: the graph with its shapes; its nodes execute in their order.
        in_place: let an element-wise operator write over an operand of the same size that nobody reads later and that
            is not an input of the graph. Without it, operands and results exist side by side.
    """
    graph = capture.graph
    fixed = fixed_tensors(graph)
    birth: dict[str, int] = {name: -1 for name in graph.inputs if name not in fixed}
    for index, node in enumerate(graph.nodes):
        birth.update({name: index for name in node.outputs if name and name not in fixed})
    death = {name: max((user for user, _ in graph.consumers.get(name, ())), default=at) for name, at in birth.items()}
    death.update({name: len(graph.nodes) for name in graph.outputs if name in birth})
    sizes = {name: elements(capture, name) for name in birth}

    root: dict[str, str] = {name: name for name in birth}
    for node in graph.nodes:
        if is_view(node) and node.inputs and node.inputs[0] in root and node.outputs[0] in root:
            root[node.outputs[0]] = root[node.inputs[0]]
    members: dict[str, list[str]] = {}
    for name, first in root.items():
        members.setdefault(first, []).append(name)
    ends = {first: max(death[name] for name in names) for first, names in members.items()}
    if in_place:
        for index, node in enumerate(graph.nodes):
            over = _overwritten(graph, node, index, root, ends, sizes)
            if over is not None:
                moved = node.outputs[0]
                ends[over] = max(ends[over], ends.pop(moved))
                members[over] += members.pop(moved)
                root.update(dict.fromkeys(members[over], over))
    found = [
        Storage(tuple(names), max(sizes[name] or 0 for name in names), birth[first], ends[first])
        for first, names in members.items()
        if sizes[first] is not None
    ]
    return found, sum(size is None for size in sizes.values())


def liveness(capture: Capture, *, in_place: bool = False) -> Liveness:
    """The most activation elements that are live while any one node executes, its operands and results included.

    Args:
        capture: the graph with its shapes.
        in_place: see ``storages``.
    """
    found, unknown = storages(capture, in_place=in_place)
    change = [0] * (len(capture.graph.nodes) + 2)
    for storage in found:
        change[max(0, storage.birth)] += storage.elements
        change[storage.death + 1] -= storage.elements
    most = node = live = 0
    for index in range(max(1, len(capture.graph.nodes))):
        live += change[index]
        if live > most:
            most, node = live, index
    return Liveness(most, node, unknown)


def is_view(node: Node) -> bool:
    """Whether an operator hands the storage of its first operand on (Reshape, Squeeze, Identity)."""
    row = operators.find(node)
    return row is not None and row.rate_class == "view" and not row.shapeless


def _overwritten(
    graph: OperatorGraph,
    node: Node,
    index: int,
    root: Mapping[str, str],
    ends: Mapping[str, int],
    sizes: Mapping[str, int | None],
) -> str | None:
    """The storage that an element-wise operator's result can take over; None when there is none."""
    row = operators.find(node)
    result = node.outputs[0] if node.outputs else ""
    if row is None or row.fusion_class is not FusionClass.ELEMENTWISE or result not in root or is_view(node):
        return None
    for name in node.inputs:
        first = root.get(name)
        if first is None or first in graph.inputs or ends[first] != index or sizes[name] != sizes[result]:
            continue
        if graph.tensors[name].dtype == graph.tensors[result].dtype:
            return first
    return None
