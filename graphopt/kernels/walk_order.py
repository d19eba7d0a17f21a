"""In which order outputs walk through inputs: which outputs one nest computes, which input an output may overwrite."""

from collections.abc import Mapping, Sequence

from graphopt.graph import OperatorGraph, Shape
from graphopt.kernels.program import (
    ChannelWindow,
    Convolution,
    Input,
    IntegerContraction,
    Map,
    Pooled,
    Program,
    Value,
    View,
    present,
)
from graphopt.kernels.scalar import STORAGE
from graphopt.operators.lowering import Reshape


def grouped_outputs(
    body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]], values: Sequence[Value], outputs: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Outputs that one nest computes well: the same shape in every example, and inputs walked in the same order."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, tensor in enumerate(body.outputs):
        sizes: tuple[object, ...] = tuple(example.get(tensor, position) for example in shapes) or (position,)
        paths = frozenset(_paths(values, outputs[position]).values())
        groups.setdefault((sizes, paths), []).append(position)
    return tuple(tuple(group) for group in groups.values())


def _paths(values: Sequence[Value], output: int) -> dict[int, frozenset[str]]:
    """For each input, the views on the ways from an output to it, a letter each.

    ``i`` and ``o`` stand for reorders into and out of the blocked layout, of which ``io`` cancels out; ``x`` for any
    other view, and for sums over a window. Reshapes move nothing and are left out.
    """
    found: dict[int, set[str]] = {}
    seen: set[tuple[int, str]] = set()

    def visit(index: int, path: str) -> None:
        if (index, path) in seen:
            return
        seen.add((index, path))
        value = values[index]
        if isinstance(value, Input):
            found.setdefault(value.position, set()).add(path.replace("io", ""))
            return
        if isinstance(value, ChannelWindow | Convolution | IntegerContraction | Pooled):
            path += "x"
        if isinstance(value, View):
            step = {"ReorderInput": "i", "ReorderOutput": "o"}.get(value.origin, "x")
            moves = step != "x" or not isinstance(value.index_map, Reshape)
            if moves and not path.endswith(step) and len(path) < 16:  # a reorder is a chain of several views
                path += step
        for operand in present(value):
            visit(operand, path)

    visit(output, "")
    return {position: frozenset(paths) for position, paths in found.items()}


def overwritten_input(program: Program, body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]]) -> int:
    """An input that output 0 may overwrite: read by the very element that is written, in the only nest."""
    nests_only = all(isinstance(value, Input | Map | View) for value in program.values)
    if len(program.groups) != 1 or not shapes or not nests_only:
        return -1
    target = body.outputs[0]
    for value in program.inputs[:4]:
        tensor = body.inputs[value.position]
        same = all(tensor in s and target in s and s[tensor] == s[target] for s in shapes)
        if value.structural or body.tensors[tensor].constant or not same:
            continue
        if STORAGE.get(value.dtype) == STORAGE.get(body.tensors[target].dtype) and _in_place(program, value.position):
            return value.position
    return -1


def _in_place(program: Program, position: int) -> bool:
    """Whether every way from an output to the input is free of views, or goes out of and into the blocked layout."""
    ways = (_paths(program.values, output).get(position, frozenset()) for output in program.outputs)
    return all(way <= {""} for way in ways)
