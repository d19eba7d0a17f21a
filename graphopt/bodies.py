"""Bodies of If, Loop and Scan: the graph that ran inside of a control-flow operator, and how many times.

The trips of a Scan follow from shapes. Those of a Loop and the branch of an If are constants, or are seen by running
the model once on seeded inputs. Inside of a body, whose inputs nobody knows, they are known where they follow from
constants and shapes.
"""

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from graphopt.errors import GraphoptError
from graphopt.graph import Body, Capture, Node, OperatorGraph, Shape, scope_of
from graphopt.model_files import free_names, origins
from graphopt.model_graphs import unique_names
from graphopt.model_inputs import Range, data_type, seeded_inputs
from graphopt.observation import Observation, Observer, open_session
from graphopt.weights import dropped

_PROBE = "graphopt_trips_"
_BODY = {"Loop": "body", "Scan": "body"}


def bodies_of(
    model: ModelProto, seen: Observation, ranges: Mapping[str, Range] | None = None, *, nested: bool = False
) -> dict[str, tuple[Body, ...]]:
    """What ran inside of the control-flow operators of a model's main graph.

    Args:
        model: without local functions (``Observer.model``).
        seen: its observation at the shapes in question.
        ranges: input name to (low, high) of the values that it is run with.
        nested: whether the model is a body itself, so that values of its inputs mean nothing.

    Returns:
        Node name to its bodies, for the operators whose trips and shapes are known.
    """
    nodes = [node for node in seen.graph.nodes if node.operator in ("If", "Loop", "Scan")]
    if not nodes:
        return {}
    protos = {tuple(proto.output): proto for proto in model.graph.node}
    counts = _counts(model, seen, nodes, protos, ranges, nested)
    found: dict[str, tuple[Body, ...]] = {}
    for node in nodes:
        proto, count = protos.get(node.outputs), counts.get(node.name)
        if proto is None or count is None:
            continue
        branch = _BODY.get(node.op_type) or ("then_branch" if count else "else_branch")
        body = next((a.g for a in proto.attribute if a.name == branch), None)
        capture = None if body is None else _captured(model, seen, node, branch, body)
        if capture is not None:
            found[node.name] = (Body(capture, 1 if node.op_type == "If" else count, branch),)
    return found


# ------------------------------------------------------------------ how often


def _counts(
    model: ModelProto,
    seen: Observation,
    nodes: list[Node],
    protos: Mapping[tuple[str, ...], NodeProto],
    ranges: Mapping[str, Range] | None,
    nested: bool,
) -> dict[str, int]:
    """Trips by node name; of an If, whether the condition holds."""
    counts = {}
    to_run = []
    for node in nodes:
        if node.op_type == "Scan":
            trips = _scan_trips(node, seen.shapes)
            if trips is not None:
                counts[node.name] = trips
        elif not nested or all(_follows_from_shapes(seen.graph, name) for name in _deciding(node, protos)):
            to_run.append(node)
    if to_run:
        counts |= _run(model, seen, to_run, ranges)
    return counts


def _scan_trips(node: Node, shapes: Mapping[str, Shape]) -> int | None:
    inputs = node.attributes.get("num_scan_inputs")
    if node.version < 9 or not isinstance(inputs, int) or not inputs:
        return None
    axes = node.attributes.get("scan_input_axes")
    shape = shapes.get(node.inputs[-inputs])
    axis = axes[0] if isinstance(axes, tuple) and axes else 0
    return None if not shape or not isinstance(axis, int) else shape[axis]


def _deciding(node: Node, protos: Mapping[tuple[str, ...], NodeProto]) -> tuple[str, ...]:
    """Operands that decide how often a body runs. A Loop that its body can end depends on all of them."""
    if node.op_type == "If":
        return node.inputs[:1]
    if node.outputs in protos and _runs_to_the_end(protos[node.outputs]):
        return node.inputs[:2]
    return (*node.inputs, *node.captured)


def _runs_to_the_end(loop: NodeProto) -> bool:
    """Whether the body hands the condition on as it came, so that it never ends the Loop."""
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    condition: str = body.output[0].name
    return origins(body).get(condition, condition) == str(body.input[1].name)


def _follows_from_shapes(graph: OperatorGraph, name: str) -> bool:
    """Whether a tensor's value follows from constants and shapes alone."""
    todo, seen = [name], set()
    while todo:
        name = todo.pop()
        if not name or name in seen or (name in graph.tensors and graph.tensors[name].constant):
            continue
        seen.add(name)
        if name not in graph.producers:
            return False
        node = graph.nodes[graph.producers[name][0]]
        if node.op_type not in ("Shape", "Size"):
            todo += [*node.inputs, *node.captured]
    return True


def _run(model: ModelProto, seen: Observation, nodes: list[Node], ranges: Mapping[str, Range] | None) -> dict[str, int]:
    """Run the model for conditions and trip counts; what cannot run tells nothing."""
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    names = {}
    by_outputs = {tuple(proto.output): proto for proto in probed.graph.node}
    for index, node in enumerate(nodes):
        proto = by_outputs.get(node.outputs)
        if proto is None:
            continue
        probe = f"{_PROBE}{index}"
        if node.op_type == "If":
            probed.graph.node.add(op_type="Identity", input=[proto.input[0]], output=[probe])
        else:
            _count_trips(proto, probe)
        probed.graph.output.add(name=probe)
        names[node.name] = probe
    given = {name: shape for name, shape in seen.shapes.items() if name in seen.graph.inputs}
    try:
        session = open_session(probed)
        values = session.run(list(names.values()), seeded_inputs(model, given, ranges=ranges))
    except Exception:  # onnxruntime's errors share no class; nothing is known then
        return {}
    return {
        name: value.shape[0] if value.ndim == 1 and value.dtype == np.int64 else int(bool(value.any()))
        for name, value in zip(names, values, strict=True)
    }


