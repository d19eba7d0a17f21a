"""A digest of a model's structure that does not depend on names, the order of nodes, or weights."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from graphopt.model_files import bodies, captured_names, topological_order
from graphopt.model_graphs import attribute_value, inline_functions, plain_domain
from graphopt.weights import LARGEST_KEPT_WEIGHT, MARK_INPUT, dropped

ABSENT = b"absent"


def digest(model: ModelProto) -> str:
    """SHA-256 of the structure, in hexadecimal: equal for models that differ in names, order or weights only.

    What counts: operators, their versions and attributes, how tensors connect them, types and declared shapes of
    inputs, and constants: their values where they are small or integers, their type and shape where they are weights
    (whether there or dropped). Twin nodes with equal operands are told apart by who reads them.

    Args:
        model: a checked model.
    """
    model = inline_functions(model)
    versions = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    return _graph_digest(model.graph, versions, {}).hex()


def _graph_digest(graph: GraphProto, versions: Mapping[str, int], outer: Mapping[str, bytes]) -> bytes:
    """Digest of a graph whose bodies may read outer tensors, given by their digests."""
    known = dict(outer)
    constants = dict(_constants(graph))
    known.update(constants)
    inputs = [value for value in graph.input if value.name not in constants]
    for value in graph.input:
        if value.name in constants:  # a default that a caller may replace: runtimes do not fold it
            known[value.name] = _hash(b"default", constants[value.name])
    symbols: dict[str, int] = {}
    for position, value in enumerate(inputs):
        known[value.name] = _hash(b"input", position, _type_text(value, symbols))
    nodes = [graph.node[index] for index in topological_order(graph.node)]
    nodes = [node for node in nodes if not node.output or any(name not in constants for name in node.output if name)]
    # From the inputs on: what a node computes.
    made: dict[int, bytes] = {}
    for index, node in enumerate(nodes):
        own = _node_digest(node, versions, known)
        made[index] = own
        known.update({name: _hash(own, position) for position, name in enumerate(node.output) if name})
    # From the outputs back: who reads it.
    readers: dict[str, list[bytes]] = {}
    for position, value in enumerate(graph.output):
        readers.setdefault(value.name, []).append(_hash(b"output", position))
    both = []
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        uses = [_hash(*sorted(readers.get(name, []))) for name in node.output]
        full = _hash(made[index], *uses)
        both.append(full)
        for slot, name in enumerate(node.input):
            if name:
                readers.setdefault(name, []).append(_hash(full, slot))
        for name in captured_names(node):
            readers.setdefault(name, []).append(_hash(full, -1))
    outputs = [known.get(value.name, ABSENT) for value in graph.output]
    types = [known[value.name] for value in inputs]
    return _hash(b"graph", len(nodes), *types, b"nodes", *sorted(both), b"outputs", *outputs)


def _node_digest(node: NodeProto, versions: Mapping[str, int], known: Mapping[str, bytes]) -> bytes:
    domain = plain_domain(node.domain)
    parts: list[bytes | str | int] = [b"node", domain, node.op_type, versions.get(domain, 1)]
    parts.extend(known.get(name, ABSENT) if name else ABSENT for name in node.input)
    parts.append(b"outputs")
    parts.extend(b"1" if name else b"0" for name in node.output)
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        parts.append(attribute.name)
        if attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            parts.append(_value_text(attribute_value(attribute)))
    parts.extend(_graph_digest(body, versions, known) for body in bodies(node))
    return _hash(*parts)


def _constants(graph: GraphProto) -> Iterable[tuple[str, bytes]]:
    for tensor in graph.initializer:
        yield tensor.name, _tensor_digest(tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, _hash(b"sparse", _tensor_digest(sparse.values), *map(str, sparse.dims))
    for node, shape in dropped(graph):
        data_type = next((a.t.data_type for a in node.attribute if a.name == "value"), TensorProto.FLOAT)
        weight = _weight_digest(data_type, shape)
        default = any(entry.key == MARK_INPUT for entry in node.metadata_props)
        yield node.output[0], _hash(b"default", weight) if default else weight
    for node in graph.node:
        if node.op_type == "Constant" and plain_domain(node.domain) == "" and node.attribute:
            attribute = node.attribute[0]
            if attribute.name == "value":
                yield node.output[0], _tensor_digest(attribute.t)
            else:
                yield node.output[0], _hash(b"constant", attribute.name, _value_text(attribute_value(attribute)))


def _tensor_digest(tensor: TensorProto) -> bytes:
    shape = tuple(tensor.dims)
    floating = tensor.data_type not in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)
    if floating and math.prod(shape) > LARGEST_KEPT_WEIGHT:
        return _weight_digest(tensor.data_type, shape)
    return _hash(b"constant", _value_text(numpy_helper.to_array(tensor)), tensor.data_type)


def _weight_digest(data_type: int, shape: Sequence[int]) -> bytes:
    return _hash(b"weight", data_type, *shape)


def _type_text(value: ValueInfoProto, symbols: dict[str, int]) -> str:
    """Type and declared shape; a symbol is the number of its first use, so that its name does not matter."""
    if not value.type.HasField("tensor_type"):
        return value.type.WhichOneof("value") or "untyped"
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return f"{tensor.elem_type} of any rank"
    dims = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(str(dim.dim_value))
        else:
            dims.append(f"?{symbols.setdefault(dim.dim_param, len(symbols))}" if dim.dim_param else "?")
    return f"{tensor.elem_type} {' '.join(dims)}"


def _value_text(value: object) -> bytes:
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        return _hash(str(value.dtype), repr(value.shape), content)
    return f"{type(value).__name__} {value!r}".encode()


def _hash(*parts: bytes | str | int) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        state.update(len(content).to_bytes(8, "little") + content)
    return state.digest()
