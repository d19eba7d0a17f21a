"""ONNX models: read, check, write, turn into operator graphs, observe. The parts live in files of one subject each."""

from onnx import ModelProto

from graphopt.graph import OperatorGraph
from graphopt.model_files import check, inline_functions, load, save
from graphopt.model_inputs import Input, Range, complete_shapes, default_shapes, inputs_of, seeded_inputs
from graphopt.observation import Observation, Observer, observe

__all__ = [
    "Input",
    "Observation",
    "Observer",
    "Range",
    "check",
    "complete_shapes",
    "default_shapes",
    "inline_functions",
    "inputs_of",
    "load",
    "observe",
    "save",
    "seeded_inputs",
    "to_graph",
]


def to_graph(model: ModelProto, name: str) -> OperatorGraph:
    """The operator graph of a model, without shapes; see ``graphopt.model_graphs.to_graph``.

    dtypes are those that onnxruntime infers, ranks those that follow from what the model declares; ``observe`` knows
    the ranks of all tensors.

    Args:
        model: a checked model.
        name: what reports call it.

    Returns:
        The graph.
    """
    return Observer(model, name).graph
