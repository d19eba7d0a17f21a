"""What a session is fed: seeded values for its inputs, and the same inputs at other batch sizes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime import InferenceSession

from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.models import Input, Range

Feeds = Mapping[str, NDArray[Any]]
"""Input name to array."""

_DTYPES = {"float": "float32", "double": "float64"}
"""onnxruntime's names of element types where they are not numpy's."""


def inputs_of(model: InferenceSession | onnx.ModelProto) -> tuple[Input, ...]:
    """The inputs that a caller must feed; initializers are none of them."""
    if not isinstance(model, InferenceSession):
        return models.inputs_of(model)
    found = []
    for value in model.get_inputs():
        tensor = value.type.startswith("tensor(")
        kind = value.type.removeprefix("tensor(").removesuffix(")") if tensor else ""
        # onnxruntime gives an empty shape both for a scalar and for any rank.
        found.append(Input(value.name, _DTYPES.get(kind, kind), tuple(value.shape) if tensor and value.shape else None))
    return tuple(found)


def seeded_inputs(
    model: InferenceSession | onnx.ModelProto,
    shapes: Mapping[str, Shape],
    *,
    ranges: Mapping[str, Range] | None = None,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Inputs of these shapes, the same for the same seed; see ``graphopt.models.seeded_inputs`` for the values.

    Args:
        model: a model, whose graph says which integers are indices and how large their table is, or a session, which
            only knows the types.
        shapes: input name to shape.
        ranges: input name to (low, high) of its values.
        seed: another seed gives other values.

    Returns:
        Input name to array.

    Raises:
        GraphoptError: a shape is missing or contradicts the model; an input is not a tensor.
    """
    if isinstance(model, InferenceSession):
        model = _description(inputs_of(model))
    return models.seeded_inputs(model, shapes, ranges=ranges, seed=seed)


def _description(inputs: tuple[Input, ...]) -> onnx.ModelProto:
    """A model without nodes that has these inputs."""
    values = []
    for entry in inputs:
        if not entry.dtype:
            raise GraphoptError(f"input {entry.name!r}: not a tensor, so its values cannot be made up")
        dtype = np.dtype(object) if entry.dtype == "string" else _dtype(entry.dtype)
        values.append(helper.make_tensor_value_info(entry.name, helper.np_dtype_to_tensor_dtype(dtype), entry.dims))
    return helper.make_model(helper.make_graph([], "inputs", values, []))


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:  # bfloat16 and its kin are no names that numpy knows by itself
        return helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name.upper()))


def with_batch(
    model: InferenceSession | onnx.ModelProto | tuple[Input, ...], shapes: Mapping[str, Shape], batch: int
) -> dict[str, Shape] | None:
    """The same input shapes at another batch size, where the model leaves it free.

    The batch is the first axis of the first input whose first axis is free. Where that axis has a symbol, every axis
    with the same symbol changes with it; where it has none, the first axes without a symbol that had the same size do.

    Args:
        model: the model, a session of it, or its inputs.
        shapes: the captured shape of each input.
        batch: the batch size wanted.

    Returns:
        New shapes; None where no input's first axis is free. That a model declares an axis free does not make it so:
        many graphs hold the captured batch in a Reshape. Whoever uses the shapes runs the original first.
    """
    inputs = model if isinstance(model, tuple) else inputs_of(model)
    leader = next((i for i in inputs if i.dims and not isinstance(i.dims[0], int) and shapes.get(i.name)), None)
    if leader is None or leader.dims is None:
        return None
    symbol, size = leader.dims[0], shapes[leader.name][0]
    changed = {name: tuple(shape) for name, shape in shapes.items()}
    for entry in inputs:
        if entry.dims is None or len(entry.dims) != len(changed.get(entry.name, ())):
            continue
        own = list(changed[entry.name])
        for axis, dim in enumerate(entry.dims):
            unnamed = symbol is None and axis == 0 and dim is None and own[0] == size
            if unnamed or (symbol is not None and dim == symbol):
                own[axis] = batch
        changed[entry.name] = tuple(own)
    return changed


def check_feeds(model: InferenceSession, feeds: Feeds) -> None:
    """Raise where a session would be run without one of its inputs.

    Raises:
        GraphoptError: an input is missing; names all that are.
    """
    missing = sorted(value.name for value in model.get_inputs() if value.name not in feeds)
    if missing:
        raise GraphoptError(f"no values for the inputs {', '.join(missing)}")
