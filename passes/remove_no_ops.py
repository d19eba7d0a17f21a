"""Remove operators that hand their input on unchanged, for every input they can get.

Only what is exactly equal counts. Adding 0 is no such case (-0 + 0 is 0), adding -0 is; multiplying with 1 is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.model_files import captured_names
from graphopt.passes.base import Context, PassResult, register
from graphopt.protos import (
    TensorType,
    copy,
    drop_unused,
    replace_nodes,
    small_constants,
    tensor_types,
)


@dataclass(frozen=True)
class Known:
    """What the rules may look at: tensor types, values of small constants, the opset version of ai.onnx."""

    types: Mapping[str, TensorType]
    constants: Mapping[str, onnx.TensorProto]
    opset: int

    def value(self, node: onnx.NodeProto, slot: int) -> np.ndarray | None:
        """Value of a constant operand; None where it is absent or not known."""
        name = node.input[slot] if slot < len(node.input) else ""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def dims(self, name: str) -> tuple[int | None, ...] | None:
        """Sizes of a tensor; None where the rank is unknown."""
        found = self.types.get(name)
        return None if found is None else found.dims

    def dtype(self, name: str) -> int:
        """ONNX element type; 0 where unknown."""
        found = self.types.get(name)
        return 0 if found is None else found.dtype


Rule = Callable[[onnx.NodeProto, Known], int | None]
"""(node, what is known) to the slot whose tensor the node hands on; None when it does something."""


def _attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _identity(node: onnx.NodeProto, known: Known) -> int | None:
    return 0


def _single(node: onnx.NodeProto, known: Known) -> int | None:
    return 0 if len(node.input) == 1 else None


def _dropout(node: onnx.NodeProto, known: Known) -> int | None:
    if len(node.output) > 1 and node.output[1]:
        return None
    if known.opset < 7:
        return 0 if _attribute(node, "is_test", 0) == 1 else None
    if known.opset < 12 or len(node.input) < 3 or not node.input[2]:
        return 0
    training = known.value(node, 2)
    return 0 if training is not None and not training.any() else None


def _cast(node: onnx.NodeProto, known: Known) -> int | None:
    dtype = known.dtype(node.input[0])
    return 0 if dtype and dtype == _attribute(node, "to") else None


def _reshape(node: onnx.NodeProto, known: Known) -> int | None:
    dims, target = known.dims(node.input[0]), known.value(node, 1)
    if dims is None or target is None or target.ndim != 1 or target.size != len(dims):
        return None
    if _attribute(node, "allowzero", 0):
        return None
    wanted = [int(size) for size in target]
    kept = [size == 0 or (size > 0 and size == dim) for size, dim in zip(wanted, dims, strict=True)]
    # One -1 among kept sizes can only stand for the size that was there.
    return 0 if all(ok or size == -1 for ok, size in zip(kept, wanted, strict=True)) and wanted.count(-1) <= 1 else None


def _transpose(node: onnx.NodeProto, known: Known) -> int | None:
    order = _attribute(node, "perm")
    if isinstance(order, list):
        return 0 if order == list(range(len(order))) else None
    dims = known.dims(node.input[0])
    return 0 if dims is not None and len(dims) < 2 else None


def _expand(node: onnx.NodeProto, known: Known) -> int | None:
    dims, target = known.dims(node.input[0]), known.value(node, 1)
    if dims is None or target is None or target.size > len(dims):
        return None
    return 0 if (target == 1).all() else None


def _slice(node: onnx.NodeProto, known: Known) -> int | None:
    if known.opset < 10:
        return None
    starts, ends = known.value(node, 1), known.value(node, 2)
    steps = known.value(node, 4) if len(node.input) > 4 and node.input[4] else np.ones(1, np.int64)
    if starts is None or ends is None or steps is None:
        return None
    whole = (starts == 0).all() and (ends >= np.iinfo(np.int32).max).all() and (steps == 1).all()
    return 0 if whole else None


def _pad(node: onnx.NodeProto, known: Known) -> int | None:
    amounts = known.value(node, 1) if known.opset >= 11 else np.asarray(_attribute(node, "pads", [1]))
    return 0 if amounts is not None and not amounts.any() else None


def _with(neutral: Callable[[np.ndarray], bool], *slots: int) -> Rule:
    """Rule for a binary operator with a neutral constant in one of these slots."""

    def rule(node: onnx.NodeProto, known: Known) -> int | None:
        for slot in slots:
            value, other = known.value(node, slot), node.input[1 - slot]
            dims = known.dims(other)
            if value is None or value.size != 1 or dims is None or value.ndim > len(dims):
                continue
            if known.dtype(other) == known.dtype(node.input[slot]) and neutral(value.reshape(())):
                return 1 - slot
        return None

    return rule


def _one(value: np.ndarray) -> bool:
    return value.dtype.kind in "fiu" and bool(value == 1)


def _added_nothing(value: np.ndarray) -> bool:
    return bool(value == 0) and (value.dtype.kind in "iu" or (value.dtype.kind == "f" and bool(np.signbit(value))))


def _subtracted_nothing(value: np.ndarray) -> bool:
    return bool(value == 0) and (value.dtype.kind in "iu" or (value.dtype.kind == "f" and not np.signbit(value)))


RULES: dict[str, Rule] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mul": _with(_one, 0, 1),
    "Div": _with(_one, 1),
    "Add": _with(_added_nothing, 0, 1),
    "Sub": _with(_subtracted_nothing, 1),
}
"""Operator type of ai.onnx to the rule that says whether a node of it does nothing."""


@register("remove-no-ops")
@dataclass(frozen=True)
class RemoveNoOps:
    """Remove operators that hand their input on unchanged: Identity, Dropout, Cast to the same type, x * 1 and such."""

    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model without no-ops. Graph outputs keep their names; If, Loop and Scan bodies stay as they are."""
        opset = max((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), default=1)
        if not any(node.op_type in RULES for node in model.graph.node):
            return PassResult(model, False)
        known = Known(tensor_types(model), small_constants(model.graph), opset)
        changed = copy(model)
        removed = _remove(changed.graph, known)
        if not removed:
            return PassResult(model, False)
        drop_unused(changed.graph)
        counts = ", ".join(f"{count} {op_type}" for op_type, count in sorted(removed.items()))
        return PassResult(changed, True, (f"removed {counts}",))


