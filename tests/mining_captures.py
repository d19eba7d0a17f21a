"""Captures of small graphs written in ONNX's text form, for the tests of rules and ranking."""

import random
from collections.abc import Mapping

import onnx
import onnx.parser

from graphopt.capture import capture_model
from graphopt.graph import Capture, Shape

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'


def capture(text: str, shapes: Mapping[str, Shape] | None = None, executions: int = 1, name: str = "model") -> Capture:
    """A capture of ``name (inputs) => (outputs) <initializers> { nodes }``, as it stands."""
    model = onnx.parser.parse_model(HEADER + text)
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    return capture_model(model, name, shapes or {}, executions, view="raw")


def random_fleet(chance: random.Random, count: int) -> list[Capture]:
    """Small graphs of element-wise operators, of very different sizes."""
    captures = []
    for number in range(count):
        lines, known = [], ["x"]
        for place in range(chance.randrange(4, 9)):
            operands = ", ".join(chance.choice(known[-3:]) for _ in range(chance.choice((1, 1, 2))))
            name = (
                chance.choice(("Add", "Mul", "Sub"))
                if "," in operands
                else chance.choice(("Relu", "Exp", "Tanh", "Neg"))
            )
            lines.append(f"t{place} = {name}({operands})")
            known.append(f"t{place}")
        text = f"g{number} (float[N] x) => (float[N] {known[-1]}) {{ {' '.join(lines)} }}"
        shape = (10 ** chance.randrange(2, 7),)
        captures.append(capture(text, {"x": shape}, chance.randrange(1, 50), f"g{number}"))
    return captures
