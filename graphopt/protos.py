"""Small helpers for changing ONNX protobufs."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.errors import about
from graphopt.model_files import captured_names, topological_order


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that can be changed."""
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    return duplicate


def uses(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name that a node of the graph, a body inside of it, or the caller reads."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= {name for name in node.input if name} | set(captured_names(node))
    return names


def sort_nodes(nodes: Sequence[onnx.NodeProto], source: str = "model") -> list[onnx.NodeProto]:
    """The nodes with every producer before its consumers; as close to the order they came in as that allows.

    Raises:
        GraphoptError: the nodes form a cycle.
    """
    with about(source):
        return [nodes[index] for index in topological_order(nodes)]


def drop_unused(graph: onnx.GraphProto, *, constants_only: bool = False) -> tuple[int, int]:
    """Remove, in place, nodes whose results nothing reads, then initializers and type notes that nothing reads.

    Args:
        graph: the graph to change.
        constants_only: of nodes, remove Constant nodes only.

    Returns:
        (nodes removed, initializers removed).
    """
    needed = uses(graph) if constants_only else {value.name for value in graph.output}
    producer = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    keep: set[int] = set()
    pending = sorted(needed)
    while pending:
        index = producer.get(pending.pop())
        if index is None or index in keep:
            continue
        keep.add(index)
        node = graph.node[index]
        read = {name for name in node.input if name} | set(captured_names(node))
        needed |= read
        pending.extend(sorted(read))
    nodes = [
        node
        for index, node in enumerate(graph.node)
        if index in keep or (constants_only and node.op_type != "Constant")
    ]
    removed_nodes = len(graph.node) - len(nodes)
    listed = {value.name for value in graph.input}
    removed_initializers = 0
    if removed_nodes:
        replace_nodes(graph, nodes)
    dead = [t for t in graph.initializer if t.name not in needed and t.name not in listed]
    if dead:
        removed_initializers = len(dead)
        gone = {tensor.name for tensor in dead}
        for position in reversed([i for i, t in enumerate(graph.initializer) if t.name in gone]):
            del graph.initializer[position]
    if removed_nodes or dead:
        made = {output for node in graph.node for output in node.output} | {t.name for t in graph.initializer} | listed
        for position in reversed([i for i, value in enumerate(graph.value_info) if value.name not in made]):
            del graph.value_info[position]
    return removed_nodes, removed_initializers


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put copies of these nodes in place of the graph's nodes."""
    kept = []
    for node in nodes:
        duplicate = onnx.NodeProto()
        duplicate.CopyFrom(node)
        kept.append(duplicate)
    del graph.node[:]
    graph.node.extend(kept)


LARGEST_READ = 4096
"""Initializers with more elements are described to shape inference, not handed over: it reads no large values."""


@dataclass(frozen=True)
class TensorType:
    """What shape inference knows of a tensor: ONNX element type, and sizes by dimension (None for unknown ones)."""

    dtype: int
    dims: tuple[int | None, ...] | None


def tensor_types(model: onnx.ModelProto) -> dict[str, TensorType]:
    """Types of the main graph's tensors, inferred without touching large weights; what stays unknown is missing."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    listed = {tensor.name for tensor in graph.initializer}
    light.graph.input.extend(value for value in graph.input if value.name not in listed)
    for tensor in graph.initializer:
        if _elements(tensor) <= LARGEST_READ:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    # Where inference fails, what the model states itself is used.
    with suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    types: dict[str, TensorType] = {}
    for value in (*light.graph.value_info, *light.graph.output, *light.graph.input):
        tensor_type = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor_type.elem_type:
            dims = None
            if tensor_type.HasField("shape"):
                dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim)
            types[value.name] = TensorType(tensor_type.elem_type, dims)
    for tensor in graph.initializer:
        types[tensor.name] = TensorType(tensor.data_type, tuple(tensor.dims))
    return types


def small_constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and ``value`` tensors of Constant nodes with at most LARGEST_READ elements, by name.

    Initializers that are graph inputs too are left out: a caller may replace them.
    """
    listed = {value.name for value in graph.input}
    found = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in listed}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
                elif attribute.name == "value_ints":
                    found[node.output[0]] = numpy_helper.from_array(np.array(attribute.ints, np.int64))
                elif attribute.name == "value_int":
                    found[node.output[0]] = numpy_helper.from_array(np.array(attribute.i, np.int64))
                elif attribute.name == "value_float":
                    found[node.output[0]] = numpy_helper.from_array(np.array(attribute.f, np.float32))
    return {name: tensor for name, tensor in found.items() if _elements(tensor) <= LARGEST_READ}


def _elements(tensor: onnx.TensorProto) -> int:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size
