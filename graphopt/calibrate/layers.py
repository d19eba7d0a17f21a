"""Convolutions and recurrent layers that are timed as operators and inside of kernels: their attributes and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.graph import AttributeValue, Shape
from graphopt.operators.executed import GATES


@dataclass(frozen=True)
class Layer:
    """A layer at one size.

    Attributes:
        attributes: of the node.
        shapes: of the operand ``x``, the weights ``w`` and ``r``, the bias ``b`` and the result ``y``.
    """

    attributes: Mapping[str, AttributeValue]
    shapes: Mapping[str, Shape]


def convolution(
    channels: int,
    out: int,
    size: int,
    kernel: int | tuple[int, int],
    group: int = 1,
    *,
    stride: int = 1,
    batch: int = 1,
    dilation: int = 1,
) -> Layer:
    """A convolution with padding that keeps the size, but for its stride."""
    window = (kernel, kernel) if isinstance(kernel, int) else kernel
    left = -(-size // stride)
    return Layer(
        {
            "kernel_shape": window,
            "pads": tuple(length // 2 * dilation for length in window) * 2,
            "group": group,
            "strides": (stride, stride),
            "dilations": (dilation, dilation),
            "auto_pad": "NOTSET",
        },
        {
            "x": (batch, channels, size, size),
            "w": (out, channels // group, *window),
            "b": (out,),
            "y": (batch, out, left, left),
        },
    )


def along_time(channels: int, out: int, length: int, kernel: int, *, batch: int = 1, stride: int = 1) -> Layer:
    """A convolution over one dimension without padding or bias."""
    left = (length - kernel) // stride + 1
    shapes: dict[str, Shape] = {"x": (batch, channels, length), "w": (out, channels, kernel), "y": (batch, out, left)}
    return Layer({"kernel_shape": (kernel,), "strides": (stride,)}, shapes)


def recurrent(op_type: str, steps: int, batch: int, size: int, hidden: int, directions: int = 1) -> Layer:
    """A GRU or LSTM over vectors of ``size`` elements."""
    width = GATES[op_type] * hidden
    attributes: dict[str, AttributeValue] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    if op_type == "GRU":
        attributes["linear_before_reset"] = 1
    return Layer(
        attributes,
        {
            "x": (steps, batch, size),
            "w": (directions, width, size),
            "r": (directions, width, hidden),
            "b": (directions, 2 * width),
            "y": (steps, directions, batch, hidden),
        },
    )


RECURRENT = (
    ("LSTM", 32, 1, 128, 128),
    ("LSTM", 12, 1, 200, 480),
    ("LSTM", 10, 16, 64, 96, 2),
    ("GRU", 1, 1, 128, 64),
    ("GRU", 60, 1, 64, 48, 2),
    ("GRU", 16, 6, 160, 80),
    ("GRU", 40, 1, 100, 200),
)
"""Recurrent layers that are timed: operator, steps, batch, input size, hidden size, directions."""
