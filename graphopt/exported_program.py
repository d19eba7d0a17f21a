"""PyTorch programs that ``torch.export`` wrote (``.pt2``), as ONNX models. Needs torch and onnxscript."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError, about
from graphopt.graph import Shape
from graphopt.model_files import check
from graphopt.model_inputs import inputs_of
from graphopt.observation import one_line

SUFFIX = ".pt2"


def read(path: Path) -> tuple[ModelProto, dict[str, Shape]]:
    """A program as an ONNX model, exported by PyTorch itself, and the shapes of its example inputs.

    Loading a program runs code of PyTorch on what the file says: read only files that you trust.

    Args:
        path: the file that ``torch.export.save`` wrote.

    Returns:
        The model, with weights, and input name to shape (none, where the file holds no example inputs).

    Raises:
        GraphoptError: torch or onnxscript cannot be loaded; the file is no program, or cannot be exported.
    """
    try:
        import onnxscript  # noqa: F401  # torch.onnx needs it
        import torch
    except ModuleNotFoundError as error:
        raise GraphoptError(
            f"{path}: a PyTorch program needs torch and onnxscript, and {error.name} is not installed: "
            "pip install torch onnxscript"
        ) from None
    except ImportError as error:  # a library of its own is missing, for instance
        raise GraphoptError(f"{path}: torch and onnxscript cannot be loaded: {one_line(error)}") from None
    if not path.is_file():
        raise GraphoptError(f"{path}: cannot read: no such file")
    with _silent():
        try:
            program = torch.export.load(str(path))
        except Exception as error:  # torch's errors share no class
            raise GraphoptError(f"{path}: not a program that torch.export saved: {one_line(error)}") from None
        try:
            exported = torch.onnx.export(program, (), dynamo=True, verbose=False)
            model: ModelProto = exported.model_proto
        except Exception as error:
            raise GraphoptError(f"{path}: PyTorch cannot export it to ONNX: {one_line(error)}") from None
    with about(path):
        check(model)
    return model, _example_shapes(program, model)


def _example_shapes(program: Any, model: ModelProto) -> dict[str, Shape]:
    """Shapes of the example inputs, whose tensors stand in the order of the model's inputs."""
    if program.example_inputs is None:
        return {}
    import torch

    leaves = torch.utils._pytree.tree_leaves(program.example_inputs)
    shapes = [tuple(int(size) for size in leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    inputs = inputs_of(model)
    return {i.name: shape for i, shape in zip(inputs, shapes, strict=True)} if len(inputs) == len(shapes) else {}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what the exporter says about its progress to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
