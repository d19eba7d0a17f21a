"""Put fused operators in place of occurrences: each a call of a local function whose body is the very subgraph."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.graph import AttributeValue, Capture, OperatorGraph
from graphopt.model_files import every_graph, own_names
from graphopt.passes.base import LOCAL_DOMAIN
from graphopt.passes.extract import Extraction
from graphopt.passes.fixed_shapes import declare_shapes
from graphopt.protos import copy, drop_unused, replace_nodes, sort_nodes

LOCAL_DOMAIN_VERSION = 1
FIRST_IR_WITH_FUNCTIONS = 8


def rewrite(
    model: onnx.ModelProto,
    graph: OperatorGraph,
    chosen: Sequence[Extraction],
    *,
    capture: Capture | None = None,
    source: str = "model",
) -> onnx.ModelProto:
    """Replace disjoint convex occurrences by fused operators.

    Args:
        model: the model that the graph was read from.
        graph: its operator graph.
        chosen: what to replace; node indices refer to the graph.
        capture: the graph with shapes, to declare those that are fixed.
        source: name of the model, for messages.

    Returns:
        A new model: nodes in topological order, one function per identity, graph inputs and outputs as before. Calls
        in a body (If, Loop, Scan) find their constants in it: onnxruntime tells kernels of no others.

    Raises:
        GraphoptError: the chosen sets form a cycle or overlap, or an operator is not in the model.
    """
    changed = copy(model)
    graphs = list(every_graph(changed.graph))
    home = {name: place for place, inner in enumerate(graphs) for node in inner.node for name in node.output if name}
    inside: set[int] = set()
    gone: set[str] = set()
    for extraction in chosen:
        if inside & set(extraction.nodes):
            raise GraphoptError(f"{source}: two of the chosen occurrences share an operator")
        inside |= set(extraction.nodes)
        for index in extraction.nodes:
            outputs = [name for name in graph.nodes[index].outputs if name]
            if not outputs or any(name not in home for name in outputs):
                raise GraphoptError(f"{source}: operator {graph.nodes[index].name} is not in the model")
            gone.update(outputs)
    names = {node.name for inner in graphs for node in inner.node}
    numbers: dict[str, int] = {}
    calls: dict[int, list[tuple[int, onnx.NodeProto]]] = {}
    for extraction in sorted(chosen, key=lambda e: min(e.nodes)):
        number = numbers.get(extraction.name, 0)
        while f"{extraction.name}_{number}" in names:
            number += 1
        numbers[extraction.name] = number + 1
        calls.setdefault(home[extraction.outputs[0]], []).append(
            (
                min(extraction.nodes),
                helper.make_node(
                    extraction.name,
                    list(extraction.inputs),
                    list(extraction.outputs),
                    name=f"{extraction.name}_{number}",
                    domain=LOCAL_DOMAIN,
                ),
            )
        )
    made = {name for extraction in chosen for name in extraction.outputs}
    for place in sorted(calls, reverse=True):  # bodies before the graphs that they are part of
        inner = graphs[place]
        if place:
            _bring_constants(inner, [node for _, node in calls[place]], graph, graphs)
        kept = [node for node in inner.node if not any(name in gone for name in node.output)]
        replace_nodes(inner, sort_nodes(_merge(kept, calls[place], graph), source))
        stale = [i for i, value in enumerate(inner.value_info) if value.name in gone - made]
        for position in reversed(stale):
            del inner.value_info[position]
        drop_unused(inner, constants_only=True)
    _add_functions(changed, chosen)
    drop_unused(changed.graph, constants_only=True)
    if capture is not None:
        declare_shapes(changed, capture)
    return changed


def _bring_constants(
    body: onnx.GraphProto,
    calls: Sequence[onnx.NodeProto],
    graph: OperatorGraph,
    graphs: Sequence[onnx.GraphProto],
) -> None:
    """Give a body constants of its own for those outside of it that its calls read."""
    own = set(own_names(body))
    wanted = {
        name for node in calls for name in node.input if name and graph.tensors[name].constant and name not in own
    }
    taken = {name for inner in graphs for name in own_names(inner)}
    brought: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for name in sorted(wanted):
        number = 0
        while f"{name}_in_body_{number}" in taken:
            number += 1
        copied = f"{name}_in_body_{number}"
        for inner in graphs:
            for tensor in inner.initializer:
                if tensor.name == name:
                    body.initializer.add().CopyFrom(tensor)
                    body.initializer[-1].name = brought[name] = copied
            for node in inner.node:
                if node.op_type == "Constant" and node.output[0] == name:
                    nodes.append(onnx.NodeProto())
                    nodes[-1].CopyFrom(node)
                    nodes[-1].name = nodes[-1].output[0] = brought[name] = copied
    if nodes:
        replace_nodes(body, [*nodes, *body.node])
    for node in calls:
        node.input[:] = [brought.get(name, name) for name in node.input]


def _merge(
    kept: Sequence[onnx.NodeProto], calls: Sequence[tuple[int, onnx.NodeProto]], graph: OperatorGraph
) -> list[onnx.NodeProto]:
    """Kept nodes and calls in the graph's order, a call where its first operator stood."""
    placed: list[tuple[int, int, onnx.NodeProto]] = [(index, 0, node) for index, node in calls]
    position = -1
    for node in kept:
        found = [graph.producers[name][0] for name in node.output if name in graph.producers]
        position = found[0] if found else position
        placed.append((position, 1, node))
    return [node for _, _, node in sorted(placed, key=lambda row: row[:2])]


