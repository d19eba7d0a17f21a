"""Operators that are about shapes, and generators that make a tensor from a shape or a few scalars."""

from graphopt.graph import Node
from graphopt.operators.base import Cost, FusionClass, Operands, Operator, no_cost
from graphopt.operators.formulas import elements, per_output, present, traffic


def range_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One multiply-add per element written; start, limit and step are read by the host (ONNX: Range)."""
    return traffic(inputs, outputs, 2 * elements(outputs, 0), host=(0, 1, 2))


def mel_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A table filled once, with a few non-zero entries per column (ONNX: MelWeightMatrix)."""
    return traffic(inputs, outputs, 2 * elements(outputs, 0), host=(0, 1, 2, 3, 4))


def fill_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Every element is written once; the shape is read by the host (ONNX: ConstantOfShape, EyeLike)."""
    return traffic([None for _ in inputs], outputs, 0)


def shape_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A few integers written by the host, no element read (ONNX: Shape, Size)."""
    result = present(outputs, 0)
    return Cost(0, 0, result.bytes if result is not None else 0, 0)


_METADATA = FusionClass.METADATA

OPERATORS: tuple[Operator, ...] = (
    Operator("Shape", _METADATA, shape_cost, attributes=("start", "end")),
    Operator("Size", _METADATA, shape_cost),
    Operator(
        "Constant", _METADATA, no_cost, attributes=("value", "value_float", "value_floats", "value_int", "value_ints")
    ),
    # Values depend on nothing but where they stand: like an element-wise operator without operands.
    Operator(
        "ConstantOfShape", FusionClass.LAYOUT, fill_cost, rate_class="fill", attributes=("value",), structural=(0,)
    ),
    Operator("EyeLike", FusionClass.LAYOUT, fill_cost, rate_class="fill", attributes=("dtype", "k")),
    Operator("Range", _METADATA, range_cost, rate_class="add", structural=(0, 1, 2)),
    Operator("Range", _METADATA, range_cost, "com.microsoft", "add", structural=(0, 1, 2)),
    # A cosine and a multiply-add per element; the length is read by the host.
    *(
        Operator(
            name,
            _METADATA,
            per_output(3, host=(0,)),
            rate_class="cos",
            attributes=("output_datatype", "periodic"),
            structural=(0,),
        )
        for name in ("BlackmanWindow", "HammingWindow", "HannWindow")
    ),
    Operator(
        "MelWeightMatrix",
        _METADATA,
        mel_cost,
        rate_class="add",
        attributes=("output_datatype",),
        structural=(0, 1, 2, 3, 4),
    ),
)
