"""One occurrence of a pattern as a model of its own, with real shapes and constants, and as one fused operator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, helper

from graphopt import corpus, models
from graphopt.bodies import body_alone
from graphopt.errors import GraphoptError
from graphopt.foldable import foldable
from graphopt.graph import OperatorGraph, Shape, scope_of
from graphopt.kernels.emit import Source, emit_library
from graphopt.kernels.lower import lower
from graphopt.machine import Machine
from graphopt.mining.opportunity import Opportunity, ShapeExample, TensorShape
from graphopt.model_graphs import unique_names
from graphopt.model_inputs import data_type
from graphopt.passes.base import Context, Observed, WantedPattern
from graphopt.passes.fuse import Fuse, Fusion, Fusions
from graphopt.protos import sort_nodes
from graphopt.views import ViewName, to_view
from graphopt.weights import fill_weights


@dataclass(frozen=True)
class Cut:
    """A pattern that was cut out of a model.

    Attributes:
        model: its operators as a model.
        shapes: of that model's inputs.
        fused: the same as one fused operator.
        fusion: that operator.
    """

    model: onnx.ModelProto
    shapes: dict[str, Shape]
    fused: onnx.ModelProto
    fusion: Fusion

    def source(self) -> Source:
        """The C of its kernel, entitled with the fused operator's name."""
        fusion = self.fusion
        return emit_library([lower(fusion.name, fusion.body, fusion.shapes)], fusion.name)


@dataclass(frozen=True)
class Place:
    """Where an opportunity's first shapes come from.

    Attributes:
        file: of the model.
        body: the body in it, by the scopes that lead there; empty for the main graph.
    """

    file: Path
    body: str


def place_of(opportunity: Opportunity, files: Mapping[str, Path]) -> Place:
    """The place that an opportunity's first shapes come from.

    Args:
        opportunity: the pattern.
        files: of the corpus's models, by name.

    Raises:
        GraphoptError: the corpus does not hold it, or the opportunity has no shapes.
    """
    if not opportunity.shapes:
        raise GraphoptError(f"{opportunity.short}: the opportunities file says no shapes")
    name = opportunity.shapes[0].model
    models_so_called = [model for model in files if name == model or name.startswith(f"{model}/")]
    if not models_so_called:
        raise GraphoptError(f"{opportunity.short}: the corpus holds no model {name!r}")
    model = max(models_so_called, key=len)
    return Place(files[model], name.removeprefix(model))


def load_view(path: Path, view: ViewName) -> onnx.ModelProto:
    """A model in a view as it is mined, with weights and without functions.

    Raises:
        GraphoptError: it cannot be read, or onnxruntime rejects it.
    """
    filled = fill_weights(models.load(path))
    return models.inline_functions(to_view(foldable(filled) if view != "raw" else filled, view))


def cut_out(model: onnx.ModelProto, body: str, opportunity: Opportunity, machine: Machine) -> Cut:
    """Cut a pattern out of a model, at the shapes where it saves most.

    Args:
        model: the model that the opportunity's first shapes come from, in the view that was mined, without functions.
        body: where in it; see Place.
        opportunity: the pattern.
        machine: roofline description.

    Raises:
        GraphoptError: the model does not hold it there, or no kernel can be generated.
    """
    example = opportunity.shapes[0]
    around = next((inside for path, inside in _with_bodies(model) if path == body), None)
    if around is None:
        raise GraphoptError(f"{example.model}: there is no such body; is it the corpus that was mined?")
    graph = models.to_graph(around, example.model)
    alone = pattern_model(around, graph, example.nodes, _crossing(graph, example))
    shapes = models.default_shapes(alone)  # all are declared
    fused, fusion = _fused(alone, opportunity, machine, shapes)
    return Cut(alone, shapes, fused, fusion)


