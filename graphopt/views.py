"""The three views of a model: raw (as exported), portable and executed (as onnxruntime optimises it)."""

import tempfile
from pathlib import Path
from typing import Literal, get_args

import onnx
from onnx import ModelProto
from onnxruntime import GraphOptimizationLevel

from graphopt.errors import GraphoptError
from graphopt.model_files import load_external_data, weight_bytes
from graphopt.observation import LARGEST_IN_MEMORY, one_line, open_session
from graphopt.stable_names import stabilize
from graphopt.weights import fill_weights

ViewName = Literal["executed", "portable", "raw"]
VIEWS: tuple[ViewName, ...] = get_args(ViewName)

_LEVELS = {
    "executed": GraphOptimizationLevel.ORT_ENABLE_ALL,
    "portable": GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_DATA = "weights.bin"


def remaining(stored: ViewName | None, wanted: ViewName) -> ViewName:
    """What is left to do to a stored file to bring it to the wanted view: ``raw`` when nothing is."""
    steps = {"raw": 0, "portable": 1, "executed": 2}
    return wanted if steps[wanted] > steps[stored or "raw"] else "raw"


def to_view(model: ModelProto, view: ViewName) -> ModelProto:
    """The model as onnxruntime executes it, or a part of the way there.

    Args:
        model: a checked model; not changed. Dropped weights are filled in first: weights that are all one constant
            would be merged and folded.
        view: ``executed``: after all optimisations of this machine; it belongs to this kind of CPU and is run with
            optimisation disabled. ``portable``: after the extended optimisations, for any machine. ``raw``: as it is.

    Returns:
        A new model, the same in every run; free axes stay free. For ``raw`` the model itself.

    Raises:
        GraphoptError: onnxruntime rejects the model, or the view is not one.
    """
    if view == "raw":
        return model
    filled = fill_weights(model)
    optimized = as_optimized(filled, view)
    stabilize(optimized, filled)
    return optimized


def as_optimized(model: ModelProto, view: ViewName) -> ModelProto:
    """The model as onnxruntime optimises it, with the names and in the order that onnxruntime chose in this run.

    Args:
        model: a checked model with weights.
        view: ``executed`` or ``portable``.

    Raises:
        GraphoptError: as ``to_view`` does.
    """
    if view not in _LEVELS:
        raise GraphoptError(f"no view {view!r}: it is one of {', '.join(VIEWS)}")
    entries = {"session.disable_prepacking": "1"}  # of use to a session that runs
    if weight_bytes(model) > LARGEST_IN_MEMORY:
        entries["session.optimized_model_external_initializers_file_name"] = _DATA
        entries["session.optimized_model_external_initializers_min_size_in_bytes"] = "1024"
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            open_session(model, _LEVELS[view], entries=entries, saved_as=path)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"onnxruntime rejects it: {one_line(error)}") from None
        optimized = onnx.load(path, load_external_data=False)
        load_external_data(optimized, path.parent)
    return optimized
