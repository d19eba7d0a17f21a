"""The roofline: seconds that an operator, or a set of operators as one kernel, takes on a machine.

An operator takes about the longer of its arithmetic and its traffic, plus the runtime's price per node. As one kernel,
the arithmetic of the operators adds up, only what enters and leaves the set is moved, and the price is paid once (Park
et al., 2018, section 3.3, with memory levels, rates per operator class, pieces and overhead added). docs/roofline.md
says more.
"""

from graphopt.roofline.arithmetic import OVERLAP, UNIT, arithmetic_by_rate, together
from graphopt.roofline.kernels import (
    KernelSeconds,
    external_bytes,
    fused_seconds,
    kernel_moves,
    kernel_seconds,
)
from graphopt.roofline.nodes import (
    CaptureSeconds,
    capture_seconds,
    node_moves,
    operator_gains,
    operator_seconds,
    operator_times,
    times_beside_bodies,
)
from graphopt.roofline.packing import BROADCAST, MOVED, repeats
from graphopt.roofline.profile import SPECIAL, Move, rate_keys

__all__ = [
    "BROADCAST",
    "MOVED",
    "OVERLAP",
    "SPECIAL",
    "UNIT",
    "CaptureSeconds",
    "KernelSeconds",
    "Move",
    "arithmetic_by_rate",
    "capture_seconds",
    "external_bytes",
    "fused_seconds",
    "kernel_moves",
    "kernel_seconds",
    "node_moves",
    "operator_gains",
    "operator_seconds",
    "operator_times",
    "rate_keys",
    "repeats",
    "times_beside_bodies",
    "together",
]
