"""Tidying of exported ONNX models before they are stored: plain initializers, short names, no remarks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import inliner, numpy_helper, shape_inference

# The first version in which nodes carry metadata, which dropped weights are marked with.
IR_VERSION = 10


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto:
    """The value of a Constant node."""
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return value
    is_float = attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS)
    return numpy_helper.from_array(np.array(value, dtype=np.float32 if is_float else np.int64))


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers and drop the Identity nodes that only rename a value."""
    renamed: dict[str, str] = {}
    produced = {output.name for output in graph.output}
    known = {tensor.name for tensor in graph.initializer}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if node.op_type == "Constant":
            tensor = graph.initializer.add()
            tensor.CopyFrom(constant_tensor(node))
            tensor.name = node.output[0]
        elif node.op_type == "Identity" and (node.output[0] not in produced or node.input[0] in known):
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def merge_small_initializers(graph: onnx.GraphProto, largest: int = 16) -> None:
    """Keep one copy of equal small integer or scalar initializers (shapes, axes, epsilons)."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    used = {name for node in graph.node for name in node.input}
    kept: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        if tensor.name not in used:
            continue
        array = numpy_helper.to_array(tensor)
        if array.size <= largest and (array.ndim == 0 or array.dtype.kind in "iu"):
            key = (tensor.data_type, tuple(tensor.dims), array.tobytes())
            if first.setdefault(key, tensor.name) != tensor.name:
                renamed[tensor.name] = first[key]
                continue
        kept.append(numpy_helper.from_array(array, tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def shorten_names(graph: onnx.GraphProto) -> None:
    """Number nodes by operator and values by position; weights keep their module path."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    renamed: dict[str, str] = {}
    folded = 0
    scalars = 0
    for tensor in graph.initializer:
        name = tensor.name
        if name in fixed:
            continue
        if name.endswith((".weight", ".bias")) and "/" not in name and ":" not in name:
            renamed[name] = name
        elif np.prod(tensor.dims) <= 16:
            renamed[name] = f"constant_{scalars}"
            scalars += 1
        else:
            renamed[name] = f"weight_{folded}"
            folded += 1
    counts: dict[str, int] = {}
    values = 0
    for node in graph.node:
        number = counts.get(node.op_type, 0)
        counts[node.op_type] = number + 1
        node.name = f"{node.op_type}_{number}"
        for name in node.output:
            if name and name not in fixed:
                renamed[name] = f"value_{values}"
                values += 1
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = renamed.get(name, name)


def strip_remarks(model: onnx.ModelProto) -> None:
    """Remove doc strings, metadata and inferable shapes, which may hold stack traces and machine paths."""
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    graph = model.graph
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.ClearField("quantization_annotation")
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")


def set_output_axes(model: onnx.ModelProto, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Give the dynamic axes of outputs the sample's names and leave the others to shape inference."""
    for value in model.graph.output:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            name = axes.get(value.name, {}).get(axis)
            if name is not None:
                dimension.dim_param = name
            elif dimension.dim_param:
                dimension.Clear()
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    for value, other in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(other)
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param.startswith("unk__"):
                dimension.Clear()


def clean(model: onnx.ModelProto, name: str, axes: Mapping[str, Mapping[int, str]]) -> onnx.ModelProto:
    """A tidied copy of an exported model."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if result.functions:
        result = inliner.inline_local_functions(result)
        del result.functions[:]
    graph = result.graph
    graph.name = name
    result.ir_version = IR_VERSION
    # Whether torch was built for a processor or an accelerator ("+cpu") must not change the file.
    result.producer_version = result.producer_version.split("+")[0]
    lift_constants(graph)
    merge_small_initializers(graph)
    shorten_names(graph)
    strip_remarks(result)
    set_output_axes(result, axes)
    domains = {node.domain for node in graph.node}
    opsets = [entry for entry in result.opset_import if entry.domain in domains]
    del result.opset_import[:]
    result.opset_import.extend(opsets)
    return result
