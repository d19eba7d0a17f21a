"""ONNX files: reading with every check that a hostile or broken file calls for, and writing."""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)

from graphopt.errors import GraphoptError, about
from graphopt.files import staged

LARGEST_MESSAGE = 2**31 - 2**24
"""Bytes that one protobuf message can hold (2 GB), less some room for what is not weights."""

MOST_OPERATORS = 1 << 22
"""Operators that the calls of local functions may stand for together."""
DEEPEST_CALLS = 100
"""Calls of local functions inside of each other: as many as ONNX's own inliner takes."""

MOST_AXES = 64
"""Dimensions that an array of numpy can have."""
MOST_ELEMENTS = 1 << 58
"""Elements of a tensor, zeros among its dimensions taken for ones: what numpy can say the size of in bytes."""

# Where a tensor without raw data keeps its values, and how many of them an element takes.
_FIELDS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
    **dict.fromkeys(
        (
            TensorProto.INT32,
            TensorProto.INT16,
            TensorProto.INT8,
            TensorProto.UINT16,
            TensorProto.UINT8,
            TensorProto.BOOL,
            TensorProto.FLOAT16,
            TensorProto.BFLOAT16,
        ),
        ("int32_data", 1),
    ),
}
_ATTRIBUTE_TYPES = frozenset(AttributeProto.AttributeType.values()) - {AttributeProto.UNDEFINED}
_BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
_STANDARD = ("", "ai.onnx")
_NEWEST = 1 << 30
# Attributes of Constant that hold other things than numbers.
_CONSTANTS: dict[str, int] = {"value": AttributeProto.TENSOR, "sparse_value": AttributeProto.SPARSE_TENSOR}
# Fields of onnx.ModelProto and the wire type that each one has.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def load(path: Path) -> ModelProto:
    """Read a model, weights in external files included, and check it.

    Args:
        path: the ``.onnx`` file.

    Returns:
        The model, with all of its weights in memory.

    Raises:
        GraphoptError: the file is missing, unreadable, not ONNX or truncated; an external file is missing, too short
            or outside of the model's folder; the graph has a cycle, a tensor with two producers or with none.
    """
    path = Path(path)
    model = read(path)
    with about(path):
        load_external_data(model, path.parent)
        check(model)
    return model


