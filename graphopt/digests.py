"""A digest of a model's structure that does not depend on names, the order of nodes, or weights."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TypeProto,
    numpy_helper,
)

from graphopt.errors import GraphoptError
from graphopt.model_files import captured_names, inline_functions, topological_order
from graphopt.model_graphs import plain_domain
from graphopt.weights import MARK_INPUT, dropped, dropped_type, is_weight

ABSENT = b"absent"


@dataclass(frozen=True)
class _Digested:
    """A graph's digest, and who reads what comes from outside.

    Attributes:
        own: of the graph.
        uses: name of an outer tensor to a digest for each of its uses inside.
    """

    own: bytes
    uses: Mapping[str, Sequence[bytes]]


def digest(model: ModelProto) -> str:
    """SHA-256 of the structure, in hexadecimal: equal for models that differ in names, order or weights only.

    What counts: operators, their versions and attributes, how tensors connect them, types and declared shapes of
    inputs, and constants: weights (whether there or dropped) by their type, their shape and who reads them, all others
    by their values. Local functions count as their bodies.

    An operator is told from its twins (same type, same operands) by who reads it: walking from an output from operand
    to operand always leads to the same operator, so that the digests of its readers name it. Only among operators that
    no output needs may different structures agree.

    Args:
        model: a checked model; weights may be in files that were not read.

    Raises:
        GraphoptError: another constant is in a file that was not read.
    """
    model = inline_functions(model)
    versions = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    return _graph_digest(model.graph, versions, {}).own.hex()


def _graph_digest(graph: GraphProto, versions: Mapping[str, int], outer: Mapping[str, bytes]) -> _Digested:
    """Digest of a graph whose bodies may read outer tensors, given by their digests."""
    known = dict(outer)
    weights: dict[str, bytes] = {}
    constants = set()
    for name, own, weight in _constants(graph):
        known[name] = own
        constants.add(name)
        if weight:
            weights[name] = own
    inputs = [value for value in graph.input if value.name not in constants]
    for value in graph.input:
        if value.name in constants:  # a default that a caller may replace: runtimes do not fold it
            known[value.name] = _hash(b"default", known[value.name])
    symbols: dict[str, int] = {}
    for position, value in enumerate(inputs):
        known[value.name] = _hash(b"input", position, _type_text(value.type, symbols))
    types = [known[value.name] for value in inputs]
    nodes = [graph.node[index] for index in topological_order(graph.node)]
    nodes = [node for node in nodes if not node.output or any(name not in constants for name in node.output if name)]
    # From the inputs on: what a node computes.
    made: list[bytes] = []
    inside: list[dict[str, list[bytes]]] = []  # for each node, the uses in its bodies
    for node in nodes:
        own, uses_inside = _node_digest(node, versions, known)
        made.append(own)
        inside.append(uses_inside)
        known.update({name: _hash(own, position) for position, name in enumerate(node.output) if name})
    # From the outputs back: who reads it.
    readers: dict[str, list[bytes]] = {}
    for position, value in enumerate(graph.output):
        readers.setdefault(value.name, []).append(_hash(b"output", position))
    both = []
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        full = _hash(made[index], *(_hash(*sorted(readers.get(name, []))) for name in node.output))
        both.append(full)
        for slot, name in enumerate(node.input):
            if name:
                readers.setdefault(name, []).append(_hash(full, slot))
        for name in captured_names(node):
            readers.setdefault(name, []).append(_hash(full, b"inside", *sorted(inside[index].get(name, []))))
    both += [_hash(known[name], *sorted(readers[name])) for name in weights if name in readers]
    outputs = [known.get(value.name, ABSENT) for value in graph.output]
    own = _hash(b"graph", len(nodes), *types, b"nodes", *sorted(both), b"outputs", *outputs)
    mine = constants | {value.name for value in inputs} | {name for node in nodes for name in node.output}
    return _Digested(own, {name: uses for name, uses in readers.items() if name not in mine})


def _node_digest(
    node: NodeProto, versions: Mapping[str, int], known: Mapping[str, bytes]
) -> tuple[bytes, dict[str, list[bytes]]]:
    """What a node computes, and the uses of outer tensors in its bodies."""
    domain = plain_domain(node.domain)
    parts: list[bytes | str | int] = [b"node", domain, node.op_type, versions.get(domain, 1)]
    parts.extend(known.get(name, ABSENT) if name else ABSENT for name in node.input)
    parts.append(b"outputs")
    parts.extend(b"1" if name else b"0" for name in node.output)
    uses: dict[str, list[bytes]] = {}
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        parts += [attribute.name, attribute.type]
        graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
        for place, body in enumerate(graphs):
            digested = _graph_digest(body, versions, known)
            parts.append(digested.own)
            for name, found in digested.uses.items():
                uses.setdefault(name, []).extend(_hash(attribute.name, place, use) for use in found)
        if attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            parts.append(_attribute_digest(attribute))
    return _hash(*parts), uses


def _constants(graph: GraphProto) -> Iterator[tuple[str, bytes, bool]]:
    """Name, digest, and whether it is a weight."""
    for tensor in graph.initializer:
        yield tensor.name, *_constant_digest(tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, *_sparse_digest(sparse)
    for node, shape in dropped(graph):
        data_type = dropped_type(node)
        weight = _weight_digest(data_type, shape)
        default = any(entry.key == MARK_INPUT for entry in node.metadata_props)
        yield node.output[0], _hash(b"default", weight) if default else weight, True
    for node in graph.node:
        if node.op_type == "Constant" and plain_domain(node.domain) == "" and node.attribute:
            attribute = node.attribute[0]
            if attribute.name == "value":
                yield node.output[0], *_constant_digest(attribute.t)
            elif attribute.name == "sparse_value":
                yield node.output[0], *_sparse_digest(attribute.sparse_tensor)
            elif attribute.name == "value_floats" and is_weight(TensorProto.FLOAT, [len(attribute.floats)]):
                yield node.output[0], _weight_digest(TensorProto.FLOAT, [len(attribute.floats)]), True
            else:
                yield node.output[0], _hash(b"constant", attribute.name, _attribute_digest(attribute)), False


def _constant_digest(tensor: TensorProto) -> tuple[bytes, bool]:
    if is_weight(tensor.data_type, tensor.dims):
        return _weight_digest(tensor.data_type, tensor.dims), True
    return _tensor_digest(tensor), False


def _sparse_digest(sparse: SparseTensorProto) -> tuple[bytes, bool]:
    """A weight is the same weight however it is stored."""
    if is_weight(sparse.values.data_type, sparse.dims):
        return _weight_digest(sparse.values.data_type, sparse.dims), True
    return _hash(b"sparse", *sparse.dims, _tensor_digest(sparse.values), _tensor_digest(sparse.indices)), False


def _weight_digest(data_type: int, shape: Sequence[int]) -> bytes:
    return _hash(b"weight", data_type, *shape)


def _tensor_digest(tensor: TensorProto) -> bytes:
    """Type, shape and values."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise GraphoptError(f"tensor {tensor.name!r} is in a file that was not read")
    if tensor.data_type == TensorProto.STRING:
        content = _hash(*tensor.string_data)
    else:
        values: np.ndarray = numpy_helper.to_array(tensor)
        content = values.tobytes()
    return _hash(b"constant", tensor.data_type, *tensor.dims, b"values", content)


