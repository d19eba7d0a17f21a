"""Kernels: from the operators of a pattern to a shared library that onnxruntime loads.

``lower`` turns operators into a loop program, ``emit`` the program into C, ``compile`` the C into a library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.graph import OperatorGraph, Shape
from graphopt.kernels.compile import compile_library, find_compiler, uses_matrix_unit
from graphopt.kernels.emit import Source, emit_kernel, emit_library
from graphopt.kernels.lower import lower
from graphopt.kernels.object_cache import open_cache
from graphopt.kernels.places import TooLargeError
from graphopt.operators.lowering import CannotLowerError

__all__ = ["FusedOperator", "build_library", "find_compiler", "lowerable", "uses_matrix_unit", "write_source"]


@dataclass(frozen=True)
class FusedOperator:
    """A fused operator to generate a kernel for.

    Attributes:
        name: operator type in domain graphopt.fused; a C identifier.
        body: its operators, with inputs and outputs in the order of the call.
        shapes: observed shapes of the body's tensors, one mapping for each occurrence and capture.
        source: C to take in place of the generated; it defines ``<name>_kernel``.
    """

    name: str
    body: OperatorGraph
    shapes: tuple[Mapping[str, Shape], ...] = ()
    source: str = ""


def lowerable(body: OperatorGraph) -> str | None:
    """Why no kernel can be generated for a body; None when one can."""
    try:
        emit_kernel(lower("probe", body))
    except (CannotLowerError, TooLargeError) as reason:
        return str(reason)
    return None


def write_source(fused: Sequence[FusedOperator], path: Path, title: str) -> None:
    """Write the C of a kernel library.

    Raises:
        CannotLowerError: when an operator has no lowering (ask ``lowerable`` first).
    """
    path.write_text(_source(fused, title).whole())


def build_library(
    fused: Sequence[FusedOperator],
    folder: Path,
    name: str,
    *,
    compiler: list[str] | None = None,
    portable: bool = False,
    cache: bool = True,
    together: int = 1,
) -> Path:
    """Generate ``<folder>/<name>.c`` and compile it into ``<folder>/<name>.so``.

    Args:
        fused: what the kernels compute.
        folder: where the files go.
        name: their name without ending.
        compiler: its command; one is looked for when left out.
        portable: for every level of instruction sets, chosen at load time; else for this processor's best alone.
        together: kernels that are compiled as one: more take less time, but are only used again all together.
        cache: use compiled kernels that are kept, and keep these (see ``object_cache``).

    Returns:
        path of the library.

    Raises:
        GraphoptError: without a compiler, or when compiling fails.
        CannotLowerError: when an operator has no lowering (ask ``lowerable`` first).
    """
    library = folder / f"{name}.so"
    source = _source(fused, name)
    (folder / f"{name}.c").write_text(source.whole())
    objects = open_cache() if cache else None
    compile_library(source, library, compiler, portable=portable, objects=objects, together=together)
    return library


def _source(fused: Sequence[FusedOperator], title: str) -> Source:
    programs = [lower(operator.name, operator.body, operator.shapes) for operator in fused]
    return emit_library(programs, title, {operator.name: operator.source for operator in fused})
