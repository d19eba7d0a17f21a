"""The inputs that a model declares: their shapes, completed and checked, and seeded values for them."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.model_files import MOST_AXES
from graphopt.model_graphs import dtype_name
from graphopt.weights import HAND_ON, dropped, memory_bytes

Dims = tuple[int | str | None, ...]
"""Dimensions: a size, the name of a symbol, or None for one that nobody knows."""

Range = tuple[float, float]
"""Values of an input: from the first, below the second; when both are equal, that value."""

MOST_ELEMENTS = 1 << 33
"""Elements that an input may have, zeros among its sizes taken for ones: what is above is a broken shape."""
LARGEST_INTEGER = 20
"""Integers of inputs without a range lie below this, or below the size of the table that they index."""

FREE_SIZES = {"channels": 3, "image": 224, "volume": 16, "sequence": 16}
"""Sizes of free axes in default shapes, by what the axis probably is; the first axis is a batch of 1."""


@dataclass(frozen=True)
class Input:
    """An input that a caller feeds.

    Attributes:
        name: its name.
        dtype: numpy's name of the element type; empty when it is no tensor.
        dims: per axis a size, the name of a symbol, or None for a free axis without a name; None when the rank is free.
    """

    name: str
    dtype: str
    dims: Dims | None


def inputs_of(model: ModelProto) -> tuple[Input, ...]:
    """The inputs that a caller feeds; initializers are none of them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants.update(sparse.values.name for sparse in model.graph.sparse_initializer)
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            found.append(Input(value.name, "", None))
            continue
        tensor = value.type.tensor_type
        dims = None
        if tensor.HasField("shape"):
            # Some exporters write -1 for a free size.
            dims = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
                for dim in tensor.shape.dim
            )
        found.append(Input(value.name, dtype_name(tensor.elem_type), dims))
    return tuple(found)


