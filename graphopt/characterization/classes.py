"""Operator classes: what a fleet's time is divided by, after figure 4 of Park et al. (2018)."""

from enum import StrEnum

from graphopt import operators
from graphopt.characterization.layers import Kind, kind_of, pooled_by
from graphopt.characterization.parameters import fixed_tensors
from graphopt.graph import Capture, Node, OperatorGraph
from graphopt.operators.base import FusionClass


class OperatorClass(StrEnum):
    """A class of operators, in the order of tables and figures."""

    FC = "FC"  # matrix products with weights
    EMBEDDING = "embedding"  # lookups in tables of weights, and the pooling of what they gather
    CONVOLUTION = "convolution"
    GROUP_CONVOLUTION = "group convolution"
    RECURRENT = "recurrent"
    PRODUCT = "product of activations"  # matrix products without weights: attention
    MANIPULATION = "tensor manipulation"  # moves or renames elements: Concat, Transpose, Gather, layout changes
    ELEMENTWISE = "element-wise"
    REDUCTION = "normalization and reduction"
    WINDOW = "pooling and resizing"
    QUANTIZATION = "quantization"
    OTHER = "other"


_OF_KIND = {
    Kind.FC: OperatorClass.FC,
    Kind.CONVOLUTION: OperatorClass.CONVOLUTION,
    Kind.GROUP_CONVOLUTION: OperatorClass.GROUP_CONVOLUTION,
    Kind.EMBEDDING: OperatorClass.EMBEDDING,
    Kind.RECURRENT: OperatorClass.RECURRENT,
}
_OF_FUSION_CLASS = {
    FusionClass.LAYOUT: OperatorClass.MANIPULATION,
    FusionClass.LOOKUP: OperatorClass.MANIPULATION,
    FusionClass.METADATA: OperatorClass.MANIPULATION,
    FusionClass.ELEMENTWISE: OperatorClass.ELEMENTWISE,
    FusionClass.REDUCTION: OperatorClass.REDUCTION,
    FusionClass.WINDOW: OperatorClass.WINDOW,
    FusionClass.CONTRACTION: OperatorClass.PRODUCT,
    FusionClass.SEQUENTIAL: OperatorClass.OTHER,
    FusionClass.OPAQUE: OperatorClass.OTHER,
}


def operator_classes(capture: Capture) -> list[OperatorClass]:
    """The class of every node of a capture, in node order."""
    fixed = fixed_tensors(capture.graph)
    found = [_class(capture.graph, node, fixed) for node in capture.graph.nodes]
    for index, one in enumerate(found):
        if one is OperatorClass.EMBEDDING:
            for user in pooled_by(capture, index):
                found[user] = OperatorClass.EMBEDDING
    return found


def _class(graph: OperatorGraph, node: Node, fixed: frozenset[str]) -> OperatorClass:
    row = operators.find(node)
    if row is None:
        return OperatorClass.OTHER
    kind = kind_of(graph, node, row, fixed)
    if kind is not None:
        return _OF_KIND[kind]
    if row.rate_class == "view" or row.rate_class == "cast":
        return OperatorClass.MANIPULATION
    if row.rate_class in ("quantize", "dequantize"):
        return OperatorClass.QUANTIZATION
    if "recurrent" in row.rate_class:
        return OperatorClass.RECURRENT
    if "Pool" in node.op_type:
        return OperatorClass.WINDOW
    return _OF_FUSION_CLASS[row.fusion_class]