def _add_functions(model: onnx.ModelProto, chosen: Sequence[Extraction]) -> None:
    if not chosen:
        return
    present = {(function.domain, function.name) for function in model.functions}
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    for extraction in sorted(chosen, key=lambda e: e.name):
        if (LOCAL_DOMAIN, extraction.name) not in present:
            present.add((LOCAL_DOMAIN, extraction.name))
            model.functions.append(function(extraction.body, versions))
    if LOCAL_DOMAIN not in versions:
        model.opset_import.append(helper.make_opsetid(LOCAL_DOMAIN, LOCAL_DOMAIN_VERSION))
    model.ir_version = max(model.ir_version, FIRST_IR_WITH_FUNCTIONS)


def function(body: OperatorGraph, versions: Mapping[str, int] | None = None) -> onnx.FunctionProto:
    """A body as an ONNX local function of the domain of fused operators.

    Args:
        body: operators with formal inputs and outputs; constants with values become Constant nodes.
        versions: opset version by domain; the nodes' own when left out.
    """
    nodes = []
    domains: dict[str, int] = {}
    constants = [t for t in body.tensors.values() if t.constant and t.value is not None and t.name not in body.inputs]
    for tensor in sorted(constants, key=lambda t: t.name):
        value = numpy_helper.from_array(np.asarray(tensor.value, order="C"))
        nodes.append(helper.make_node("Constant", [], [tensor.name], name=f"constant_{tensor.name}", value=value))
        domains[""] = (versions or {}).get("", max((n.version for n in body.nodes if not n.domain), default=13))
    for node in body.nodes:
        domain = _domain(node.domain)
        proto = helper.make_node(
            node.op_type, list(node.inputs), list(node.outputs), name=node.name, domain=domain or None
        )
        proto.attribute.extend(_attribute(key, value) for key, value in sorted(node.attributes.items()))
        nodes.append(proto)
        domains[domain] = (versions or {}).get(domain, node.version)
    opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(domains.items())]
    return helper.make_function(LOCAL_DOMAIN, body.name, list(body.inputs), list(body.outputs), nodes, opsets)


def _attribute(key: str, value: AttributeValue) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(value))
    if value is None:
        raise GraphoptError(f"attribute {key}: operators with bodies cannot be fused")
    if isinstance(value, tuple):
        kinds = {int: onnx.AttributeProto.INTS, float: onnx.AttributeProto.FLOATS, str: onnx.AttributeProto.STRINGS}
        # An empty list keeps no type; ints are what every operator with an empty list of its own uses.
        kind = kinds.get(type(value[0]), onnx.AttributeProto.INTS) if value else onnx.AttributeProto.INTS
        return helper.make_attribute(key, list(value), attr_type=kind)
    return helper.make_attribute(key, value)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
