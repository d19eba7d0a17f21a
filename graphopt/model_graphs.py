"""From an ONNX model to its operator graph."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from graphopt.graph import LARGEST_KEPT_CONSTANT, AttributeValue, Node, OperatorGraph, Shape, Tensor
from graphopt.model_files import (
    bodies,
    captured_names,
    every_graph,
    inline_functions,
    own_names,
    topological_order,
    without_weights,
)
from graphopt.weights import dropped, dropped_type

TensorType = tuple[str, int | None]
"""numpy's name of the element type (empty when unknown), and the rank (None when unknown)."""

# Attributes of Constant other than `value`, with the element type that each one means.
_CONSTANT_LISTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def with_unique_names(model: ModelProto) -> ModelProto:
    """The model with its nodes named as in its operator graph, and no name in a body used for anything else.

    Returns:
        A copy; the model itself when each node, and each tensor of a body, has a name of its own already.
    """
    graphs = list(every_graph(model.graph))
    nodes = [node.name for graph in graphs for node in graph.node]
    tensors = [name for graph in graphs for name in own_names(graph)]
    if all(nodes) and len(set(nodes)) == len(nodes) and len(set(tensors)) == len(tensors):
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    for node, name in zip(changed.graph.node, unique_names(model.graph.node), strict=True):
        node.name = name
    taken_nodes = {node.name for graph in every_graph(changed.graph) for node in graph.node}
    seen_nodes = {node.name for node in changed.graph.node}
    taken = set(tensors) | {value.name for graph in graphs for value in graph.output}
    seen = set(own_names(changed.graph))

    def name_body(graph: GraphProto, outer: Mapping[str, str]) -> None:
        renamed = dict(outer)
        for name in own_names(graph):
            renamed[name] = _unlike(name, taken) if name in seen else name
            seen.add(renamed[name])
        for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
            value.name = renamed.get(value.name, value.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = renamed.get(sparse.values.name, sparse.values.name)
        for index, node in enumerate(graph.node):
            if not node.name or node.name in seen_nodes:
                node.name = _unlike(node.name or f"{node.op_type}_{index}", taken_nodes)
            seen_nodes.add(node.name)
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
            for body in bodies(node):
                name_body(body, renamed)

    for node in changed.graph.node:
        for body in bodies(node):
            name_body(body, {})
    return changed


def _unlike(name: str, taken: set[str]) -> str:
    """A name like this one that is not taken; now it is."""
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"


def to_graph(model: ModelProto, name: str, types: Mapping[str, TensorType] | None = None) -> OperatorGraph:
    """The operator graph of a model.

    Initializers, Constant nodes and dropped weights become constant tensors, function calls their bodies. Nodes are
    sorted topologically (nodes already in order keep it). A node without a name, or with one that another node has
    too, is called by its type and position (``Add_12``).

    Args:
        model: a checked model.
        name: what reports call it.
        types: dtype and rank of computed tensors. Without it, those that the model declares and onnx infers.

    Returns:
        The graph. Bodies of If, Loop and Scan are not part of it: their attribute is None, and what they read is in
        ``Node.captured``.
    """
    model = inline_functions(model)
    graph = model.graph
    constants = dict(constant_tensors(model))
    if types is None:
        types = declared_types(model)
    versions = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    names = unique_names(graph.node)
    nodes = []
    for index in topological_order(graph.node):
        proto = graph.node[index]
        if proto.output and all(output in constants or not output for output in proto.output):
            continue
        domain = plain_domain(proto.domain)
        nodes.append(
            Node(
                name=names[index],
                domain=domain,
                op_type=proto.op_type,
                version=versions.get(domain, 1),
                inputs=tuple(proto.input),
                outputs=tuple(proto.output),
                attributes={a.name: attribute_value(a) for a in sorted(proto.attribute, key=lambda a: a.name)},
                captured=tuple(captured_names(proto)),
            )
        )
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    outputs = tuple(value.name for value in graph.output)
    touched = [*inputs, *(t for node in nodes for t in (*node.inputs, *node.captured, *node.outputs)), *outputs]
    tensors = {}
    for tensor in dict.fromkeys(touched):
        if not tensor:
            continue
        if tensor in constants:
            tensors[tensor] = constants[tensor]
        else:
            dtype, rank = types.get(tensor, ("", None))
            tensors[tensor] = Tensor(tensor, dtype, rank)
    return OperatorGraph(name, tuple(nodes), tensors, inputs, outputs)


def with_ranks(graph: OperatorGraph, shapes: Mapping[str, Shape]) -> OperatorGraph:
    """The graph with the ranks of observed shapes; the same object when they were known already."""
    changed = {
        name: replace(tensor, rank=len(shapes[name]))
        for name, tensor in graph.tensors.items()
        if name in shapes and tensor.rank != len(shapes[name])
    }
    return replace(graph, tensors={**graph.tensors, **changed}) if changed else graph


def constant_tensors(model: ModelProto) -> Iterator[tuple[str, Tensor]]:
    """Name and description of every constant of the main graph: initializers, Constant nodes, dropped weights."""
    graph = model.graph
    for proto in graph.initializer:
        yield proto.name, _constant(proto.name, proto)
    for sparse in graph.sparse_initializer:
        shape = tuple(sparse.dims)
        yield (
            sparse.values.name,
            Tensor(sparse.values.name, dtype_name(sparse.values.data_type), len(shape), constant=True, shape=shape),
        )
    stand_ins = {node.output[0]: shape for node, shape in dropped(graph)}
    for node in graph.node:
        if node.op_type == "Constant" and plain_domain(node.domain) == "" and node.attribute and node.output:
            yield node.output[0], _constant_node(node)
        elif node.op_type == "ConstantOfShape" and node.output and node.output[0] in stand_ins:
            name, shape = node.output[0], stand_ins[node.output[0]]
            data_type = dropped_type(node)
            yield name, Tensor(name, dtype_name(data_type), len(shape), constant=True, shape=shape)


def _constant(name: str, proto: TensorProto) -> Tensor:
    shape = tuple(proto.dims)
    kept = math.prod(shape) <= LARGEST_KEPT_CONSTANT
    value = _frozen(numpy_helper.to_array(proto)) if kept else None
    return Tensor(name, dtype_name(proto.data_type), len(shape), constant=True, value=value, shape=shape)


def _constant_node(node: NodeProto) -> Tensor:
    name, attribute = node.output[0], node.attribute[0]
    if attribute.name == "value":
        return _constant(name, attribute.t)
    if attribute.name == "sparse_value":
        sparse = attribute.sparse_tensor
        shape = tuple(sparse.dims)
        return Tensor(name, dtype_name(sparse.values.data_type), len(shape), constant=True, shape=shape)
    content = onnx.helper.get_attribute_value(attribute)
    if attribute.name in _CONSTANT_LISTS:
        value = np.asarray(content, _CONSTANT_LISTS[attribute.name])
        dtype = value.dtype.name
    else:
        value, dtype = np.asarray(content, object), "string"
    kept = _frozen(value) if value.size <= LARGEST_KEPT_CONSTANT else None
    return Tensor(name, dtype, value.ndim, constant=True, value=kept, shape=value.shape)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array)  # own memory: to_array can return a view of the whole file
    array.flags.writeable = False
    return array