def _remove(graph: onnx.GraphProto, known: Known) -> dict[str, int]:
    outputs = {value.name for value in graph.output}
    fixed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | outputs
    in_bodies: set[str] = set().union(*(captured_names(node) for node in graph.node)) if graph.node else set()
    renamed: dict[str, str] = {}  # a removed node's result, or a source that takes a graph output's name

    def current(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    kept: list[onnx.NodeProto] = []
    removed: dict[str, int] = {}
    for node in graph.node:
        slot = RULES[node.op_type](node, known) if node.domain in ("", "ai.onnx") and node.op_type in RULES else None
        if slot is None or not node.input[slot] or not node.output:
            kept.append(node)
            continue
        source, result = current(node.input[slot]), node.output[0]
        if result not in outputs and result not in in_bodies:
            renamed[result] = source
        elif result in outputs and result not in in_bodies and source not in fixed and source not in in_bodies:
            renamed[source] = result  # the producer makes the graph output itself
            fixed.add(result)
        else:
            kept.append(node)
            continue
        removed[node.op_type] = removed.get(node.op_type, 0) + 1
    for node in kept:
        for slot, name in enumerate(node.input):
            if name:
                node.input[slot] = current(name)
        for position, name in enumerate(node.output):
            if name in renamed:
                node.output[position] = current(name)
    if removed:
        replace_nodes(graph, kept)
        stale = [i for i, value in enumerate(graph.value_info) if value.name in renamed or value.name in outputs]
        for position in reversed(stale):
            del graph.value_info[position]
    return removed
