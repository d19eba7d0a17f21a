"""The table of operators: a file per family; for each operator its fusion class, label, cost and lowering."""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from math import inf

import numpy as np
import onnx
import onnx.defs
import onnx.helper

from graphopt.graph import Capture, Node, OperatorGraph
from graphopt.operators.base import Cost, FusionClass, Operand, Operator
from graphopt.operators.opaque import CONTROL_FLOW

FAMILIES = (
    "elementwise",
    "layout",
    "blocked",
    "lookup",
    "reduction",
    "normalization",
    "contraction",
    "transformer",
    "convolution",
    "window",
    "recurrent",
    "quantization",
    "metadata",
    "opaque",
)
"""Modules of this package, each with a tuple ``OPERATORS``."""

__all__ = ["FAMILIES", "Cost", "FusionClass", "Operator", "commutative_slot", "cost", "find", "label", "table"]


@cache
def table() -> dict[str, Operator]:
    """Every known operator by its full name (``Add``, ``com.microsoft.Gelu``)."""
    rows: dict[str, Operator] = {}
    for operator in _rows():
        key = f"{operator.domain}.{operator.op_type}" if operator.domain else operator.op_type
        if key in rows:
            raise ValueError(f"operator {key} stands twice in the table")
        rows[key] = operator
    return rows


def _rows() -> Iterator[Operator]:
    for family in FAMILIES:
        yield from import_module(f"graphopt.operators.{family}").OPERATORS


def find(node: Node) -> Operator | None:
    """The row of a node's operator; None for an unknown operator."""
    return table().get(node.operator)


def commutative_slot(node: Node, slot: int) -> int:
    """The slot that an edge carries: 0 for every operand of a commutative operator, so that they compare equal."""
    operator = find(node)
    return 0 if operator is not None and operator.commutative and slot >= 0 else slot


def label(graph: OperatorGraph, index: int) -> str:
    """What must be equal for one kernel to serve two operators, as canonical text.

    Domain and type; the attributes that change the computation, in the table's order, defaults left out; dtype and
    rank of every operand and result; the value of labelled constants (axes); a mark on structural operands that are
    not constant. Sizes are no part of it. Example: ``Transpose{perm=0,2,1}(float32[3])->float32[3]``.
    """
    node = graph.nodes[index]
    operator = find(node)
    parts = []
    if operator is None:
        parts = [f"{k}={_text(v)}" for k, v in sorted(node.attributes.items())]
    else:
        defaults = _defaults(node.domain, node.op_type, node.version)
        given = {k: v for k, v in node.attributes.items() if k not in defaults or not _equal(v, defaults[k])}
        parts = [f"{k}={_text(given[k])}" for k in operator.attributes if k in given]
        if operator.changed:
            parts.append(f"@{max((v for v in operator.changed if v <= node.version), default=1)}")
        for slot in operator.labelled:
            if slot < len(node.inputs) and node.inputs[slot]:
                value = graph.tensors[node.inputs[slot]].value
                parts.append(f"#{slot}={'?' if value is None else _text(value)}")
    operands = [_type(graph, name) for name in node.inputs]
    if operator is not None and operator.commutative:
        operands.sort()
    attributes = "{" + ",".join(parts) + "}" if parts else ""
    results = ",".join(_type(graph, name) for name in node.outputs)
    return f"{node.operator}{attributes}({','.join(operands)})->{results}"


@cache
def _defaults(domain: str, op_type: str, version: int) -> dict[str, object]:
    """Default values of an operator's attributes, where onnx knows the operator."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    known = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    values = {name: onnx.helper.get_attribute_value(v) for name, v in known.items() if v.name}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return tuple(value) if isinstance(value, list) else value


def _equal(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default


def _type(graph: OperatorGraph, name: str) -> str:
    if not name:
        return "-"
    tensor = graph.tensors[name]
    return f"{tensor.dtype or '?'}[{'?' if tensor.rank is None else tensor.rank}]"


def _text(value: object) -> str:
    if isinstance(value, np.ndarray):
        return ",".join(str(v) for v in value.ravel().tolist()) if value.size <= 64 else f"array{value.shape}"
    if isinstance(value, tuple):
        return ",".join(str(v) for v in value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "graph" if value is None else str(value)


def cost(capture: Capture, index: int) -> Cost | None:
    """Cost of one execution of a node at the capture's shapes; None when the operator or a shape is unknown.

    None as well for a node that is not what its operator can be, by its operands, shapes or attributes: no runtime
    takes it, and graphs that no runtime takes are costed too, for an operator that it does not know.

    Sequences and optionals have no shape: operators on them are costed by the tensors that go in and come out. If, Loop
    and Scan cost what their bodies cost, as often as these ran; None when that is unknown.
    """
    graph = capture.graph
    node = graph.nodes[index]
    operator = find(node)
    if operator is None:
        return None
    if operator.op_type in CONTROL_FLOW:
        return _cost_of_bodies(capture, node)

    def operand(name: str) -> Operand | None:
        shape = capture.shape(name)
        if shape is None and operator.shapeless and not graph.tensors[name].dtype:
            return None  # a sequence or an optional
        if shape is None:
            raise LookupError(name)
        return Operand(graph.tensors[name], shape)

    try:
        inputs = [operand(name) if name else None for name in node.inputs]
        outputs = [operand(name) if name else None for name in node.outputs]
    except LookupError:
        return None
    try:
        found = operator.cost(node, inputs, outputs)
        counts = (found.flops, found.bytes_read, found.bytes_written, found.parameter_bytes)
        return found if all(0 <= count < inf for count in counts) else None
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _cost_of_bodies(capture: Capture, node: Node) -> Cost | None:
    bodies = capture.bodies.get(node.name)
    if bodies is None:
        return None
    total = Cost(0, 0, 0, 0)
    for body in bodies:
        for index in range(len(body.capture.graph.nodes)):
            own = cost(body.capture, index)
            if own is None:
                return None
            total = Cost(
                total.flops + body.trips * own.flops,
                total.bytes_read + body.trips * own.bytes_read,
                total.bytes_written + body.trips * own.bytes_written,
                total.parameter_bytes + body.trips * own.parameter_bytes,
            )
    return total