def _attribute_digest(attribute: AttributeProto) -> bytes:
    """The value of an attribute that is no graph. Its type is not part of it."""
    kind = attribute.type
    if kind in (AttributeProto.TENSOR, AttributeProto.TENSORS):
        tensors = [attribute.t] if kind == AttributeProto.TENSOR else attribute.tensors
        return _hash(*map(_tensor_digest, tensors))
    if kind in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
        sparse = [attribute.sparse_tensor] if kind == AttributeProto.SPARSE_TENSOR else attribute.sparse_tensors
        return _hash(*(_hash(*s.dims, _tensor_digest(s.values), _tensor_digest(s.indices)) for s in sparse))
    if kind in (AttributeProto.TYPE_PROTO, AttributeProto.TYPE_PROTOS):
        types = [attribute.tp] if kind == AttributeProto.TYPE_PROTO else attribute.type_protos
        symbols: dict[str, int] = {}
        return _hash(*(_type_text(one, symbols) for one in types))
    if kind == AttributeProto.STRING:
        return _hash(attribute.s)
    if kind == AttributeProto.STRINGS:
        return _hash(*attribute.strings)
    if kind in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        floats = [attribute.f] if kind == AttributeProto.FLOAT else attribute.floats
        return _hash(np.asarray(floats, "<f4").tobytes())
    return _hash(*([attribute.i] if kind == AttributeProto.INT else attribute.ints))


def _type_text(kind: TypeProto, symbols: dict[str, int]) -> str:
    """A declared type; a symbol is the number of its first use, so that its name does not matter."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        return f"{which} of {_type_text(getattr(kind, which).elem_type, symbols)}"
    if which == "map_type":
        return f"{which} from {kind.map_type.key_type} to {_type_text(kind.map_type.value_type, symbols)}"
    if which not in ("tensor_type", "sparse_tensor_type"):
        return which or "untyped"
    tensor = getattr(kind, which)
    text = f"{'' if which == 'tensor_type' else which} {tensor.elem_type}"
    if not tensor.HasField("shape"):
        return f"{text} of any rank"
    dims = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(str(dim.dim_value))
        else:
            dims.append(f"?{symbols.setdefault(dim.dim_param, len(symbols))}" if dim.dim_param else "?")
    return f"{text} {' '.join(dims)}"


def _hash(*parts: bytes | str | int) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        state.update(len(content).to_bytes(8, "little") + content)
    return state.digest()
