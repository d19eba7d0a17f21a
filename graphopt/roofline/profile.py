"""What the roofline knows of a capture whatever the machine: costs, sizes, where data lie, what kernels execute.

Computed once per capture, and kept as long as the capture lives.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TypeVar, cast

from graphopt import operators
from graphopt.graph import Capture, Node, OperatorGraph
from graphopt.machine import Machine
from graphopt.operators.base import Cost, FusionClass, Operator, storage_bytes
from graphopt.operators.executed import Executed, executed
from graphopt.operators.opaque import CONTROL_FLOW
from graphopt.operators.pieces import Shapes, regimes
from graphopt.operators.products import factor_slots
from graphopt.operators.sums import Sums, sums
from graphopt.residence import Touches, touches
from graphopt.roofline.orders import Turn, turn_of

COLUMNS = "columns"
"""Special case of reductions in kernels: rows that lie on top of each other are added up."""

SPECIAL = "_"
"""Stands between a class and its special case in the name of a rate."""

Move = tuple[float, float, float]
"""Bytes that are read, that are written, and that are in use meanwhile."""

Seconds = list[float | None]
"""Of each node; None where unknown."""

T = TypeVar("T")


def rate_keys(operator: str, cost: Cost, row: Operator, kinds: Sequence[str] = ()) -> list[str]:
    """Names that an operator's rate may have on a machine, the most special one first.

    Args:
        operator: its full name.
        cost: of this execution.
        row: its row in the table.
        kinds: special cases that may have a class of their own (``transpose_elements``, ``gemm_row``), the most special
            one first; see ``operators.pieces.regimes``.
    """
    names = [name for name in (operator, cost.rate_class, row.rate_class) if name]
    return [f"{name}{SPECIAL}{kind}" for kind in kinds for name in names] + names


@dataclass(frozen=True, slots=True)
class Result:
    """A result of a node.

    Attributes:
        name: the tensor.
        bytes: its size; None when unknown.
        wanted: whether the caller reads it.
        users: nodes that read it.
    """

    name: str
    bytes: int | None
    wanted: bool
    users: frozenset[int]

    def leaves(self, inside: set[int]) -> bool:
        """Whether something outside of a set of nodes, or the caller, reads it."""
        return self.wanted or not inside.issuperset(self.users)


@dataclass(frozen=True, slots=True)
class Use:
    """An operand of a node.

    Attributes:
        name: the tensor.
        producer: the node that makes it; -1 for none.
        constant: whether it is a constant.
        bytes: its size; None when unknown.
        read: bytes of it that are read.
    """

    name: str
    producer: int
    constant: bool
    bytes: int | None
    read: int | None


class Profile:
    """Costs of a capture's operators."""

    def __init__(self, capture: Capture) -> None:
        # No reference to the capture: it would keep itself alive through the registry below.
        self.graph = capture.graph
        self.bodies = capture.bodies
        self.shape: Callable[[str], tuple[int, ...] | None] = {
            name: shape for name in self.graph.tensors if (shape := capture.shape(name)) is not None
        }.get
        self.rows: list[Operator | None] = [operators.find(node) for node in self.graph.nodes]
        self.costs: list[Cost | None] = [
            None if row is None or row.op_type in CONTROL_FLOW else operators.cost(capture, index)
            for index, row in enumerate(self.rows)
        ]
        for index, row in enumerate(self.rows):
            if row is not None and row.op_type not in CONTROL_FLOW and self._is_malformed(index):
                self.rows[index] = None
        self._known: dict[tuple[int, Callable[..., object]], object] = {}
        self._executed: dict[tuple[int, bool], Executed | None] = {}
        # seconds by machine: of nodes of their own (``nodes``), and of arithmetic in kernels (``arithmetic``)
        self.node_seconds: weakref.WeakKeyDictionary[Machine, Seconds] = weakref.WeakKeyDictionary()
        self.kernel_seconds: weakref.WeakKeyDictionary[Machine, Seconds] = weakref.WeakKeyDictionary()

    @cached_property
    def parameter_bytes(self) -> int:
        """Bytes of constants that one execution reads, each once: they decide where weights stay between executions."""
        return sum(cost.parameter_bytes for cost in self.costs if cost is not None)

    def repeated_moves(self, index: int) -> list[Move]:
        """Weights that a recurrent layer as a node of its own reads again in each step."""
        work = self.executed(index, unit=False) if self.is_of(index, FusionClass.SEQUENTIAL) else None
        return [] if work is None else [(work.again[0] * work.again[1], 0.0, work.again[0])]

    @cached_property
    def residence(self) -> list[Touches]:
        """Where each operator's operands and results lie."""
        classes = [None if row is None else row.fusion_class for row in self.rows]
        moving = [cost is None or bool(cost.bytes_read or cost.bytes_written) for cost in self.costs]
        in_place = [kind is FusionClass.ELEMENTWISE for kind in classes]
        views = [not moves and kind is not FusionClass.METADATA for moves, kind in zip(moving, classes, strict=True)]
        return touches(self.graph, lambda name: self.bytes_of(name) or 0, in_place, views)

    def executed(self, index: int, *, unit: bool) -> Executed | None:
        """What a kernel executes for a contraction, a pool, a recurrent layer or sums; None for other operators."""
        row = self.rows[index]
        if row is None:
            return None
        if row.fusion_class is FusionClass.REDUCTION:
            return self._summed(index)
        if row.fusion_class not in (FusionClass.CONTRACTION, FusionClass.WINDOW, FusionClass.SEQUENTIAL):
            return None

        def found(graph: OperatorGraph, node: Node, row: Operator, inputs: Shapes, outputs: Shapes) -> Executed | None:
            slot = factor_slots(node)[1]
            right = graph.tensors.get(node.inputs[slot]) if len(node.inputs) > slot else None
            computed = right is None or not right.constant
            return executed(node, inputs, outputs[0] or (), computed=computed, unit=unit) if outputs else None

        if (index, unit) not in self._executed:
            self._executed[index, unit] = self._count(index, found)
        return self._executed[index, unit]

    def sums(self, index: int) -> Sums | None:
        """How a kernel walks a reduction; None for other operators."""
        return self.counted(index, _sums) if self.is_of(index, FusionClass.REDUCTION) else None

    def _summed(self, index: int) -> Executed | None:
        found, cost = self.sums(index), self.costs[index]
        if found is None or cost is None:
            return None
        elements = found.outer * found.depth * found.width
        return Executed(COLUMNS if found.down_columns else "", cost.flops * found.lanes / elements, found.counts)

    def is_of(self, index: int, *kinds: FusionClass) -> bool:
        """Whether an operator belongs to one of these classes."""
        row = self.rows[index]
        return row is not None and row.fusion_class in kinds

    def is_summed(self, index: int) -> bool:
        """Whether nothing but reductions reads an operator's result."""
        users = [user for name in self.graph.nodes[index].outputs for user, _ in self.graph.consumers.get(name, ())]
        rows = [self.rows[user] for user in users]
        return bool(rows) and all(row is not None and row.fusion_class is FusionClass.REDUCTION for row in rows)

    def keys(self, index: int) -> list[str]:
        """Names that an operator's rate may have; see rate_keys."""
        cost, row = self.costs[index], self.rows[index]
        if cost is None or row is None:
            return []
        return rate_keys(self.graph.nodes[index].operator, cost, row, self.counted(index, regimes))

    def results_of(self, index: int) -> int:
        """Elements of an operator's results."""
        shapes = (self.shape(name) for name in self.graph.nodes[index].outputs if name)
        return sum(prod(shape) for shape in shapes if shape is not None)

    def counted(self, index: int, count: Callable[..., T]) -> T:
        """What a function of ``operators.pieces`` says about a node that has a row; computed once."""
        if (index, count) not in self._known:
            self._known[index, count] = self._count(index, count)
        return cast(T, self._known[index, count])

    def _is_malformed(self, index: int) -> bool:
        """Whether a node has all shapes and no cost: it is not what its operator can be."""
        node = self.graph.nodes[index]
        known = all(self.shape(name) is not None for name in (*node.inputs, *node.outputs) if name)
        return self.costs[index] is None and known

    def _count(self, index: int, count: Callable[..., T]) -> T:
        node = self.graph.nodes[index]
        inputs = [self.shape(name) if name else None for name in node.inputs]
        outputs = [self.shape(name) if name else None for name in node.outputs]
        return count(self.graph, node, self.rows[index], inputs, outputs)

    def dtype(self, index: int) -> str:
        """The dtype that an operator computes in: its first operand's, or its first result's without operands."""
        node = self.graph.nodes[index]
        name = next((name for name in (*node.inputs, *node.outputs) if name), "")
        return self.graph.tensors[name].dtype if name in self.graph.tensors else "float32"

    def elements(self, name: str) -> int:
        """Elements of a tensor; 0 when unknown."""
        return prod(self.shape(name) or (0,))

    @cached_property
    def turns(self) -> dict[int, Turn]:
        """Nodes that change the order of elements."""
        return {i: turn for i, node in enumerate(self.graph.nodes) if (turn := turn_of(node, i)) is not None}

    @cached_property
    def results(self) -> list[list["Result"]]:
        """Results of each node."""
        wanted = set(self.graph.outputs)
        return [
            [
                Result(
                    name,
                    self.bytes_of(name),
                    name in wanted,
                    frozenset(u for u, _ in self.graph.consumers.get(name, ())),
                )
                for name in node.outputs
                if name
            ]
            for node in self.graph.nodes
        ]

    @cached_property
    def uses(self) -> list[list["Use"]]:
        """Operands of each node that move."""
        return [
            [
                Use(
                    name,
                    self.graph.producers.get(name, (-1, 0))[0],
                    self.graph.tensors[name].constant,
                    self.bytes_of(name),
                    self._read(index, name),
                )
                for slot, name in enumerate(node.inputs)
                if name and not self._is_planned(index, slot)
            ]
            for index, node in enumerate(self.graph.nodes)
        ]

    def bytes_of(self, name: str) -> int | None:
        """Bytes of a tensor; None when unknown."""
        shape, tensor = self.shape(name), self.graph.tensors.get(name)
        return None if shape is None or tensor is None else storage_bytes(tensor.dtype, prod(shape))

    def _is_planned(self, index: int, slot: int) -> bool:
        """Whether the host reads an operand to plan, so that nothing moves."""
        row = self.rows[index]
        return row is not None and (slot in row.structural or row.fusion_class is FusionClass.METADATA)

    def _read(self, index: int, name: str) -> int | None:
        """Bytes of an operand that a node reads: all of it, or less where the operator picks parts."""
        cost, row = self.costs[index], self.rows[index]
        if cost is None or row is None:
            return None
        if row.fusion_class in (FusionClass.LOOKUP, FusionClass.LAYOUT) and cost.bytes_written:
            return cost.parameter_bytes if self.graph.tensors[name].constant else cost.bytes_read
        return self.bytes_of(name)  # what hands storage on (a Reshape) reads nothing, but what comes after it does


def _sums(graph: OperatorGraph, node: Node, row: Operator, inputs: Shapes, outputs: Shapes) -> Sums | None:
    source, result = inputs[0] if inputs else None, outputs[0] if outputs else None
    return None if source is None or result is None else sums(graph, node, source, result)


_profiles: dict[int, Profile] = {}


def profile_of(capture: Capture) -> Profile:
    """The profile of a capture, made when it is first asked for."""
    # Captures hold mappings, so they have no hash; their identity serves while they live.
    key = id(capture)
    found = _profiles.get(key)
    if found is None:
        found = _profiles[key] = Profile(capture)
        weakref.finalize(capture, _profiles.pop, key, None).atexit = False
    return found