def _count_trips(loop: NodeProto, probe: str) -> None:
    """Let a Loop collect its iteration numbers: as many as it has trips."""
    body = next(a.g for a in loop.attribute if a.name == "body")
    body.node.add(op_type="Identity", input=[body.input[0].name], output=[f"{probe}_in_body"])
    body.output.append(helper.make_tensor_value_info(f"{probe}_in_body", TensorProto.INT64, []))
    loop.output.append(probe)


# ------------------------------------------------------------------ what


def _captured(model: ModelProto, seen: Observation, node: Node, branch: str, body: GraphProto) -> Capture | None:
    """A body as a capture of its own; None where a shape is unknown or changes from trip to trip.

    States may change their shapes on the first trip: then it is the body from the second one on.
    """
    shapes = _input_shapes(seen, node)
    for _ in range(2):
        if shapes is None or len(shapes) != len(body.input):
            return None
        found = _observed(model, seen, scope_of(node.name, branch), body, shapes)
        if found is None:
            return None
        observer, inside = found
        first_state, states = (2, len(shapes) - 2) if node.op_type == "Loop" else (0, 0)
        results = [value.name for value in body.output][1 : 1 + states]
        after = [inside.shapes.get(result, shapes[first_state + at][1]) for at, result in enumerate(results)]
        if after == [shape for _, shape in shapes[first_state:][:states]]:
            return Capture(inside.graph, inside.shapes, bodies=bodies_of(observer.model, inside, nested=True))
        changed = [(name, shape) for (name, _), shape in zip(shapes[first_state:], after, strict=True)]
        shapes = [*shapes[:first_state], *changed]
    return None


def _observed(
    model: ModelProto, seen: Observation, scope: str, body: GraphProto, shapes: list[tuple[str, Shape]]
) -> tuple[Observer, Observation] | None:
    """A body as a model of its own, observed where its inputs have these shapes; None where that cannot be."""
    alone = body_alone(model, body)
    given: dict[str, Shape] = {}
    for value, (outer, shape) in zip(alone.graph.input, shapes, strict=True):
        element = value.type.tensor_type.elem_type or _element(seen, outer)
        if not element:
            return None
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, shape))
        given[value.name] = shape
    if not _add_inputs(alone, seen, given):
        return None
    try:
        observer = Observer(alone, f"{seen.graph.name}/{scope}")
        inside = observer.observe(given)
    except (GraphoptError, RuntimeError, ValueError):
        return None
    return observer, inside


def _input_shapes(seen: Observation, node: Node) -> list[tuple[str, Shape]] | None:
    """For each input of a body, the outer tensor that it starts from and its shape; None when one is unknown."""
    known = Capture(seen.graph, seen.shapes)
    if node.op_type == "If":
        return []
    if node.op_type == "Loop":
        found: list[tuple[str, Shape | None]] = [("", ()), ("", ())]
        found += [(name, known.shape(name)) for name in node.inputs[2:]]
    else:
        scanned = node.attributes["num_scan_inputs"]
        assert isinstance(scanned, int)  # by _scan_trips
        states = len(node.inputs) - scanned
        axes = node.attributes.get("scan_input_axes")
        found = [(name, known.shape(name)) for name in node.inputs[:states]]
        for at, name in enumerate(node.inputs[states:]):
            shape = known.shape(name)
            axis = axes[at] if isinstance(axes, tuple) and at < len(axes) else 0
            if shape and isinstance(axis, int):
                axis %= len(shape)
                shape = shape[:axis] + shape[axis + 1 :]
            found.append((name, shape))
    whole = [(name, shape) for name, shape in found if shape is not None]
    return whole if len(whole) == len(found) else None


def _element(seen: Observation, name: str) -> int:
    tensor = seen.graph.tensors.get(name)
    return data_type(tensor.dtype) if tensor is not None and tensor.dtype else 0


def body_alone(model: ModelProto, body: GraphProto) -> ModelProto:
    """A body as a model of its own, with the constants that it reads from outside.

    Args:
        model: the model, or body, around it.
        body: the body.

    Returns:
        The model, its nodes called as in its operator graph. Computed tensors of the graph around it that it reads
        are none of its inputs yet.
    """
    alone = ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.CopyFrom(body)
    alone.graph.name = alone.graph.name or "body"
    for node, name in zip(alone.graph.node, unique_names(body.node), strict=True):
        node.name = name
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: proto for proto in model.graph.node for name in proto.output}
    constant = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    constant |= {node.output[0] for node, _ in dropped(model.graph)}
    for name in dict.fromkeys(free_names(body)):
        if name in initializers:
            alone.graph.initializer.append(initializers[name])
        elif name in constant:
            alone.graph.node.insert(0, makers[name])
            for operand in makers[name].input:  # the shape of a dropped weight
                if operand in initializers:
                    alone.graph.initializer.append(initializers[operand])
    return alone


def _add_inputs(alone: ModelProto, seen: Observation, given: dict[str, Shape]) -> bool:
    """Make inputs of the computed tensors that a body reads from outside; False where one is unknown."""
    for name in dict.fromkeys(free_names(alone.graph)):
        if name not in seen.shapes or not _element(seen, name):
            return False
        alone.graph.input.append(helper.make_tensor_value_info(name, _element(seen, name), seen.shapes[name]))
        given[name] = seen.shapes[name]
    return True
