"""What ``bench`` adds to the log of predictions: each fused operator of the candidate, timed alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from graphopt import machine as machines
from graphopt import models, prediction_log, roofline
from graphopt.calibrate.cases import TINY
from graphopt.calibrate.timing import Run, bound, case_model, fastest, session
from graphopt.capture import capture_model
from graphopt.graph import Capture, OperatorGraph, Shape
from graphopt.runtime.feeds import seeded_inputs
from graphopt.runtime.reference import FUSED_DOMAIN

MOST = 20
"""Fused operators that are timed."""
SECONDS = 0.03


@dataclass(frozen=True)
class _Call:
    """A call of a fused operator, cut out.

    Attributes:
        function: its body.
        inputs: computed operands by formal name: dtype and shape.
        constants: the others, with their values.
    """

    function: onnx.FunctionProto
    inputs: Mapping[str, tuple[str, Shape]]
    constants: Mapping[str, NDArray[Any]]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: shape for name, (_, shape) in self.inputs.items()}

    def model(self, *, fused: bool) -> onnx.ModelProto:
        """The body's operators, or the one fused operator, as a model."""
        names = list(self.function.input)
        call = helper.make_node(self.function.name, names, list(self.function.output), domain=FUSED_DOMAIN)
        graph = helper.make_graph(
            [call] if fused else list(self.function.node),
            self.function.name,
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                for name, (dtype, shape) in self.inputs.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in self.function.output],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid(FUSED_DOMAIN, 1)] if fused else list(self.function.opset_import)
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def log_fused_operators(model: onnx.ModelProto, library: Path, shapes: Mapping[str, Shape], *, threads: int) -> int:
    """Time the fused operators of a model alone, as operators and as kernels, and add them to the log.

    Predictions beside them are for the default machine.

    Args:
        model: the candidate, with its function bodies.
        library: its kernels.
        shapes: input shapes.
        threads: of onnxruntime within an operator.

    Returns:
        Records added; 0 when the log is switched off.
    """
    if prediction_log.path() is None:
        return 0
    machine = machines.load()
    call = fastest(bound(session(case_model(TINY), threads), TINY.feeds), SECONDS)
    records = []
    for one in _calls(model, shapes):
        capture = capture_model(one.model(fused=False), one.function.name, one.shapes, view="raw")
        count = range(len(capture.graph.nodes))
        apart, fused = roofline.operator_times(capture, machine), roofline.fused_seconds(capture, count, machine)
        if fused is None or None in apart:
            continue
        predicted = sum(seconds for seconds in apart if seconds is not None), fused
        measured = (
            fastest(_run(one, False, threads, None), SECONDS) - call,
            fastest(_run(one, True, threads, library), SECONDS) - call,
        )
        if min(measured) > 0.0:
            records.append(prediction_log.Record(capture, machine.name, threads, "bench", predicted, measured))
    prediction_log.append(records)
    return len(records)


def _run(one: _Call, fused: bool, threads: int, library: Path | None) -> Run:
    feeds = seeded_inputs(one.model(fused=False), one.shapes)
    return bound(session(one.model(fused=fused).SerializeToString(), threads, library), feeds)


def _calls(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> Iterator[_Call]:
    """Calls of fused operators whose operands are all known, each function and set of shapes once."""
    functions = {function.name: function for function in model.functions if function.domain == FUSED_DOMAIN}
    if not functions:
        return
    seen = models.observe(model, shapes)
    observed = Capture(seen.graph, seen.shapes)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[object] = set()
    for node in model.graph.node:
        function = functions.get(node.op_type) if node.domain == FUSED_DOMAIN else None
        if function is None or len(done) == MOST:
            continue
        pairs = list(zip(function.input, node.input, strict=True))
        computed = [(formal, name) for formal, name in pairs if name not in constants]
        known = {formal: _described(observed.graph, observed, name) for formal, name in computed}
        inputs = {formal: found for formal, found in known.items() if found is not None}
        key = (function.name, tuple(sorted(inputs.items())))
        if len(inputs) < len(known) or key in done:
            continue
        done.add(key)
        values = {formal: numpy_helper.to_array(constants[name]) for formal, name in pairs if name in constants}
        yield _Call(function, inputs, values)


def _described(graph: OperatorGraph, capture: Capture, name: str) -> tuple[str, Shape] | None:
    tensor, shape = graph.tensors.get(name), capture.shape(name)
    return None if tensor is None or not tensor.dtype or shape is None else (tensor.dtype, shape)
