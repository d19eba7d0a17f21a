"""Tell onnxruntime the shapes of fused operators' results, where nothing but the model decides them.

onnxruntime does not know what a custom operator does to shapes. Without them it can neither let a kernel write over its
operand nor plan memory behind it. A shape may be declared only if every run must have it: the model's inputs have fixed
sizes, and no tensor's size depends on values that come from the inputs.
"""

from collections.abc import Mapping

import numpy as np
import onnx

from graphopt.graph import Capture, OperatorGraph
from graphopt.operators import FusionClass, find
from graphopt.passes.base import LOCAL_DOMAIN

READ_SHAPES_ONLY = frozenset({"Shape", "Size"})


def fixed_tensors(graph: OperatorGraph) -> frozenset[str]:
    """Tensors whose shape is the same for all values of the inputs, if the inputs' own shapes are."""
    by_value: set[str] = set(graph.inputs)  # values depend on the inputs' values
    by_shape: set[str] = set()  # shapes do, too
    for node in graph.nodes:
        operator = find(node)
        read = [name for name in (*node.inputs, *node.captured) if name]
        unknown = operator is None or operator.fusion_class is FusionClass.OPAQUE
        deciding = () if operator is None else operator.structural
        decided = [node.inputs[slot] for slot in deciding if slot < len(node.inputs)]
        shape_varies = any(name in by_shape for name in read) or any(name in by_value for name in decided)
        if node.op_type in READ_SHAPES_ONLY:
            value_varies, shape_varies = shape_varies, False
        else:
            value_varies = unknown or any(name in by_value for name in read)
            shape_varies = shape_varies or unknown
        outputs = [name for name in node.outputs if name]
        if value_varies or shape_varies:
            by_value.update(outputs)
        if shape_varies:
            by_shape.update(outputs)
    return frozenset(name for node in graph.nodes for name in node.outputs if name and name not in by_shape)


def declare_shapes(model: onnx.ModelProto, capture: Capture) -> None:
    """Declare, in place, the fixed shapes of tensors that fused operators read and write.

    Args:
        model: a model with fused operators.
        capture: the graph it was made from, with the shapes it ran with.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    if not all(_has_fixed_shape(value) for value in inputs):
        return
    fixed = fixed_tensors(capture.graph)
    declared: Mapping[str, onnx.ValueInfoProto] = {value.name: value for value in model.graph.value_info}
    skipped = {value.name for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        if node.domain != LOCAL_DOMAIN:
            continue
        for name in (*node.input, *node.output):
            tensor, shape = capture.graph.tensors.get(name), capture.shape(name)
            if name not in fixed or name in skipped or tensor is None or shape is None:
                continue
            skipped.add(name)
            if name in declared:
                model.graph.value_info.remove(declared[name])
            data_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, data_type, shape))


def _has_fixed_shape(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
