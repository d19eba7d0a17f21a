"""What the onnx reference evaluator can be trusted with: its known mistakes and its hopelessly slow operators, as data.

Found by comparing every node of 79 models of opsets 9 to 20 with onnxruntime on the same operands, and by reading which
attributes the evaluator's own source leaves unused. Seen in onnx 1.23.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto

RIGHT_SINCE: Mapping[str, int] = {
    "Softmax": 13,  # before, everything from the axis on is one row; the evaluator always takes a single axis
    "LogSoftmax": 13,
    "Hardmax": 13,
    "BatchNormalization": 14,  # before, the evaluator mixes the operand's own mean into the given one
}
"""Operators that the evaluator computes wrongly below an opset version."""

WRONG = frozenset(
    {
        "LRN",  # its loop over channels ends at the batch size
        "DynamicQuantizeLinear",  # its scale for an operand of zeros is 1/255, where the specification says 1
        "GlobalMaxPool",  # right for two spatial axes only
    }
)
"""Operators that the evaluator computes wrongly."""

RECURRENT = frozenset({"RNN", "GRU", "LSTM"})
"""Operators of which the evaluator ignores the sequence lengths and the attributes UNUSED_BY_RECURRENT."""
UNUSED_BY_RECURRENT = frozenset({"activations", "activation_alpha", "activation_beta", "clip", "input_forget"})
_SEQUENCE_LENGTHS = 4  # operand slot of all three

SLOW = frozenset(
    {"AveragePool", "MaxPool", "LpPool", "Resize", "Upsample", "RoiAlign", "GridSample", "ConvTranspose", "DeformConv"}
)
"""Operators that the evaluator computes element by element in Python."""
SLOW_ABOVE = 20_000
"""Elements of all operands together from which on SLOW operators are left to onnxruntime."""


def trusted(node: NodeProto, values: Mapping[str, Any], version: int) -> bool:
    """Whether the reference evaluator may compute a node.

    Args:
        node: the node.
        values: its operands by name.
        version: opset version of the node's domain.

    Returns:
        False for other domains than the standard ones, nodes with bodies, known mistakes, and slow operators on large
        operands.
    """
    if node.domain not in ("", "ai.onnx.ml"):
        return False
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in attributes.values()):
        return False
    if node.op_type in WRONG or version < RIGHT_SINCE.get(node.op_type, 0):
        return False
    if node.op_type in RECURRENT:
        lengths = len(node.input) > _SEQUENCE_LENGTHS and bool(node.input[_SEQUENCE_LENGTHS])
        backward = "direction" in attributes and attributes["direction"].s != b"forward"
        return not (lengths or backward or UNUSED_BY_RECURRENT & attributes.keys())
    if node.op_type in SLOW:
        return sum(np.size(values[name]) for name in node.input if name) < SLOW_ABOVE
    return True
