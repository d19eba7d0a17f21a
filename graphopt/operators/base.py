"""What the table of operators says about one operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from graphopt.graph import Node, Shape, Tensor

if TYPE_CHECKING:
    from graphopt.operators.lowering import Lowering


class FusionClass(StrEnum):
    """How an operator's outputs depend on its inputs: what decides whether it can share a kernel with others."""

    ELEMENTWISE = "element-wise"  # one output element from one element of each (broadcast) input
    LAYOUT = "layout"  # moves elements, computes nothing
    REDUCTION = "reduction"  # one output element from a slice of the input (sums, normalisations, softmax)
    LOOKUP = "lookup"  # reads that depend on index values (embedding Gather)
    CONTRACTION = "contraction"  # sums of products: matrix products, convolutions
    WINDOW = "window"  # sliding windows without products: pooling, resizing
    METADATA = "metadata"  # a few integers about shapes, computed by the host; no data moves
    SEQUENTIAL = "sequential"  # recurrences, scans: a step needs the step before
    OPAQUE = "opaque"  # control flow, sorting, random numbers, data-dependent sizes: never one kernel


@dataclass(frozen=True, slots=True)
class Cost:
    """What one execution of an operator costs, apart from any machine.

    Attributes:
        flops: floating-point (or integer) operations; a multiply-add counts as two.
        bytes_read: bytes of computed operands that are read; only what moves (a Reshape reads nothing).
        bytes_written: bytes of results that are written.
        parameter_bytes: bytes of constant operands that are read.
        rate_class: set where the sizes decide which machine rate bounds the arithmetic (a depthwise convolution);
            empty for the operator's own (see Operator.rate_class).
    """

    flops: int
    bytes_read: int
    bytes_written: int
    parameter_bytes: int
    rate_class: str = ""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor with the shape it had in one capture: what cost formulas see. ``shape`` is never None here."""

    tensor: Tensor
    shape: Shape

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """Size of the elements in memory."""
        return storage_bytes(self.tensor.dtype, self.elements)


Operands = Sequence[Operand | None]
CostFormula = Callable[[Node, Operands, Operands], Cost]
"""(node, inputs by slot, outputs by index) to cost; None stands for an absent optional tensor."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A row of the table.

    Attributes:
        op_type: operator type, without domain.
        fusion_class: see FusionClass.
        cost: formula for one execution.
        domain: empty for ai.onnx.
        rate_class: name of the machine rate that bounds its arithmetic (``add``, ``div``, ``exp``, ``erf``, ``copy``,
            ``gemm``, ``conv``, …); machines without that rate use the peak.
        attributes: attributes that change the computation, so that they belong to the label.
        commutative: whether the operands can change places.
        structural: slots whose *values* decide shapes or which elements move (axes, slice bounds, a Reshape's shape);
            a kernel reads them when it plans, so they must come from outside of the pattern.
        labelled: structural slots whose constant value belongs to the label (axes).
        lowering: how a kernel computes it; None where there is no lowering (yet).
        shapeless: whether operands or results may be sequences or optionals. These have no shape: the formula gets None
            for them, as for an absent one.
        changed: opset versions that gave the same operands and attributes another meaning (Softmax: 13); the label
            names the one in force.
    """

    op_type: str
    fusion_class: FusionClass
    cost: CostFormula
    domain: str = ""
    rate_class: str = "copy"
    attributes: tuple[str, ...] = ()
    commutative: bool = False
    structural: tuple[int, ...] = ()
    labelled: tuple[int, ...] = field(default=())
    lowering: "Lowering | None" = None
    changed: tuple[int, ...] = ()
    shapeless: bool = False


def element_bytes(dtype: str) -> int:
    """Bytes of one element of this dtype; strings count as pointers, unknown types as four."""
    if dtype in ("string", "object"):
        return 8
    if dtype in ("bfloat16", "float16"):
        return 2
    if dtype.startswith("float8"):
        return 1
    try:
        return np.dtype(dtype).itemsize if dtype else 4
    except TypeError:
        return 1


def storage_bytes(dtype: str, elements: int) -> int:
    """Bytes that so many elements take; types of 4 and 2 bits are packed, as ONNX stores them."""
    bits = _PACKED_BITS.get(dtype.partition("_")[0])
    return elements * element_bytes(dtype) if bits is None else (elements * bits + 7) // 8


_PACKED_BITS = {"int4": 4, "uint4": 4, "float4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2}


def distinct(operands: Operands) -> list[Operand]:
    """The operands that are there, each tensor once: ``Mul(x, x)`` reads x once."""
    return list({operand.tensor.name: operand for operand in operands if operand is not None}.values())


def elementwise_cost(flops_per_element: int = 1) -> CostFormula:
    """Formula for operators that read every operand once and write every result once.

    Args:
        flops_per_element: operations per element of the first output.
    """

    def cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
        present = distinct(inputs)
        results = [result for result in outputs if result is not None]
        return Cost(
            flops=flops_per_element * (results[0].elements if results else 0),
            bytes_read=sum(operand.bytes for operand in present if not operand.tensor.constant),
            bytes_written=sum(result.bytes for result in results),
            parameter_bytes=sum(operand.bytes for operand in present if operand.tensor.constant),
        )

    return cost


def no_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Formula for operators that move nothing: a Reshape, an Identity hand the same storage on."""
    return Cost(0, 0, 0, 0)