def read(path: Path) -> ModelProto:
    """Parse a file; nothing is checked, and what it keeps in other files is not read.

    Raises:
        GraphoptError: the file is missing, unreadable, not ONNX or truncated.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read: {error.strerror or error}") from None
    return parse(content, str(path))


def from_bytes(content: bytes, name: str) -> ModelProto:
    """A model from a file's content, checked; what it keeps in other files is not read.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        GraphoptError: as ``load``.
    """
    model = parse(content, name)
    with about(name):
        check(model)
    return model


def save(model: ModelProto, path: Path, *, largest: int = LARGEST_MESSAGE) -> None:
    """Write a model whole; weights that do not fit into one file go to ``<name>.data`` beside it.

    Args:
        model: what to write; not changed.
        path: the ``.onnx`` file.
        largest: bytes of weights that still go into the one file.

    Raises:
        GraphoptError: the file cannot be written.
    """
    path = Path(path)
    if weight_bytes(model) <= largest:
        with staged(path) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
        return
    outer = without_weights(model)
    data = path.with_name(path.name + ".data")
    with staged(data) as temporary, temporary.open("wb") as stream:
        for tensor in model.graph.initializer:
            outer.graph.initializer.append(_externalized(tensor, data.name, stream))
    with staged(path) as temporary:
        temporary.write_bytes(outer.SerializeToString(deterministic=True))


def _externalized(tensor: TensorProto, location: str, stream: BinaryIO) -> TensorProto:
    """The tensor as a reference to bytes appended to the stream; small ones stay as they are."""
    copy = TensorProto()
    if tensor_bytes(tensor) < 1024 or tensor.data_type == TensorProto.STRING:
        copy.CopyFrom(tensor)
        return copy
    content = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
    offset = -(-stream.tell() // 4096) * 4096  # page-aligned, so that it can be mapped
    stream.seek(offset)
    stream.write(content)
    copy.name, copy.data_type, copy.data_location = tensor.name, tensor.data_type, TensorProto.EXTERNAL
    copy.dims.extend(tensor.dims)
    for key, value in (("location", location), ("offset", offset), ("length", len(content))):
        copy.external_data.add(key=key, value=str(value))
    return copy


def without_weights(model: ModelProto) -> ModelProto:
    """A copy of the model without the initializers of its main graph; no weight is copied on the way."""
    copy = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _assign(copy, field.name, value)
    copy.graph.SetInParent()
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _assign(copy.graph, field.name, value)
    return copy


def _assign(message: ModelProto | GraphProto, name: str, value: object) -> None:
    if isinstance(value, str | int | bytes | float):
        setattr(message, name, value)
    else:
        getattr(message, name).MergeFrom(value)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes that a tensor's elements take, from its dimensions and type."""
    bits = math.prod(tensor.dims) * item_bits(tensor.data_type)
    return int(-(-bits // 8))


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(tensor_bytes(tensor) for tensor in model.graph.initializer)


def item_bits(data_type: int) -> int:
    """Bits that an element of a type takes.

    Raises:
        GraphoptError: there is no such type.
    """
    if data_type == TensorProto.STRING:
        return 64
    if data_type in (TensorProto.INT4, TensorProto.UINT4, getattr(TensorProto, "FLOAT4E2M1", -1)):
        return 4
    if data_type in (getattr(TensorProto, "INT2", -1), getattr(TensorProto, "UINT2", -1)):
        return 2
    if data_type in (getattr(TensorProto, "FLOAT6E2M3", -1), getattr(TensorProto, "FLOAT6E3M2", -1)):
        return 6
    try:
        return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except (KeyError, TypeError, ValueError):
        raise GraphoptError(f"unknown element type {data_type}") from None


# ------------------------------------------------------------------------------------------------- reading


def parse(content: bytes, path: str) -> ModelProto:
    """The model in a file's content; ``path`` is for messages.

    Raises:
        GraphoptError: it is not ONNX or truncated.
    """
    if not content:
        raise GraphoptError(f"{path}: not an ONNX file: it is empty")
    if content[4:8] == b"ORTM":
        raise GraphoptError(f"{path}: an ORT-format file; give the ONNX model that it was made from")
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        cause = "truncated" if _is_cut_off(content) else "not an ONNX file"
        raise GraphoptError(f"{path}: {cause}") from None
    if not model.HasField("graph"):
        cause = "no graph in it" if _is_cut_off(content + b"\x3a\x7f") else "not an ONNX file"
        raise GraphoptError(f"{path}: {cause}")
    if not model.opset_import and model.ir_version >= 3:
        raise GraphoptError(f"{path}: truncated: it does not say which operator sets it uses")
    return model


def _is_cut_off(content: bytes) -> bool:
    """Whether the bytes are fields of a model up to one that ends behind the end of the file."""
    position, end = 0, len(content)

    def varint() -> int | None:
        nonlocal position
        value = shift = 0
        while position < end:
            byte = content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                return -1
        return None

    fields = 0
    while position < end:
        key = varint()
        if key is None:
            return fields > 0
        if _MODEL_FIELDS.get(key >> 3) != key & 7:
            return False
        value = varint()
        if value is None:
            return fields > 0
        if key & 7 == 2:
            if value < 0 or position + value > end:
                # A first field that is already too long is more likely garbage, unless it is the graph.
                return fields > 0 or key >> 3 == 7
            position += value
        fields += 1
    return False


def load_external_data(
    model: ModelProto, folder: Path, wanted: Callable[[TensorProto], bool] = lambda tensor: True
) -> None:
    """Read what the model keeps in other files of its folder, in place; only the tensors that are wanted.

    Raises:
        GraphoptError: a file is missing, too short, or outside of the folder.
    """
    tensors = [t for t in every_tensor(model) if t.data_location == TensorProto.EXTERNAL]
    # Sizes of all of them are checked before the first byte is read into memory.
    ranges = [_external_range(tensor, folder) for tensor in tensors]
    for tensor, (path, offset, length) in zip(tensors, ranges, strict=True):
        if not wanted(tensor):
            continue
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
        except OSError as error:
            raise GraphoptError(f"external data {path.name!r}: cannot read: {error.strerror or error}") from None
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _external_range(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """(file, first byte, bytes) of a tensor whose data is outside, checked against the file's size."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"external data {location!r} of tensor {tensor.name!r}"
    relative = Path(location.replace("\\", "/"))
    if not location or relative.is_absolute() or ".." in relative.parts or "\0" in location:
        raise GraphoptError(f"{what} is not a path inside of the model's folder")
    root = folder.resolve()
    try:
        path = (folder / relative).resolve()
        inside = path.is_relative_to(root)
        size = path.stat().st_size if inside else 0
    except (OSError, RuntimeError):
        raise GraphoptError(f"{what} is missing") from None
    if not inside:
        raise GraphoptError(f"{what} leads out of the model's folder")
    if not path.is_file():
        raise GraphoptError(f"{what} is not a file")
    needed = tensor_bytes(tensor)
    try:
        offset = int(entries.get("offset", "0") or 0)
        length = int(entries.get("length", "") or needed)
    except ValueError:
        raise GraphoptError(f"{what} has an offset or a length that is not a number") from None
    if offset < 0 or length != needed:
        raise GraphoptError(f"{what} has {length} bytes from {offset}; its shape needs {needed}")
    if offset + length > size:
        raise GraphoptError(f"{what} is too short: {offset + length} bytes are needed, {size} are there")
    return path, offset, length


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that the file holds: initializers and attributes, of bodies and functions too."""
    for graph in _all_graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _attribute_tensors(graph.node)
    for function in model.functions:
        yield from _attribute_tensors(function.node)


def _attribute_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for sparse in _attribute_sparse(attribute):
                yield from (sparse.values, sparse.indices)


def _attribute_sparse(attribute: AttributeProto) -> Iterator[SparseTensorProto]:
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        yield attribute.sparse_tensor
    yield from attribute.sparse_tensors


def _all_graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and all bodies, those in functions too."""
    yield from every_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            for body in bodies(node):
                yield from every_graph(body)


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs inside of a node: branches of If, bodies of Loop and Scan."""
    found = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def every_graph(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs inside of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from every_graph(body)


def inline_functions(model: ModelProto) -> ModelProto:
    """The model with every call of a local function replaced by the function's body.

    Returns:
        A copy; the model itself when it has no functions.

    Raises:
        GraphoptError: a function cannot be inlined.
    """
    if not model.functions:
        return model
    light = without_weights(model)
    for tensor in model.graph.initializer:  # their names are taken; their values need not go through the inliner
        light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    try:
        inlined: ModelProto = onnx.inliner.inline_local_functions(light)
    except Exception as error:  # the C++ inliner's errors share no class
        raise GraphoptError(f"its functions cannot be inlined: {' '.join(str(error).split())}") from None
    del inlined.graph.initializer[:]
    inlined.graph.initializer.extend(model.graph.initializer)
    return inlined


# ------------------------------------------------------------------------------------------------- checking


def check(model: ModelProto) -> None:
    """Check that the graph is one: no cycle, one producer for every tensor that is read, names that are text.

    Constants must hold what their types and dimensions say, operators the operands, attributes and bodies without which
    they cannot be read. All else of operators, types and shapes the runtime checks, which knows more operators.

    Raises:
        GraphoptError: naming the tensor or nodes at fault.
    """
    for name in _names(model):
        if isinstance(name, bytes):  # what is not text comes out of the file so
            raise GraphoptError(f"the name {name!r} is not UTF-8")
    for tensor in every_tensor(model):
        _check_tensor(tensor)
    for sparse in _sparse_tensors(model):
        check_dims(sparse.values.name, sparse.dims)
    _check_functions(model)
    _check_graph(model.graph, frozenset(), _standard_version(model))
    for function in model.functions:
        where, version = f"function {function.name!r}", _standard_version(function)
        _check_nodes(function.node, set(function.input), function.output, frozenset(), where, version)


def _standard_version(model: ModelProto | FunctionProto) -> int:
    """Version of the standard operators that a model or function imports; 0 where it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)


def _check_functions(model: ModelProto) -> None:
    """No function calls itself, and what all calls expand to is no more than a graph can hold."""
    own = {(f.domain, f.name, f.overload): Counter(_calls(f.node)) for f in model.functions}
    try:
        order = list(TopologicalSorter({key: own.keys() & calls.keys() for key, calls in own.items()}).static_order())
    except CycleError as error:
        raise GraphoptError(f"function {error.args[1][0][1]!r} calls itself") from None
    operators, depth = dict.fromkeys(own, 0), dict.fromkeys(own, 0)
    for key in order:
        operators[key] = sum(count * operators.get(callee, 1) for callee, count in own[key].items())
        depth[key] = 1 + max((depth[callee] for callee in own.keys() & own[key].keys()), default=0)
        if operators[key] > MOST_OPERATORS:
            raise GraphoptError(f"function {key[1]!r} stands for more than {MOST_OPERATORS} operators")
        if depth[key] > DEEPEST_CALLS:
            raise GraphoptError(f"function {key[1]!r} calls others more than {DEEPEST_CALLS} deep")
    total = sum(count * operators.get(callee, 1) for callee, count in Counter(_calls(model.graph.node)).items())
    if total > MOST_OPERATORS and own:
        raise GraphoptError(f"its functions stand for more than {MOST_OPERATORS} operators")


def _calls(nodes: Iterable[NodeProto]) -> Iterator[tuple[str, str, str]]:
    """What nodes call, those inside of their bodies too: names of functions or of operators."""
    for node in nodes:
        yield (node.domain, node.op_type, node.overload)
        for body in bodies(node):
            yield from _calls(body.node)


def _names(model: ModelProto) -> Iterator[str | bytes]:
    """What the file says as text, but for comments."""
    yield from (entry.domain for entry in model.opset_import)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for graph in _all_graphs(model):
        yield graph.name
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from _symbols(value)
        for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
            yield tensor.name
        yield from _node_names(graph.node)
    for function in model.functions:
        yield from (function.domain, function.name, function.overload)
        yield from (*function.input, *function.output, *function.attribute)
        yield from _node_names(function.node)


def _node_names(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (node.name, node.domain, node.op_type, node.overload, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
        for entry in node.metadata_props:
            yield from (entry.key, entry.value)


def _symbols(value: ValueInfoProto) -> Iterator[str]:
    if value.type.HasField("tensor_type"):
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _sparse_tensors(model: ModelProto) -> Iterator[SparseTensorProto]:
    graphs: list[GraphProto | FunctionProto] = [*_all_graphs(model), *model.functions]
    for graph in graphs:
        if isinstance(graph, GraphProto):
            yield from graph.sparse_initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from _attribute_sparse(attribute)


def check_dims(name: str, dims: Sequence[int]) -> None:
    """Check that an array can have these dimensions.

    Args:
        name: of the tensor, for messages.
        dims: its dimensions.

    Raises:
        GraphoptError: one is negative, or there are too many of them or of the elements.
    """
    if any(size < 0 for size in dims):
        raise GraphoptError(f"tensor {name!r} has a negative dimension: {list(dims)}")
    if len(dims) > MOST_AXES:
        raise GraphoptError(f"tensor {name!r} has {len(dims)} dimensions; {MOST_AXES} are the most")
    if math.prod(size or 1 for size in dims) > MOST_ELEMENTS:
        raise GraphoptError(f"tensor {name!r} has more elements than any memory: {list(dims)}")


def _check_tensor(tensor: TensorProto) -> None:
    """Dimensions, type and data of a tensor go together, so that it can be read."""
    check_dims(tensor.name, tensor.dims)
    with about(f"tensor {tensor.name!r}"):
        bits = item_bits(tensor.data_type)
    if tensor.data_location == TensorProto.EXTERNAL:
        return  # its size is checked where it is read
    kind, elements = tensor.data_type, math.prod(tensor.dims)
    if tensor.HasField("raw_data") and kind != TensorProto.STRING:
        needed, held = tensor_bytes(tensor), len(tensor.raw_data)
        if needed != held:
            raise GraphoptError(f"tensor {tensor.name!r} holds {held} bytes; its shape needs {needed}")
        return
    if kind in _FIELDS:
        field, per_element = _FIELDS[kind]
        needed, held = elements * per_element, len(getattr(tensor, field))
    else:  # several to an integer, where they are smaller than a byte
        per_integer = max(1, 8 // bits)
        needed, held = -(-elements // per_integer), len(tensor.int32_data)
    if needed != held:
        raise GraphoptError(f"tensor {tensor.name!r} holds {held} values; its shape needs {needed}")
    if kind == TensorProto.STRING:
        _check_text(f"tensor {tensor.name!r}", tensor.string_data)


def _check_text(what: str, texts: Iterable[bytes]) -> None:
    for text in texts:
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            raise GraphoptError(f"{what} holds text that is not UTF-8: {text[:40]!r}") from None


def _check_node(node: NodeProto, version: int) -> None:
    """A node has what can be read of it without knowing what it computes."""
    for attribute in node.attribute:
        if attribute.type not in _ATTRIBUTE_TYPES:
            raise GraphoptError(f"attribute {attribute.name!r} of {describe(node)} has no type")
    if node.domain not in _STANDARD:
        return
    inputs, outputs = _least(node.op_type, version)
    if len(node.input) < inputs or len(node.output) < outputs:
        given = f"{len(node.input)} operands and {len(node.output)} results"
        raise GraphoptError(f"{describe(node)} has {given}; {inputs} and {outputs} are the least")
    if node.op_type == "Constant":
        for attribute in node.attribute:
            if _CONSTANTS.get(attribute.name, attribute.type) != attribute.type:
                raise GraphoptError(f"attribute {attribute.name!r} of {describe(node)} is of another type")
            _check_text(f"attribute {attribute.name!r} of {describe(node)}", (attribute.s, *attribute.strings))
    if node.op_type in _BODIES:
        _check_bodies(node)


@cache
def _least(op_type: str, version: int) -> tuple[int, int]:
    """The fewest operands and results that a standard operator has."""
    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=min(version or _NEWEST, _NEWEST))
    except onnx.defs.SchemaError:
        return 0, 0
    return schema.min_input, schema.min_output


def _check_bodies(node: NodeProto) -> None:
    """A control-flow operator has its bodies, which take what it gives them and make what it hands on."""
    found = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
    for name in _BODIES[node.op_type]:
        if name not in found:
            raise GraphoptError(f"{describe(node)} has no {name}")
    operands, results = len(node.input), len(node.output)
    if node.op_type == "If":
        fits = operands == 1 and all(not g.input and len(g.output) >= results for g in found.values())
    elif node.op_type == "Loop":
        body = found["body"]
        fits = operands >= 2 and len(body.input) == operands and len(body.output) >= max(operands - 1, results + 1)
    else:  # a Scan of the operator set 8 has the lengths of its sequences in front
        body = found["body"]
        scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        fits = 0 < scanned <= len(body.input) and len(body.input) in (operands, operands - 1)
        fits = fits and len(body.output) >= max(len(body.input) - scanned, results)
    if not fits:
        raise GraphoptError(f"{describe(node)} and its body differ in what goes in and comes out")


def _check_graph(graph: GraphProto, outer: frozenset[str], version: int) -> None:
    names = [value.name for value in graph.input]
    initializers = [tensor.name for tensor in graph.initializer]
    initializers += [sparse.values.name for sparse in graph.sparse_initializer]
    for kind, group in (("inputs", names), ("initializers", initializers)):
        if len(set(group)) != len(group):
            twice = next(name for name, count in Counter(group).items() if count > 1)
            raise GraphoptError(f"two {kind} are named {twice!r}")
    known = {*names, *initializers}
    _check_nodes(graph.node, known, [value.name for value in graph.output], outer, "the graph", version)


def _check_nodes(
    nodes: Sequence[NodeProto],
    known: set[str],
    outputs: Iterable[str],
    outer: frozenset[str],
    where: str,
    version: int,
) -> None:
    made = set(known)
    for node in nodes:
        for name in node.output:
            if name in made:
                raise GraphoptError(f"tensor {name!r} has two producers; the second is {describe(node)}")
            if name:
                made.add(name)
    scope = outer | made
    for node in nodes:
        for name in node.input:
            if name and name not in scope:
                raise GraphoptError(f"{describe(node)} reads {name!r}, which nothing produces")
        _check_node(node, version)
        for body in bodies(node):
            _check_graph(body, scope, version)
    for name in outputs:
        if name not in scope:
            raise GraphoptError(f"output {name!r} of {where} is produced by nothing")
    topological_order(nodes)


def describe(node: NodeProto) -> str:
    """A node in words, for messages."""
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} that makes {list(node.output)[:1]}"


def own_names(graph: GraphProto) -> list[str]:
    """Names of the tensors that a graph itself has, not those in bodies: inputs, constants, results; each once."""
    names = [value.name for value in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    names += [sparse.values.name for sparse in graph.sparse_initializer]
    names += [name for node in graph.node for name in node.output if name]
    return list(dict.fromkeys(names))


def captured_names(node: NodeProto) -> list[str]:
    """Names that a node's bodies read from outside, each once, in order of first use."""
    return list(dict.fromkeys(name for body in bodies(node) for name in free_names(body)))


def origins(graph: GraphProto) -> dict[str, str]:
    """Results of a graph's Identity nodes to what they hand on, through chains of them."""
    found: dict[str, str] = {
        n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity" and n.domain in _STANDARD
    }
    for name in found:
        while found[name] in found:
            found[name] = found[found[name]]
    return found


def free_names(graph: GraphProto) -> Iterator[str]:
    """Names that a body, and the bodies in it, read from outside; with repetitions."""
    own = set(own_names(graph))
    for node in graph.node:
        yield from (name for name in (*node.input, *captured_names(node)) if name and name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def topological_order(nodes: Sequence[NodeProto]) -> list[int]:
    """Indices of the nodes so that producers stand before consumers; what is in order already stays so.

    Raises:
        GraphoptError: there is a cycle; the message names nodes on it.
    """
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    feeders = [{producer[name] for name in (*node.input, *captured_names(node)) if name in producer} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    waiting = [len(group) for group in feeders]
    for index, group in enumerate(feeders):
        for feeder in group:
            users[feeder].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        left = {index for index, count in enumerate(waiting) if count > 0}
        path = [min(left)]
        while (following := min(feeders[path[-1]] & left)) not in path:
            path.append(following)
        ring = path[path.index(following) :][::-1]
        words = " -> ".join(describe(nodes[index]) for index in [*ring[:3], *ring[:1]])
        raise GraphoptError(f"the graph has a cycle of {len(ring)} nodes: {words}")
    return order