def complete_shapes(inputs: Sequence[Input], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of all inputs, checked against what the model declares.

    Args:
        inputs: the model's inputs.
        shapes: input name to shape; may leave out what the model declares in full.

    Returns:
        Input name to shape, in the model's order.

    Raises:
        GraphoptError: an unknown name, a missing shape, another rank or another size than declared; more elements than
            MOST_ELEMENTS.
    """
    known = {i.name for i in inputs}
    for name in shapes:
        if name not in known:
            there = ", ".join(i.name for i in inputs) or "none"
            raise GraphoptError(f"input {name!r}: the model has no such input; it has {there}")
    complete = {}
    for i in inputs:
        declared = "?" if i.dims is None else "x".join(str(d) if d is not None else "?" for d in i.dims) or "a scalar"
        if i.name not in shapes:
            if i.dims is None or not all(isinstance(size, int) for size in i.dims):
                raise GraphoptError(f"input {i.name!r}: no shape is given, and the model leaves it free ({declared})")
            complete[i.name] = tuple(size for size in i.dims if isinstance(size, int))
            continue
        shape = tuple(int(size) for size in shapes[i.name])
        given = "x".join(map(str, shape)) or "a scalar"
        if any(size < 0 for size in shape):
            raise GraphoptError(f"input {i.name!r}: shape {given} has a negative size")
        if i.dims is not None and len(i.dims) != len(shape):
            raise GraphoptError(
                f"input {i.name!r}: shape {given} has rank {len(shape)}; the model says {declared}, rank {len(i.dims)}"
            )
        for axis, (size, wanted) in enumerate(zip(shape, i.dims or shape, strict=True)):
            if isinstance(wanted, int) and wanted != size:
                raise GraphoptError(
                    f"input {i.name!r}: shape {given} has {size} in axis {axis}; the model says {declared}"
                )
        complete[i.name] = shape
    for name, shape in complete.items():
        if len(shape) > MOST_AXES or math.prod(size or 1 for size in shape) > MOST_ELEMENTS:
            text = "x".join(map(str, shape[:MOST_AXES]))
            raise GraphoptError(f"input {name!r}: shape {text} is too large for any array")
    return complete


def default_shapes(model: ModelProto, given: Mapping[str, Shape] | None = None) -> dict[str, Shape]:
    """Shapes for a model that came without any: the declared ones, with sensible sizes where axes are free.

    The first axis, and every axis whose symbol contains ``batch``, is 1. Of inputs with four axes the second one is 3
    channels and the others 224 (sizes of an image); of inputs with five axes 3 and 16; all other free axes are 16. An
    axis has the size that another one with the same symbol has.

    Args:
        model: a checked model.
        given: shapes that are known.

    Returns:
        Input name to shape, for every input.

    Raises:
        GraphoptError: a given shape contradicts the model, or an input has no declared rank.
    """
    inputs = inputs_of(model)
    shapes = dict(given or {})
    symbols: dict[str, int] = {}
    for i in inputs:
        for size, wanted in zip(shapes.get(i.name, ()), i.dims or (), strict=False):
            if isinstance(wanted, str):
                symbols.setdefault(wanted, size)
    for i in inputs:
        if i.name not in shapes and i.dims is not None:
            shapes[i.name] = tuple(_default_size(i, axis, symbols) for axis in range(len(i.dims)))
    return complete_shapes(inputs, shapes)


def _default_size(i: Input, axis: int, symbols: dict[str, int]) -> int:
    dims = i.dims or ()
    size = dims[axis]
    if isinstance(size, int):
        return size
    if axis == 0 or (size is not None and "batch" in size.lower()):
        guess = 1
    elif len(dims) in (4, 5) and i.dtype.startswith(("float", "bfloat", "uint8")):
        kind = "channels" if axis == 1 else "image" if len(dims) == 4 else "volume"
        guess = FREE_SIZES[kind]
    else:
        guess = FREE_SIZES["sequence"]
    return guess if size is None else symbols.setdefault(size, guess)


def seeded_inputs(
    model: ModelProto,
    shapes: Mapping[str, Shape],
    *,
    ranges: Mapping[str, Range] | None = None,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Values for every input, the same for the same name, shape, range and seed.

    Floating-point values are uniform in [0, 1). Booleans and inputs with ``mask`` in their name are 1; those with
    ``token_type`` are 0. Other integers are uniform in [1, 20), or below the size of the smallest table that they index
    in the graph. A range replaces all of this.

    Args:
        model: tells names, types and, where it has nodes, which integers are indices.
        shapes: input name to shape; inputs whose shape the model declares may be left out.
        ranges: input name to (low, high).
        seed: another seed gives other values.

    Returns:
        Input name to array.

    Raises:
        GraphoptError: a shape is missing or contradicts the model; a range is of no input or empty; an input is not a
            tensor of numbers or text; the inputs are too large for this machine.
    """
    inputs = inputs_of(model)
    complete = complete_shapes(inputs, shapes)
    ranges = ranges or {}
    for name in ranges:
        if name not in complete:
            raise GraphoptError(f"range of {name!r}: the model has no such input")
    limits = index_limits(model)
    elements = sum(math.prod(complete[i.name]) for i in inputs)
    try:
        if elements * 8 > memory_bytes():  # as float64, before they become what is asked
            raise MemoryError
        return {i.name: _values(i, complete[i.name], ranges.get(i.name), limits.get(i.name), seed) for i in inputs}
    except MemoryError:
        raise GraphoptError(f"its inputs have {elements} elements, too many to make up") from None


def _values(i: Input, shape: Shape, bounds: Range | None, limit: int | None, seed: int) -> NDArray[Any]:
    generator = np.random.default_rng(zlib.crc32(f"{seed} {i.name}".encode()))
    if i.dtype == "string":
        return np.full(shape, "a", object)
    if not i.dtype:
        raise GraphoptError(f"input {i.name!r}: not a tensor, so its values cannot be made up")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type(i.dtype)))
    if bounds is not None:
        low, high = bounds
        if not low <= high:
            raise GraphoptError(f"range of {i.name!r}: {low} is above {high}")
        if low == high or (dtype.kind in "iu" and math.ceil(low) >= math.ceil(high)):
            return np.full(shape, low).astype(dtype)
        if dtype.kind in "iu":
            return generator.integers(math.ceil(low), math.ceil(high), shape).astype(dtype)
        return np.asarray(low + (high - low) * generator.random(shape)).astype(dtype)
    if dtype.kind == "b" or (dtype.kind in "iu" and "mask" in i.name):
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        if "token_type" in i.name:
            return np.zeros(shape, dtype)
        high = LARGEST_INTEGER if limit is None else min(limit, LARGEST_INTEGER)
        return generator.integers(min(1, high - 1), high, shape).astype(dtype)
    return np.asarray(generator.random(shape)).astype(dtype)


def data_type(dtype: str) -> int:
    """ONNX's number of an element type, by numpy's name of it."""
    return next(
        int(number)
        for number in TensorProto.DataType.values()
        if number not in (TensorProto.UNDEFINED, TensorProto.STRING) and dtype_name(number) == dtype
    )


def index_limits(model: ModelProto) -> dict[str, int]:
    """Input name to the rows of the smallest constant table that its values index (Gather and its kin)."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sizes |= {node.output[0]: shape for node, shape in dropped(model.graph)}
    sources: dict[str, set[str]] = {value.name: {value.name} for value in model.graph.input}
    limits: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "Gather" and len(node.input) == 2 and node.input[0] in sizes:
            shape = sizes[node.input[0]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if shape and -len(shape) <= axis < len(shape) and shape[axis] > 0:
                for source in sources.get(node.input[1], ()):
                    limits[source] = min(limits.get(source, shape[axis]), shape[axis])
        elif node.op_type in HAND_ON and node.input:
            _hand_on(node, sources)
    return limits


def _hand_on(node: NodeProto, sources: dict[str, set[str]]) -> None:
    operands = node.input if node.op_type == "Concat" else node.input[:1]
    found = {source for name in operands for source in sources.get(name, ())}
    for name in node.output:
        sources.setdefault(name, set()).update(found)
