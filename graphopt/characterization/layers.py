"""Layers: the operators of a graph that multiply with weights or look rows of them up, with their matrix shapes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod

from graphopt import operators
from graphopt.characterization.parameters import elements, fixed_tensors, is_learned
from graphopt.graph import Capture, Node, OperatorGraph, Shape, Tensor
from graphopt.operators.base import FusionClass, Operator


class Kind(StrEnum):
    """What a layer is."""

    FC = "FC"
    CONVOLUTION = "convolution"
    GROUP_CONVOLUTION = "group convolution"  # several groups, depthwise ones included
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"


@dataclass(frozen=True, slots=True)
class Matrices:
    """A matrix product that a layer consists of, convolutions after im2col: [m, k] times [k, n], ``count`` times.

    The first matrix holds activations, the second one weights.
    """

    m: int
    k: int
    n: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in one execution.

    Attributes:
        node: place of its operator in the graph.
        kind: see Kind.
        operations: multiply and add counted apart.
        weights: elements of weights that are read; those of a recurrent layer once per step.
        activations: elements of activations that are read and written.
        matrices: its matrix products.
    """

    node: int
    kind: Kind
    operations: int
    weights: int
    activations: int
    matrices: tuple[Matrices, ...] = ()

    @property
    def intensity(self) -> float:
        """Operations per element of weights."""
        return self.operations / self.weights

    @property
    def whole_intensity(self) -> float:
        """Operations per element of weights and activations."""
        return self.operations / (self.weights + self.activations)


def layers(capture: Capture) -> list[Layer]:
    """Layers of a capture in execution order; those with a size that is unknown, or of no elements, are left out.

    A layer in the body of a Loop is one layer that works as often as the body runs.
    """
    fixed = fixed_tensors(capture.graph)
    found = []
    for index, node in enumerate(capture.graph.nodes):
        own = _layer(capture, index, fixed)
        if own is not None:
            found.append(own)
        for body in capture.bodies.get(node.name, ()):
            found += [_repeated(layer, index, body.trips) for layer in layers(body.capture) if body.trips]
    return found


def _repeated(layer: Layer, node: int, times: int) -> Layer:
    """A layer of a body, seen from the node that the body belongs to."""
    return Layer(
        node,
        layer.kind,
        layer.operations * times,
        layer.weights * times,
        layer.activations * times,
        tuple(replace(matrices, count=matrices.count * times) for matrices in layer.matrices),
    )


def pooled_by(capture: Capture, index: int) -> Iterator[int]:
    """Sums and means that fold the rows that a lookup gathered (the pooling of an embedding bag).

    Args:
        capture: the graph with its shapes.
        index: the lookup.
    """
    graph = capture.graph
    for user, _ in graph.consumers.get(graph.nodes[index].outputs[0], ()):
        if graph.nodes[user].op_type in ("ReduceSum", "ReduceMean", "ReduceMax"):
            yield user


def kind_of(graph: OperatorGraph, node: Node, row: Operator, fixed: frozenset[str]) -> Kind | None:
    """What kind of layer an operator is; None when it is none.

    Args:
        graph: its graph.
        node: the operator.
        row: its row in the table.
        fixed: tensors that are parameters (see ``fixed_tensors``).
    """
    weights = [name for name in node.inputs if name in fixed]
    if row.fusion_class is FusionClass.LOOKUP:
        computed = any(name and name not in fixed for name in node.inputs)
        table = node.inputs[0] in fixed and "Gather" in node.op_type and _is_table(graph.tensors[node.inputs[0]])
        return Kind.EMBEDDING if computed and (table or "Embed" in node.op_type) else None
    if not weights:
        return None
    if "recurrent" in row.rate_class:
        return Kind.RECURRENT
    if row.fusion_class is not FusionClass.CONTRACTION:
        return None
    if "Conv" in node.op_type:
        return Kind.GROUP_CONVOLUTION if _groups(node) > 1 else Kind.CONVOLUTION
    return Kind.FC


def _is_table(tensor: Tensor) -> bool:
    """Whether a constant can be a table of embeddings: rows of learned numbers."""
    return tensor.rank == 2 and is_learned(tensor)


def _layer(capture: Capture, index: int, fixed: frozenset[str]) -> Layer | None:
    node = capture.graph.nodes[index]
    row = operators.find(node)
    cost = operators.cost(capture, index)
    kind = None if row is None or cost is None else kind_of(capture.graph, node, row, fixed)
    if row is None or cost is None or kind is None:
        return None
    if kind is Kind.EMBEDDING:
        return _embedding(capture, index, fixed)
    weight = _weight_slot(capture, node, fixed)
    if kind is Kind.FC and weight is None:
        return None  # a product of activations with a constant that is no matrix
    steps = steps_of(capture, node)
    weights = _sum(
        capture, (name for slot, name in enumerate(node.inputs) if name in fixed and slot not in row.structural)
    )
    moved = dict.fromkeys(name for name in (*node.inputs, *node.outputs) if name and name not in fixed)
    activations = _sum(capture, moved)
    if not weights or not cost.flops:
        return None
    matrices = _matrices(capture, node, kind, weight, steps)
    return Layer(index, kind, cost.flops, weights * steps, activations, matrices)