def kernel_sources(
    opportunities: Sequence[Opportunity],
    place: Path | str,
    machine: Machine,
    progress: corpus.Progress | None = None,
) -> dict[str, str]:
    """By digest, the C of each opportunity's kernel, where one can be generated; in the executed view.

    Args:
        opportunities: the patterns.
        place: the corpus that they were mined from.
        machine: roofline description.
        progress: told after each.

    Raises:
        GraphoptError: the corpus does not hold a model of theirs.
    """
    viewed: dict[Path, onnx.ModelProto] = {}
    found: dict[str, str] = {}
    with corpus.files_by_name(place) as files:
        for done, opportunity in enumerate(opportunities, 1):
            where = place_of(opportunity, files)
            if where.file not in viewed:
                viewed = {where.file: load_view(where.file, "executed")}
            with suppress(GraphoptError):
                cut = cut_out(viewed[where.file], where.body, opportunity, machine)
                found[opportunity.digest] = cut.source().kernels[0][1]
            if progress is not None:
                progress(done, len(opportunities), opportunity.short)
    return found


def _with_bodies(model: onnx.ModelProto, path: str = "") -> Iterator[tuple[str, onnx.ModelProto]]:
    """The model, and each body in it as a model of its own, at any depth, by the scopes that lead there."""
    yield path, model
    for node, name in zip(model.graph.node, unique_names(model.graph.node), strict=True):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inside = body_alone(model, attribute.g)
                yield from _with_bodies(inside, f"{path}/{scope_of(name, attribute.name)}")


def pattern_model(
    model: onnx.ModelProto, graph: OperatorGraph, nodes: Sequence[str], tensors: Mapping[str, TensorShape]
) -> onnx.ModelProto:
    """The model of some of a model's nodes.

    Args:
        model: the model, in the view that ``graph`` was made from.
        graph: its operator graph.
        nodes: names of the nodes.
        tensors: types and shapes of the tensors that enter and leave.

    Returns:
        A model whose inputs are the computed tensors that the nodes read from others, whose outputs are what others
        read from them, and whose initializers are their constants. Tensors keep their names.

    Raises:
        GraphoptError: the model has no node of such a name.
    """
    index = {node.name: position for position, node in enumerate(graph.nodes)}
    missing = [name for name in nodes if name not in index]
    if missing:
        raise GraphoptError(f"{graph.name}: has no node {missing[0]!r}")
    chosen = sorted(index[name] for name in nodes)
    protos = {tuple(node.output): node for node in model.graph.node}  # nodes of a model may have no names
    entering, leaving = graph.external_inputs(chosen), graph.external_outputs(chosen)
    kept = {name for name in entering if graph.tensors[name].constant}
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] in kept]
    made = helper.make_graph(
        sort_nodes([*constants, *(protos[tuple(graph.nodes[position].outputs)] for position in chosen)]),
        "pattern",
        [_value(name, tensors[name]) for name in entering if name not in kept],
        [_value(name, tensors[name]) for name in leaving],
        [tensor for tensor in model.graph.initializer if tensor.name in kept],
    )
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


def _value(name: str, tensor: TensorShape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, data_type(tensor.dtype), tensor.shape)


def _crossing(graph: OperatorGraph, example: ShapeExample) -> dict[str, TensorShape]:
    """The tensors that enter and leave an example's nodes."""
    index = {node.name: position for position, node in enumerate(graph.nodes)}
    if missing := [name for name in example.nodes if name not in index]:
        raise GraphoptError(f"{example.model}: has no node {missing[0]!r}; is it the corpus that was mined?")
    chosen = [index[name] for name in example.nodes]
    pairs = [
        *zip(graph.external_inputs(chosen), example.operands, strict=True),
        *zip(graph.external_outputs(chosen), example.results, strict=True),
    ]
    return dict(pairs)


def _fused(
    model: onnx.ModelProto, opportunity: Opportunity, machine: Machine, shapes: dict[str, Shape]
) -> tuple[onnx.ModelProto, Fusion]:
    wanted = WantedPattern(opportunity.digest, opportunity.labels, opportunity.edges)
    context = Context((Observed(shapes),), machine, (wanted,), keep_losing=True, source=opportunity.short)
    result = Fuse().run(model, context)
    details = result.details
    assert isinstance(details, Fusions)
    if len(details.made) != 1 or len(details.made[0].body.nodes) != len(model.graph.node):
        reason = details.refused[0].reason if details.refused else "it falls apart"
        raise GraphoptError(f"{opportunity.short}: no kernel can be generated: {reason}")
    return result.model, details.made[0]
