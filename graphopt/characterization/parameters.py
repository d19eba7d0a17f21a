"""Which tensors are parameters: constants, and what is computed from constants alone."""

from math import prod

from graphopt import operators
from graphopt.graph import Capture, OperatorGraph, Tensor

_FLOATING = ("float", "bfloat")
_QUANTIZED = ("int8", "uint8", "int4", "uint4", "int2", "uint2")


def fixed_tensors(graph: OperatorGraph) -> frozenset[str]:
    """Tensors that are the same in every execution: constants, and results of operators on nothing else.

    Random numbers are none of them. A weight that an exporter wrote transposed or quantized stays a weight.
    """
    fixed = {name for name, tensor in graph.tensors.items() if tensor.constant}
    for node in graph.nodes:
        row = operators.find(node)
        if row is None or row.rate_class == "random":
            continue
        if all(name in fixed for name in (*node.inputs, *node.captured) if name):
            fixed.update(name for name in node.outputs if name)
    return frozenset(fixed)


def parameter_elements(capture: Capture) -> int:
    """Elements of all constants that hold learned numbers, each tensor once, those of known bodies included.

    Floating-point and quantized types count; 16-bit and wider integers and booleans are indices, shapes and masks.
    """
    return sum(prod(tensor.shape or ()) for tensor in _learned(capture).values())


def _learned(capture: Capture) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in capture.graph.tensors.items() if tensor.constant and is_learned(tensor)}
    for bodies in capture.bodies.values():
        for body in bodies:
            found |= _learned(body.capture)
    return found


def is_learned(tensor: Tensor) -> bool:
    """Whether a constant of this type can hold learned numbers: floating-point or quantized."""
    return tensor.dtype.startswith(_FLOATING) or tensor.dtype in _QUANTIZED


def elements(capture: Capture, name: str) -> int | None:
    """Elements of a tensor in this capture; None when its shape is unknown."""
    shape = capture.shape(name)
    return None if shape is None else prod(shape)