def _embedding(capture: Capture, index: int, fixed: frozenset[str]) -> Layer | None:
    """A lookup with the pooling that follows it: one operation per gathered element that is summed."""
    node = capture.graph.nodes[index]
    gathered = elements(capture, node.outputs[0])
    if not gathered:
        return None
    pooling = list(pooled_by(capture, index))
    costs = [operators.cost(capture, user) for user in pooling]
    own = operators.cost(capture, index)
    operations = sum(cost.flops for cost in (own, *costs) if cost is not None)
    indices = _sum(capture, (name for name in node.inputs if name and name not in fixed))
    results = [name for user in pooling for name in capture.graph.nodes[user].outputs if name] or [node.outputs[0]]
    return Layer(index, Kind.EMBEDDING, operations, gathered, indices + _sum(capture, results))


def _sum(capture: Capture, names: "Iterator[str] | list[str] | dict[str, None]") -> int:
    return sum(elements(capture, name) or 0 for name in names)


def _groups(node: Node) -> int:
    value = node.attributes.get("group", 1)
    return value if isinstance(value, int) else 1


def _weight_slot(capture: Capture, node: Node, fixed: frozenset[str]) -> int | None:
    """The slot of the first fixed operand that is a matrix or more."""
    for slot, name in enumerate(node.inputs):
        if name in fixed and len(capture.shape(name) or ()) >= 2:
            return slot
    return None


def steps_of(capture: Capture, node: Node) -> int:
    """Steps of a recurrent layer, each of which reads the weights again; 1 for any other operator."""
    row = operators.find(node)
    if row is None or "recurrent" not in row.rate_class:
        return 1
    shape = capture.shape(node.inputs[0])
    return shape[1 if node.attributes.get("layout", 0) else 0] if shape else 1


def _matrices(capture: Capture, node: Node, kind: Kind, weight: int | None, steps: int) -> tuple[Matrices, ...]:
    result = elements(capture, node.outputs[0]) if node.outputs[0] else None
    shape = capture.shape(node.inputs[weight]) if weight is not None else None
    if shape is None:
        return ()
    if kind is Kind.RECURRENT:
        return _recurrent_matrices(capture, node, steps)
    if not result:
        return ()
    if kind is Kind.FC:
        source = elements(capture, node.inputs[0]) or 0
        return _fc_matrices(node, shape, source, result, weight == 0)
    if node.op_type.startswith("ConvTranspose"):
        source = elements(capture, node.inputs[0]) or 0
        k, n = shape[0] // _groups(node), prod(shape[1:])
        return (Matrices(source // max(1, shape[0]), k, n, _groups(node)),)
    return (Matrices(result // max(1, shape[0]), prod(shape[1:]), shape[0] // _groups(node), _groups(node)),)


def _fc_matrices(node: Node, weights: Shape, source: int, result: int, left: bool) -> tuple[Matrices, ...]:
    """Of a product whose weights are the right operand, or the left one: then it is seen transposed."""
    k, n = node.attributes.get("K"), node.attributes.get("N")
    if isinstance(k, int) and isinstance(n, int):  # weights packed in blocks
        return (Matrices(result // max(1, n), k, n),)
    if "Attention" in node.op_type:  # the projection of its input
        return (Matrices(source // max(1, weights[-2]), *weights[-2:]),)
    if node.op_type == "Einsum" or "MatMulNBits" in node.op_type:
        return ()  # whose axes are rows depends on the equation; several products in one
    transposed = bool(node.attributes.get("transA" if left else "transB", 0))
    rows, columns = weights[-2:]
    k, n = (columns, rows) if transposed != left else (rows, columns)
    count = prod(weights[:-2])
    return (Matrices(result // max(1, count * n), k, n, count),)


def _recurrent_matrices(capture: Capture, node: Node, steps: int) -> tuple[Matrices, ...]:
    """The products with W for all steps at once, and those with R step by step."""
    source, w, r = (capture.shape(node.inputs[slot]) for slot in (0, 1, 2))
    if source is None or w is None or r is None or len(source) != 3 or len(w) != 3 or len(r) != 3:
        return ()
    batch = source[0] * source[1] // max(1, steps)
    if node.domain:  # onnxruntime's quantized form holds both transposed
        w, r = (w[0], w[2], w[1]), (r[0], r[2], r[1])
    return Matrices(batch * steps, w[2], w[1], w[0]), Matrices(batch, r[2], r[1], r[0] * steps)
