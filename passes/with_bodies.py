"""Captures whose graph holds the nodes of If, Loop and Scan bodies too: fusion looks at these like at any others.

No edge leads out of a body into the graph around it, and one that leads in comes from a tensor that the control-flow
node captures: what is convex in a body alone is so in the whole.
"""

from collections.abc import Sequence
from dataclasses import replace

from graphopt.graph import Capture, Node, OperatorGraph, Shape, Tensor, scope_of

Parts = dict[str, dict[str, OperatorGraph]]
"""Control-flow node to its bodies by scope."""


def with_bodies(captures: Sequence[Capture]) -> tuple[Capture, ...]:
    """The captures, over a graph that holds the nodes of all bodies that ran in any of them.

    Args:
        captures: of one model whose nodes and tensors have names of their own, those in bodies included (see
            ``with_unique_names``).

    Returns:
        Captures of one graph. Nodes of a body stand before the node that it belongs to; ``trips`` says how often they
        ran. What a body takes from its control-flow node is an input of the graph, and what it hands back an output.
    """
    if not any(capture.bodies for capture in captures):
        return tuple(captures)
    parts: Parts = {}
    known: list[tuple[dict[str, Shape], dict[str, int]]] = []
    for capture in captures:
        shapes, trips = dict(capture.shapes), dict[str, int]()
        _gather(capture, 1, parts, shapes, trips)
        known.append((shapes, trips))
    main = captures[0].graph
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = dict(main.tensors)
    inputs, outputs = dict.fromkeys(main.inputs), dict.fromkeys(main.outputs)

    def lay(graph: OperatorGraph, scope: str) -> None:
        for node in graph.nodes:
            for inner, body in parts.get(node.name, {}).items():
                inputs.update(dict.fromkeys(name for name in body.inputs if name not in tensors))
                outputs.update(dict.fromkeys(body.outputs))
                tensors.update((name, tensor) for name, tensor in body.tensors.items() if name not in tensors)
                lay(body, inner)
            nodes.append(replace(node, scope=scope) if scope else node)

    lay(main, "")
    whole = OperatorGraph(main.name, tuple(nodes), tensors, tuple(inputs), tuple(outputs))
    return tuple(
        replace(capture, graph=whole, shapes=shapes, trips=trips)
        for capture, (shapes, trips) in zip(captures, known, strict=True)
    )


def _gather(capture: Capture, runs: int, parts: Parts, shapes: dict[str, Shape], trips: dict[str, int]) -> None:
    """Collect the bodies of a capture that itself runs so many times, and those in them."""
    for name, bodies in capture.bodies.items():
        for body in bodies:
            scope = scope_of(name, body.attribute)
            parts.setdefault(name, {}).setdefault(scope, body.capture.graph)
            trips[scope] = runs * body.trips
            shapes.update(body.capture.shapes)
            _gather(body.capture, trips[scope], parts, shapes, trips)
