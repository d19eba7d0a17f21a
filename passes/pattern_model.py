"""One occurrence of a pattern as a model of its own, with real shapes, real constants and seeded inputs."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from graphopt.errors import GraphoptError
from graphopt.graph import OperatorGraph, Shape
from graphopt.observation import data_type
from graphopt.passes.protos import sort_nodes


def pattern_model(
    model: onnx.ModelProto, graph: OperatorGraph, nodes: Sequence[str], shapes: Mapping[str, Shape]
) -> onnx.ModelProto:
    """The model of some of a model's nodes.

    Args:
        model: the model, in the view that ``graph`` was made from.
        graph: its operator graph.
        nodes: names of the nodes.
        shapes: of the tensors that enter and leave.

    Returns:
        A model whose inputs are the computed tensors that the nodes read from others, whose outputs are what others
        read from them, and whose initializers are their constants. Tensors keep their names.

    Raises:
        GraphoptError: the model has no node of such a name.
    """
    index = {node.name: position for position, node in enumerate(graph.nodes)}
    missing = [name for name in nodes if name not in index]
    if missing:
        raise GraphoptError(f"{graph.name}: has no node {missing[0]!r}")
    chosen = sorted(index[name] for name in nodes)
    protos = {tuple(node.output): node for node in model.graph.node}  # nodes of a model may have no names
    entering, leaving = graph.external_inputs(chosen), graph.external_outputs(chosen)
    kept = {name for name in entering if graph.tensors[name].constant}
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] in kept]
    made = helper.make_graph(
        sort_nodes([*constants, *(protos[tuple(graph.nodes[position].outputs)] for position in chosen)]),
        "pattern",
        [_value(graph, name, shapes) for name in entering if name not in kept],
        [_value(graph, name, shapes) for name in leaving],
        [tensor for tensor in model.graph.initializer if tensor.name in kept],
    )
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


def _value(graph: OperatorGraph, name: str, shapes: Mapping[str, Shape]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, data_type(graph.tensors[name].dtype), shapes[name])