def declared_types(model: ModelProto) -> dict[str, TensorType]:
    """Types that a model declares or that onnx infers from what it declares, without running anything."""
    light = without_weights(model)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_KEPT_CONSTANT:
            light.graph.initializer.append(tensor)
        else:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    try:
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # what is declared still stands
        light = without_weights(model)
    graph = light.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: found for value in values if (found := declared_type(value))[0]}


def declared_type(value: ValueInfoProto) -> TensorType:
    """Dtype and rank as far as they are declared."""
    if not value.type.HasField("tensor_type"):
        return "", None
    tensor = value.type.tensor_type
    return dtype_name(tensor.elem_type), len(tensor.shape.dim) if tensor.HasField("shape") else None


def dtype_name(data_type: int) -> str:
    """Numpy's name of an ONNX element type (``float32``, ``bfloat16``, ``string``); empty when undefined."""
    if data_type == TensorProto.UNDEFINED:
        return ""
    if data_type == TensorProto.STRING:
        return "string"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(data_type).name)
    except (KeyError, TypeError, ValueError):
        return ""


def attribute_value(attribute: AttributeProto) -> AttributeValue:
    """An attribute as a plain value; None for graphs. Text is str, bytes only where it is not UTF-8."""
    kind = attribute.type
    if kind in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None
    if kind == AttributeProto.TENSOR:
        return _frozen(numpy_helper.to_array(attribute.t))
    if kind in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS, AttributeProto.TENSORS):
        return bytes(attribute.SerializeToString(deterministic=True))
    if kind in (AttributeProto.TYPE_PROTO, AttributeProto.TYPE_PROTOS):
        return bytes(attribute.SerializeToString(deterministic=True))
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, int | float):
        return value
    items = list(value)
    if items and isinstance(items[0], bytes):
        return tuple(item.decode("utf-8", "replace") for item in items)
    return tuple(items)


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def plain_domain(domain: str) -> str:
    """The domain, with the one name for the standard operators that stands for both."""
    return "" if domain == "ai.onnx" else domain


def unique_names(nodes: Sequence[NodeProto]) -> list[str]:
    """A name for every node; its own where it has one that no earlier node has."""
    taken = {node.name for node in nodes}
    seen: set[str] = set()
    names = []
    for index, node in enumerate(nodes):
        name = node.name
        if not name or name in seen:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
        seen.add(name)
        names.append(name)
    return names
