"""Random small ONNX models with everything that a digest must see or ignore, and their structure for an oracle."""

from collections.abc import Iterator, Mapping

import networkx as nx
import numpy as np
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from graphopt.model_files import every_graph, topological_order

FLOAT = TensorProto.FLOAT
WEIGHT = 300
"""Elements of a weight; constants are smaller."""


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    """A model of twins, constants, weights, several outputs, absent operands, and bodies that read outer tensors."""
    names = iter(f"v{i}" for i in range(1000))
    graph = _graph(draw, names, [], inputs=draw(st.integers(1, 2)), depth=0)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _graph(draw: st.DrawFn, names: Iterator[str], outer: list[str], *, inputs: int, depth: int) -> GraphProto:
    values = [next(names) for _ in range(inputs)]
    declared = [helper.make_tensor_value_info(name, FLOAT, ["N", draw(st.sampled_from([2, 3]))]) for name in values]
    initializers, nodes = [], []
    for _ in range(draw(st.integers(0, 2))):
        name = next(names)
        if draw(st.booleans()):
            initializers.append(numpy_helper.from_array(np.zeros(WEIGHT, np.float32), name))
        else:
            value = np.full(draw(st.integers(1, 2)), draw(st.integers(0, 2)), draw(st.sampled_from(["f4", "i8"])))
            initializers.append(numpy_helper.from_array(value, name))
        values.append(name)
    made = []
    for _ in range(draw(st.integers(1, 5 if depth == 0 else 2))):
        operand = st.sampled_from(values + outer)
        if not values + outer:
            break
        kind = draw(st.sampled_from(["Relu", "Sub", "Split", "Clip", "Softmax", "Twin", "If"]))
        if kind == "Twin" and made:
            node = draw(st.sampled_from(made))
            twin = type(node)()
            twin.CopyFrom(node)
            if any(a.type == AttributeProto.GRAPH for a in node.attribute):
                continue
            twin.output[:] = [next(names) for _ in node.output]
            nodes.append(twin)
        elif kind == "If" and depth < 2:
            branches = [_graph(draw, names, values + outer, inputs=0, depth=depth + 1) for _ in range(2)]
            nodes.append(
                helper.make_node("If", [draw(operand)], [next(names)], then_branch=branches[0], else_branch=branches[1])
            )
        elif kind == "Sub":
            nodes.append(helper.make_node("Sub", [draw(operand), draw(operand)], [next(names)]))
        elif kind == "Split":
            nodes.append(helper.make_node("Split", [draw(operand)], [next(names), next(names)], axis=0))
        elif kind == "Clip":
            absent = draw(st.booleans())
            nodes.append(
                helper.make_node("Clip", [draw(operand), "" if absent else draw(operand), draw(operand)], [next(names)])
            )
        elif kind == "Softmax":
            nodes.append(
                helper.make_node("Softmax", [draw(operand)], [next(names)], axis=draw(st.sampled_from([0, 1])))
            )
        else:
            nodes.append(helper.make_node("Relu", [draw(operand)], [next(names)]))
        made.append(nodes[-1])
        values += nodes[-1].output
    used = {
        name for one in every_graph(helper.make_graph(nodes, "", [], [])) for node in one.node for name in node.input
    }
    ends = [name for node in nodes for name in node.output if name not in used] or values[-1:] or outer[-1:]
    if depth:
        ends = ends[:1] if len(ends) == 1 or not draw(st.booleans()) else [draw(st.sampled_from(ends))]
    outputs = [helper.make_tensor_value_info(name, FLOAT, None) for name in draw(st.permutations(ends))]
    return helper.make_graph(nodes, "g", declared, outputs, initializers)


