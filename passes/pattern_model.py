"""One occurrence of a pattern as a model of its own, with real shapes and constants, and as one fused operator."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from graphopt import corpus, models
from graphopt.errors import GraphoptError
from graphopt.graph import OperatorGraph, Shape
from graphopt.kernels.emit import Source, emit_library
from graphopt.kernels.lower import lower
from graphopt.machine import Machine
from graphopt.mining.opportunity import Opportunity
from graphopt.model_inputs import data_type
from graphopt.passes.base import Context, Observed, WantedPattern
from graphopt.passes.fuse import Fuse, Fusion, Fusions
from graphopt.passes.protos import sort_nodes
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


def source_file(opportunity: Opportunity, files: Mapping[str, Path]) -> Path:
    """The file of the model that an opportunity's first shapes come from.

    Args:
        opportunity: the pattern.
        files: of the corpus's models, by name.

    Raises:
        GraphoptError: the corpus does not hold it, or the opportunity has no shapes.
    """
    if not opportunity.shapes:
        raise GraphoptError(f"{opportunity.short}: the opportunities file says no shapes")
    name = opportunity.shapes[0].model
    if name not in files:
        raise GraphoptError(f"{opportunity.short}: the corpus holds no model {name!r}")
    return files[name]


def load_view(path: Path, view: ViewName) -> onnx.ModelProto:
    """A model in a view, with weights and without functions.

    Raises:
        GraphoptError: it cannot be read, or onnxruntime rejects it.
    """
    return models.inline_functions(to_view(fill_weights(models.load(path)), view))


def cut_out(model: onnx.ModelProto, opportunity: Opportunity, machine: Machine) -> Cut:
    """Cut a pattern out of a model, at the shapes where it saves most.

    Args:
        model: the model that the opportunity's first shapes come from, in the view that was mined, without functions.
        opportunity: the pattern.
        machine: roofline description.

    Raises:
        GraphoptError: the model does not hold it there, or no kernel can be generated.
    """
    example = opportunity.shapes[0]
    graph = models.to_graph(model, example.model)
    alone = pattern_model(model, graph, example.nodes, _shapes(graph, example))
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
            path = source_file(opportunity, files)
            if path not in viewed:
                viewed = {path: load_view(path, "executed")}
            with suppress(GraphoptError):
                found[opportunity.digest] = cut_out(viewed[path], opportunity, machine).source().kernels[0][1]
            if progress is not None:
                progress(done, len(opportunities), opportunity.short)
    return found


def pattern_model(
    model: onnx.ModelProto, graph: OperatorGraph, nodes: Sequence[str], shapes: Mapping[str, Shape]
) -> onnx.ModelProto:
    """The model of some of a model's nodes.

    Args:
        model: the model, in the view that ``graph`` was made from.
        graph: its operator graph.
        nodes: names of the nodes.
        shapes: of the tensors that enter and leave.

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
        [_value(graph, name, shapes) for name in entering if name not in kept],
        [_value(graph, name, shapes) for name in leaving],
        [tensor for tensor in model.graph.initializer if tensor.name in kept],
    )
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


def _value(graph: OperatorGraph, name: str, shapes: Mapping[str, Shape]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, data_type(graph.tensors[name].dtype), shapes[name])


def _shapes(graph: OperatorGraph, example: Any) -> dict[str, Shape]:
    index = {node.name: position for position, node in enumerate(graph.nodes)}
    if missing := [name for name in example.nodes if name not in index]:
        raise GraphoptError(f"{example.model}: has no node {missing[0]!r}; is it the corpus that was mined?")
    chosen = [index[name] for name in example.nodes]
    pairs = [
        *zip(graph.external_inputs(chosen), example.operands, strict=True),
        *zip(graph.external_outputs(chosen), example.results, strict=True),
    ]
    return {name: tensor.shape for name, tensor in pairs}


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
