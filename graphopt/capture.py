"""A capture: a model with the shapes it ran at and how often, as an operator graph in the view that was executed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto

from graphopt.bodies import bodies_of
from graphopt.graph import Capture, Shape
from graphopt.model_inputs import Range
from graphopt.observation import Observer
from graphopt.views import ViewName, to_view
from graphopt.weights import fill_weights


@dataclass(frozen=True)
class Execution:
    """How a model was run.

    Attributes:
        shapes: input name to shape.
        executions: how many times.
        ranges: input name to (low, high) of values that it must have, for scalars and indices.
        ran: whether it is known to have run with these shapes.
    """

    shapes: Mapping[str, Shape]
    executions: int = 1
    ranges: Mapping[str, Range] = field(default_factory=dict)
    ran: bool = False


@dataclass(frozen=True)
class Captured:
    """A capture and what went less than well.

    Attributes:
        capture: the capture.
        remarks: in a line each: that the model could not run, that shapes stay unknown.
    """

    capture: Capture
    remarks: tuple[str, ...] = ()


def capture_model(
    model: ModelProto,
    name: str,
    input_shapes: Mapping[str, Shape],
    executions: int = 1,
    view: ViewName = "executed",
    ranges: Mapping[str, Range] | None = None,
) -> Capture:
    """A capture of a model.

    Args:
        model: a checked model; dropped weights are filled in.
        name: what reports call it.
        input_shapes: input name to shape; may leave out inputs whose shape the model declares.
        executions: how many times it ran with these shapes.
        view: the graph that is captured: as onnxruntime executes it here, its portable part, or as it is.
        ranges: input name to (low, high) of its values.

    Returns:
        The capture; tensors whose shape cannot be known are missing from its shapes.

    Raises:
        GraphoptError: onnxruntime rejects the model, or a shape contradicts it.
    """
    return capture_executions(model, name, [Execution(input_shapes, executions, ranges or {})], view)[0].capture


def capture_executions(
    model: ModelProto, name: str, executions: Sequence[Execution], view: ViewName = "executed", source: str = ""
) -> tuple[Captured, ...]:
    """A capture for each way a model was run; the model is optimised once.

    Args:
        model: as for ``capture_model``.
        name: as there.
        executions: shapes, counts and ranges.
        view: as there.
        source: where it came from, for messages.

    Returns:
        The captures, in the order of ``executions``; they share one graph where ranks agree.

    Raises:
        GraphoptError: as for ``capture_model``.
    """
    observer = Observer(to_view(fill_weights(model), view), name)
    found = []
    for one in executions:
        seen = observer.observe(one.shapes, ranges=one.ranges, ran=one.ran)
        remarks = []
        if seen.failure:
            remarks.append(f"it could not run ({seen.failure}); shapes are inferred")
        if seen.unknown:
            computed = sum(not tensor.constant for tensor in seen.graph.tensors.values())
            remarks.append(f"{len(seen.unknown)} of {computed} tensors have no known shape")
        bodies = bodies_of(observer.model, seen, one.ranges)
        found.append(Captured(Capture(seen.graph, seen.shapes, one.executions, source, bodies), tuple(remarks)))
    return tuple(found)