@st.composite
def changed(draw: st.DrawFn, model: ModelProto) -> ModelProto:
    """The model with one thing changed, which may well give the same structure (an operand replaced by its twin)."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graphs = list(every_graph(copy.graph))
    graph = draw(st.sampled_from(graphs))
    kind = draw(st.sampled_from(["operand", "operand", "type", "attribute", "constant", "input", "outputs", "version"]))
    if kind == "operand" and graph.node:
        at = draw(st.integers(0, len(graph.node) - 1))
        node = graph.node[at]
        slot = draw(st.integers(0, len(node.input) - 1))
        before = [*(v.name for v in graph.input), *(t.name for t in graph.initializer)]
        before += [name for earlier in list(graph.node)[:at] for name in earlier.output] + list(node.input)
        node.input[slot] = draw(st.sampled_from([name for name in before if name] or [node.input[slot]]))
    elif kind == "type" and graph.node:
        node = draw(st.sampled_from(list(graph.node)))
        node.op_type = {"Relu": "Neg", "Sub": "Div", "Split": "SplitToSequence", "Softmax": "LogSoftmax"}.get(
            node.op_type, node.op_type
        )
    elif kind == "attribute":
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "axis":
                    attribute.i = 1 - attribute.i
                    return copy
    elif kind == "constant" and graph.initializer:
        tensor = draw(st.sampled_from(list(graph.initializer)))
        value = numpy_helper.to_array(tensor)
        other = draw(st.sampled_from([value + 1, value.astype("f8"), value[None], np.concatenate([value, value[:1]])]))
        tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
    elif kind == "input" and graph.input:
        declared = draw(st.sampled_from(list(graph.input))).type.tensor_type
        if draw(st.booleans()):
            declared.elem_type = TensorProto.DOUBLE
        else:
            declared.shape.dim[1].dim_value += 1
    elif kind == "outputs" and len(graph.output) > 1:
        outputs = draw(st.permutations(list(graph.output)))
        del graph.output[:]
        graph.output.extend(outputs[: draw(st.integers(1, len(outputs)))])
    elif kind == "version":
        copy.opset_import[0].version = 16
    return copy


def structure(model: ModelProto) -> nx.MultiDiGraph:
    """All that a digest sees, as a labelled graph: models of equal structure have isomorphic ones."""
    found: nx.MultiDiGraph = nx.MultiDiGraph()
    _add(found, model.graph, {}, None, model.opset_import[0].version)
    return found


Place = tuple[object, object]
"""Where a tensor comes from (a node of the oracle's graph, or None), and which of its outputs or which constant."""


def _add(found: nx.MultiDiGraph, graph: GraphProto, outer: Mapping[str, Place], owner: object, version: int) -> None:
    places = dict(outer)

    def new(*label: object) -> int:
        found.add_node(len(found), label=label)
        if owner is not None:
            found.add_edge(owner[0], len(found) - 1, kind=("inside", owner[1]))  # type: ignore[index]
        return len(found) - 1

    for position, value in enumerate(graph.input):
        tensor = value.type.tensor_type
        places[value.name] = (new("input", position, tensor.elem_type, tensor.shape.dim[1].dim_value), 0)
    read = {name for one in every_graph(graph) for node in one.node for name in node.input}
    read |= {value.name for one in every_graph(graph) for value in one.output}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size >= WEIGHT and array.dtype.kind == "f":
            if tensor.name in read:
                places[tensor.name] = (new("weight", tensor.data_type, array.shape), 0)
        else:
            places[tensor.name] = (None, (tensor.data_type, array.shape, array.tobytes()))

    def use(name: str, user: int, slot: int) -> object:
        """Connect a use; what a label must say of the operand."""
        if not name:
            return "absent"
        producer, what = places[name]
        if producer is None:
            return what
        found.add_edge(producer, user, kind=("reads", what, slot))
        return "computed"

    for node in (graph.node[index] for index in topological_order(graph.node)):
        plain = [(a.name, a.i) for a in node.attribute if a.type != AttributeProto.GRAPH]
        made = new()
        operands = tuple(use(name, made, slot) for slot, name in enumerate(node.input))
        found.nodes[made]["label"] = ("node", node.op_type, version, tuple(plain), operands, len(node.output))
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _add(found, attribute.g, places, (made, attribute.name), version)
        places.update({name: (made, index) for index, name in enumerate(node.output)})
    for position, value in enumerate(graph.output):
        end = new()
        found.nodes[end]["label"] = ("output", position, use(value.name, end, 0))


def same_structure(first: ModelProto, second: ModelProto) -> bool:
    """Whether two models differ in names, order and weights at most; by an isomorphism test."""
    return bool(
        nx.is_isomorphic(
            structure(first),
            structure(second),
            node_match=lambda a, b: a["label"] == b["label"],
            edge_match=lambda a, b: (
                sorted(str(e["kind"]) for e in a.values()) == sorted(str(e["kind"]) for e in b.values())
            ),
        )
    )


def _kinds(edges: Mapping[object, Mapping[str, object]]) -> list[str]:
    return sorted(str(edge["kind"]) for edge in edges.values())
