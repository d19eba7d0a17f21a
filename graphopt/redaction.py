"""Models without a word of whoever made them: every name replaced by a number, every comment dropped."""

from collections.abc import Mapping
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto

from graphopt.model_files import bodies, every_graph, inline_functions
from graphopt.model_graphs import plain_domain
from graphopt.weights import MARK, MARK_INPUT, SHAPE_SUFFIX, dropped

# Fields of any message of an ONNX file that only people or tools read.
_WORDS = frozenset({"doc_string", "denotation", "quantization_annotation", "device_configurations", "configuration"})
_MODEL_WORDS = ("producer_name", "producer_version", "domain", "model_version", "metadata_props", "training_info")
_MARKS = (MARK, MARK_INPUT)


def redact(model: ModelProto) -> ModelProto:
    """The model with the names of all tensors, nodes, graphs and symbolic sizes replaced, and without comments.

    What stays is what decides the computation: operators with their domains, versions and attributes, connections,
    types, shapes and constants. Words in there stay, too: names of custom operators and their attributes, attributes
    that are text, constants that are strings. Local functions are inlined. The digest stays the same.

    Args:
        model: a checked model; not changed.

    Returns:
        A valid copy. Inputs and outputs stand in the same order.

    Raises:
        GraphoptError: a function cannot be inlined.
    """
    copy = ModelProto()
    copy.CopyFrom(inline_functions(model))
    for field in _MODEL_WORDS:
        copy.ClearField(field)
    used = {plain_domain(node.domain) for graph in every_graph(copy.graph) for node in graph.node} | {""}
    versions = [entry for entry in copy.opset_import if plain_domain(entry.domain) in used]
    copy.ClearField("opset_import")
    copy.opset_import.extend(versions)
    _Names().graph(copy.graph, {})
    _strip(copy, {})
    return copy


class _Names:
    """New names, numbered in the order in which things stand in the file."""

    def __init__(self) -> None:
        self._tensors = self._nodes = self._graphs = 0

    def graph(self, graph: GraphProto, outer: Mapping[str, str]) -> None:
        """Rename everything in a graph, whose free names are renamed as ``outer`` says, and in its bodies."""
        weights = {node.output[0]: node.input[0] for node, _ in dropped(graph)}
        known = dict(outer)
        own: dict[str, str] = {"": ""}
        tensors = [*graph.input, *graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
        for name in (*(t.name for t in tensors), *(name for node in graph.node for name in node.output)):
            if name not in own:
                own[name] = f"t{self._tensors}"
                self._tensors += 1
        for weight, shape in weights.items():
            if shape.lower().endswith(SHAPE_SUFFIX):  # by which any reader of it counts as a dropped weight
                own[shape] = own[weight] + SHAPE_SUFFIX
        known.update(own)
        self._graphs += 1
        graph.name = f"g{self._graphs - 1}"
        for tensor in tensors:
            tensor.name = own[tensor.name]
        for sparse in graph.sparse_initializer:
            sparse.indices.ClearField("name")
        declared = [value for value in graph.value_info if value.name in own]
        graph.ClearField("value_info")
        graph.value_info.extend(declared)
        for value in graph.value_info:
            value.name = own[value.name]
        for value in graph.output:
            value.name = known[value.name]
        for node in graph.node:
            self._node(node, known, is_weight=len(node.output) == 1 and node.output[0] in weights)

    def _node(self, node: NodeProto, known: Mapping[str, str], *, is_weight: bool) -> None:
        node.name = f"n{self._nodes}"
        self._nodes += 1
        node.ClearField("overload")
        node.input[:] = [known[name] for name in node.input]
        node.output[:] = [known[name] for name in node.output]
        marks = {entry.key: entry.value for entry in node.metadata_props if entry.key in _MARKS and is_weight}
        if is_weight:
            marks[MARK] = "dropped"
        node.ClearField("metadata_props")
        for key in sorted(marks):
            node.metadata_props.add(key=key, value=marks[key])
        for attribute in node.attribute:
            for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                tensor.ClearField("name")
            for sparse in (
                [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else attribute.sparse_tensors
            ):
                sparse.values.ClearField("name")
                sparse.indices.ClearField("name")
        for body in bodies(node):
            self.graph(body, known)


def _strip(message: Any, symbols: dict[str, str]) -> None:
    """Drop comments from a message of an ONNX file and all in it, and number the symbols of its shapes."""
    for field, value in message.ListFields():
        if field.name in _WORDS or (field.name == "metadata_props" and not isinstance(message, NodeProto)):
            message.ClearField(field.name)
        elif field.name == "dim_param":
            message.dim_param = symbols.setdefault(value, f"s{len(symbols)}")
        elif field.message_type is not None:
            for one in [value] if hasattr(value, "ListFields") else value:
                _strip(one, symbols)
