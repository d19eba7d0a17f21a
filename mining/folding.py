"""Captures that say the same as one: the same graph, executed with the same shapes, however often it was observed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from graphopt.graph import AttributeValue, Capture, Node, OperatorGraph, Tensor


@dataclass(frozen=True)
class Folded:
    """Captures as one, or a body of theirs.

    Attributes:
        capture: the first of them, with the sum of their executions; or a body of it, which ran as often.
        count: how many they are.
        of: a number for them, which their bodies share.
    """

    capture: Capture
    count: int
    of: int


def folded(captures: Iterable[Capture]) -> list[Folded]:
    """Captures of equal graphs with equal shapes as one each, in order of first appearance.

    A graph is read once, however many captures share the object; equal graphs in other objects are read once each.
    """
    contents: dict[int, str] = {}
    kept: list[Capture] = []  # keeps alive what is known by identity
    executions: dict[object, int] = {}
    counts: dict[object, int] = {}
    first: dict[object, Capture] = {}
    for capture in captures:
        graph = id(capture.graph)
        if graph not in contents:
            contents[graph] = content(capture.graph)
            kept.append(capture)
        bodies = id(capture.bodies) if capture.bodies else 0
        key = (contents[graph], frozenset(capture.shapes.items()), bodies)
        if first.setdefault(key, capture) is capture:
            executions[key] = counts[key] = 0
        executions[key] += capture.executions
        counts[key] += 1
    return [
        Folded(first[key] if count == 1 else replace(first[key], executions=executions[key]), count, number)
        for number, (key, count) in enumerate(counts.items())
    ]


def with_bodies(observed: Iterable[Folded]) -> list[Folded]:
    """The captures, each followed by the bodies that ran in it."""
    return [replace(one, capture=capture) for one in observed for capture in one.capture.and_bodies()]


def content(graph: OperatorGraph) -> str:
    """A hash of all that a graph says, names included."""
    parts = (
        graph.name,
        graph.inputs,
        graph.outputs,
        [_node(node) for node in graph.nodes],
        [_tensor(tensor) for tensor in graph.tensors.values()],
    )
    return sha256(repr(parts).encode()).hexdigest()


def _node(node: Node) -> tuple[object, ...]:
    attributes = [(name, _plain(value)) for name, value in sorted(node.attributes.items())]
    return node.name, node.operator, node.version, node.inputs, node.outputs, attributes, node.captured


def _tensor(tensor: Tensor) -> tuple[object, ...]:
    return tensor.name, tensor.dtype, tensor.rank, tensor.constant, _plain(tensor.value), tensor.shape


def _plain(value: AttributeValue) -> object:
    """A value whose ``repr`` holds all of it."""
    return (str(value.dtype), value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
