"""The operator graph: a captured ONNX graph as a labelled DAG, and a capture: that graph with its shapes and count.

A node is one operator execution; an edge is one use of a tensor. Constants (initializers and ``Constant`` nodes) are
tensors, not nodes: they are operands that a kernel reads, never work that a kernel does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

Shape = tuple[int, ...]
AttributeValue = int | float | str | bytes | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | np.ndarray | None
"""An attribute of an operator. ``None`` stands for a graph (the body of If, Loop or Scan)."""

LARGEST_KEPT_CONSTANT = 4096
"""Constants with at most so many elements keep their value in the operator graph; larger ones are only described."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph, as far as it is the same for every shape the graph runs with.

    Attributes:
        name: its name in the ONNX graph.
        dtype: numpy's name of the element type (``float32``, ``int64``, ``bool``, ``bfloat16``, ``string``, …);
            empty when unknown or not a tensor.
        rank: number of dimensions; None when unknown.
        constant: whether it is an initializer or the output of a Constant node.
        value: the constant's value where it has at most LARGEST_KEPT_CONSTANT elements, else None.
        shape: the constant's shape; None for what is computed (see Capture.shapes).
    """

    name: str
    dtype: str = ""
    rank: int | None = None
    constant: bool = False
    value: np.ndarray | None = None
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        name: its name in the ONNX graph; unique within the operator graph.
        domain: operator domain; empty for ai.onnx.
        op_type: operator type.
        version: opset version of the domain that the model imports.
        inputs: operand tensors by slot; empty for an absent optional operand.
        outputs: result tensors by output index; empty for an absent optional result.
        attributes: attribute name to value.
        captured: tensors of this graph that the node's bodies (If, Loop, Scan) read.
        scope: the body that the node stands in, as ``<name of the control-flow node>:<attribute>``; empty in the main
            graph.
    """

    name: str
    domain: str
    op_type: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]
    captured: tuple[str, ...] = ()
    scope: str = ""

    @property
    def operator(self) -> str:
        """Domain and type in one word: ``Add``, ``com.microsoft.Gelu``."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type


@dataclass(frozen=True)
class OperatorGraph:
    """A DAG of operators, in topological order.

    Attributes:
        name: what reports call it (usually the file's stem).
        nodes: operators; the producer of a tensor stands before its consumers.
        tensors: every tensor that a node touches, and the graph's inputs and outputs, by name.
        inputs: names of the graph's inputs, without initializers.
        outputs: names of the graph's outputs.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def producers(self) -> dict[str, tuple[int, int]]:
        """Tensor name to (node index, output index)."""
        return {
            output: (index, position)
            for index, node in enumerate(self.nodes)
            for position, output in enumerate(node.outputs)
            if output
        }

    @cached_property
    def consumers(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Tensor name to its uses, as (node index, slot). A use inside a body has slot -1."""
        uses: dict[str, list[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for slot, name in enumerate(node.inputs):
                if name:
                    uses.setdefault(name, []).append((index, slot))
            for name in node.captured:
                uses.setdefault(name, []).append((index, -1))
        return {name: tuple(pairs) for name, pairs in uses.items()}

    @cached_property
    def edges(self) -> tuple[tuple[int, int, int, int], ...]:
        """(producer, output index, consumer, slot) for every use of a computed tensor; parallel edges are kept."""
        return tuple(
            (*self.producers[name], consumer, slot)
            for name, uses in self.consumers.items()
            if name in self.producers
            for consumer, slot in uses
        )

    def external_inputs(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Tensors that the nodes read and do not produce, constants included, each once, in order of first use."""
        members = sorted(set(nodes))
        made = {output for index in members for output in self.nodes[index].outputs}
        names = (name for i in members for name in (*self.nodes[i].inputs, *self.nodes[i].captured))
        return tuple(dict.fromkeys(name for name in names if name and name not in made))

    def external_outputs(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Tensors that the nodes produce and that something outside of them, or the caller, reads; in node order."""
        members = sorted(set(nodes))
        inside = set(members)
        wanted = set(self.outputs)
        return tuple(
            output
            for index in members
            for output in self.nodes[index].outputs
            if output and (output in wanted or any(user not in inside for user, _ in self.consumers.get(output, ())))
        )


@dataclass(frozen=True)
class Capture:
    """One graph as executed.

    Attributes:
        graph: the operator graph.
        shapes: tensor name to the shape it had; what is missing is unknown.
        executions: how many times the graph ran with these shapes.
        source: where it came from, for messages (a path).
        bodies: name of a control-flow node (If, Loop, Scan) to what ran inside of it; without those whose trips or
            shapes are unknown.
        trips: scope to how many times its nodes ran in one execution, where the graph holds nodes of bodies too.
    """

    graph: OperatorGraph
    shapes: Mapping[str, Shape]
    executions: int = 1
    source: str = ""
    bodies: Mapping[str, tuple["Body", ...]] = field(default_factory=dict)
    trips: Mapping[str, int] = field(default_factory=dict)

    def shape(self, tensor: str) -> Shape | None:
        """The tensor's shape: observed, or a constant's own; None when unknown."""
        found = self.shapes.get(tensor)
        if found is None and tensor in self.graph.tensors:
            found = self.graph.tensors[tensor].shape
        return found

    def runs(self, index: int) -> int:
        """How many times a node runs in one execution; 0 where it did not, or where that is unknown."""
        scope = self.graph.nodes[index].scope
        return self.trips.get(scope, 0) if scope else 1

    def and_bodies(self) -> Iterator["Capture"]:
        """The capture, and each body that ran in it, at any depth, as a capture that ran as often as the body did."""
        yield self
        for bodies in self.bodies.values():
            for body in bodies:
                if body.trips:
                    runs = self.executions * body.trips
                    yield from replace(body.capture, executions=runs, source=self.source).and_bodies()

    def input_shapes(self) -> dict[str, Shape]:
        """Shapes of the graph's inputs, as far as they are known."""
        return {name: self.shapes[name] for name in self.graph.inputs if name in self.shapes}


@dataclass(frozen=True)
class Body:
    """A body of a control-flow node as it ran.

    Attributes:
        capture: the body; tensors of the graph around it are inputs or constants here. Its graph is called after the
            one around it and its scope: ``model/loop:body``.
        trips: how many times it ran in one execution of the graph around it.
        attribute: the node's attribute that holds it: ``body``, ``then_branch`` or ``else_branch``.
    """

    capture: Capture
    trips: int
    attribute: str


def scope_of(node: str, attribute: str) -> str:
    """The scope of a body: its control-flow node's name, and the attribute that holds it."""
    return f"{node}:{attribute}"
