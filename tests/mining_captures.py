"""Captures of small graphs written in ONNX's text form, for the tests of rules and ranking."""

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
