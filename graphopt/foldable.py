"""Let runtimes fold and pack all that never changes: weights that callers could replace, states that a loop hands on.

Exporters from TensorFlow pass a cell's weights through the loop as states. As such they are copied on every trip, and
neither folded nor packed, because nothing says that they stay the same.
"""

from collections import Counter

import onnx
from onnx import helper

from graphopt.model_files import bodies, every_graph, origins, own_names
from graphopt.protos import copy, drop_unused, replace_nodes, uses

FIRST_IR_WITHOUT = 4
"""First ONNX IR version in which an initializer need not be a graph input."""

FIRST_SCAN_WITHOUT_BATCH = 9
"""Opset version from which a Scan's first operand is a state, and no longer the lengths of sequences."""


def foldable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without initializers among its inputs, and without states of loops that stay the same.

    Returns:
        A copy; the model itself where there is nothing to do.
    """
    return with_free_loop_constants(without_initializer_inputs(model)[0])[0]


def without_initializer_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model without initializers among its inputs, IR version at least 4; and how many there were.

    Returns:
        A copy; the model itself where there are none.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    listed = [i for i, value in enumerate(model.graph.input) if value.name in constants]
    if not listed:
        return model, 0
    changed = copy(model)
    for position in reversed(listed):
        del changed.graph.input[position]
    changed.ir_version = max(changed.ir_version, FIRST_IR_WITHOUT)
    return changed, len(listed)


def with_free_loop_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model whose Loop and Scan nodes have no states that stay the same; and how many they had.

    Returns:
        A copy; the model itself where there are none.
    """
    if not any(node.op_type in ("Loop", "Scan") for graph in every_graph(model.graph) for node in graph.node):
        return model, 0
    scans = any(
        entry.domain in ("", "ai.onnx") and entry.version >= FIRST_SCAN_WITHOUT_BATCH for entry in model.opset_import
    )
    changed = copy(model)
    freed = _free(changed.graph, scans)
    return (changed, freed) if freed else (model, 0)


def _free(graph: onnx.GraphProto, scans: bool) -> int:
    """Do it in place for a graph, then for the bodies in it."""
    freed = 0
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.domain not in ("", "ai.onnx") or not (node.op_type == "Loop" or (scans and node.op_type == "Scan")):
            continue
        handed_on = _free_node(node)
        read = uses(graph) if handed_on else set()
        nodes += [
            helper.make_node("Identity", [outer], [result], name=f"{result}_unchanged")
            for result, outer in handed_on
            if result in read
        ]
        freed += len(handed_on)
    if len(nodes) > len(graph.node):
        replace_nodes(graph, nodes)
    return freed + sum(_free(body, scans) for node in graph.node for body in bodies(node))


def _free_node(node: onnx.NodeProto) -> list[tuple[str, str]]:
    """Free the states of one node; (result that it no longer makes, outer value that this is) for each."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    if node.op_type == "Loop":
        first_operand, first_input, first_output = 2, 2, 1  # trips and condition; trip and condition; condition
        states = len(node.input) - first_operand
    else:
        first_operand = first_input = first_output = 0
        states = len(node.input) - next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    handed_on = origins(body)
    freed = []
    for state in reversed(range(states)):
        outer, inner = node.input[first_operand + state], body.input[first_input + state].name
        given = body.output[first_output + state].name
        given = handed_on.get(given, given)
        result = node.output[state] if state < len(node.output) else ""
        hidden = {outer, inner} & _defined(body, inner)
        if given != inner or not outer or hidden or len(node.output) <= 1:
            continue
        del body.input[first_input + state], body.output[first_output + state], node.input[first_operand + state]
        if state < len(node.output):
            del node.output[state]
        _read_instead(body, inner, outer)
        freed.append((result, outer))
    if freed:
        drop_unused(body)
    return freed


def _defined(body: onnx.GraphProto, apart_from: str) -> set[str]:
    """Names that a body or a graph in it gives to values of its own, apart from one of the body's inputs."""
    names = Counter(name for graph in every_graph(body) for name in own_names(graph))
    names[apart_from] -= 1
    return {name for name, count in names.items() if count}


def _read_instead(body: onnx.GraphProto, inner: str, outer: str) -> None:
    """Let everything in a body that reads one value read another one from outside."""
    for graph in every_graph(body):
        for node in graph.node:
            node.input[:] = [outer if name == inner else name for name in node.input]
        if any(value.name == inner for value in graph.output):  # a graph cannot hand on what is not its own
            kept = inner if inner != outer else f"{inner}_inside"
            nodes = [*graph.node, helper.make_node("Identity", [outer], [kept], name=f"{kept}_unchanged")]
            replace_nodes(graph, nodes)
            for value in graph.output:
                value.name = kept if value.name == inner else value.name
