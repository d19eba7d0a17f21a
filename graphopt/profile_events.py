"""Executions and shapes of a model from the profile that onnxruntime wrote while it ran.

onnxruntime's profile holds an event for every operator that ran, with the name of its node and the shapes of its
operands, and one for every run, which ends after its operators. So a graph input has the shape that an operator
which reads it says. Operators that onnxruntime made of others stand under new names: where the model does not have
them, they are looked for in the model as onnxruntime optimises it here.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError, about
from graphopt.files import parse_json
from graphopt.graph import Shape
from graphopt.model_files import inline_functions
from graphopt.model_graphs import constant_tensors
from graphopt.model_inputs import Input, inputs_of
from graphopt.views import as_optimized
from graphopt.weights import fill_weights

_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class OperatorEvent:
    """An operator that ran.

    Attributes:
        name: of its node.
        op_type: its type.
        shapes: of its operands, in their order; without absent ones and, with some versions, without constants.
    """

    name: str
    op_type: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class _Reader:
    """An operand slot that reads a graph input.

    Attributes:
        op_type: of the node.
        operands: per operand that is there: the shape of a constant, or None for a computed tensor.
        place: which of ``operands`` it is.
    """

    op_type: str
    operands: tuple[Shape | None, ...]
    place: int


def executions_of(model: ModelProto, path: Path) -> list[tuple[dict[str, Shape], int]]:
    """How a model ran, by its profile.

    Args:
        model: a checked model; its weights may be dropped.
        path: the profile, as ``InferenceSession.end_profiling`` names it; the last event may be cut off.

    Returns:
        For each set of input shapes, in the order of their first run: input name to shape, and how many runs.

    Raises:
        GraphoptError: it is no such profile, holds no run, or does not tell the shape of an input.
    """
    runs = read_runs(path)
    model = inline_functions(model)
    inputs = inputs_of(model)
    readers = [_readers(model, inputs)]

    def optimized() -> dict[str, list[tuple[str, _Reader]]]:
        if len(readers) == 1:
            readers.append(_readers(as_optimized(fill_weights(model), "executed"), inputs))
        return readers[1]

    counts: Counter[tuple[Shape, ...]] = Counter()
    for run, count in Counter(runs).items():
        shapes = _shapes(run, inputs, readers[0], optimized)
        missing = [i.name for i in inputs if i.name not in shapes]
        if missing:
            raise GraphoptError(
                f"{path}: does not tell the shape of input {missing[0]!r}: is it the profile of this model?"
            )
        counts[tuple(shapes[i.name] for i in inputs)] += count
    return [({i.name: shape for i, shape in zip(inputs, key, strict=True)}, n) for key, n in counts.items()]


# --------------------------------------------------------------------------------------------------- the file


def read_runs(path: Path) -> list[tuple[OperatorEvent, ...]]:
    """The operators of each run in a profile, in the order in which the runs ended.

    Raises:
        GraphoptError: it is no profile of onnxruntime, or holds no run.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read: {error.strerror or error}") from None
    try:
        with about(path):
            return _runs(_events(text))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise GraphoptError(f"{path}: not a profile of onnxruntime") from None


def _events(text: str) -> list[dict[str, Any]]:
    try:
        found = parse_json(text)
    except ValueError:
        # A process that was killed leaves a file without an end: an event a line, the last one perhaps in part.
        found = parse_json(text[: text.rindex("\n")].rstrip().rstrip(",") + "]")
    if not isinstance(found, list):
        raise GraphoptError("not a profile of onnxruntime")
    return found


def _runs(events: Sequence[Mapping[str, Any]]) -> list[tuple[OperatorEvent, ...]]:
    """Operators by run: those that the run's thread wrote since its last run, or else those within its time."""
    runs: list[tuple[OperatorEvent, ...]] = []
    by_thread: dict[object, list[OperatorEvent]] = defaultdict(list)
    stray: list[tuple[int, OperatorEvent]] = []  # of threads that do not end runs
    runners = {event["tid"] for event in events if event["name"] == "model_run"}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            operator = OperatorEvent(
                event["name"].removesuffix(_SUFFIX), str(event["args"]["op_name"]), tuple(_shapes_of(event["args"]))
            )
            if event["tid"] in runners:
                by_thread[event["tid"]].append(operator)
            else:
                stray.append((int(event["ts"]), operator))
        elif event["name"] == "model_run":
            start, end = int(event["ts"]), int(event["ts"]) + int(event["dur"])
            within = [operator for at, operator in stray if start <= at <= end]
            stray = [(at, operator) for at, operator in stray if not start <= at <= end]
            runs.append((*by_thread.pop(event["tid"], ()), *within))
    if not runs:
        raise GraphoptError("no run in it")
    return runs


def _shapes_of(args: Mapping[str, Any]) -> Iterator[Shape]:
    for operand in args["input_type_shape"]:
        for shape in operand.values():
            yield tuple(int(size) for size in shape)


# --------------------------------------------------------------------------------------------------- the model


def _readers(model: ModelProto, inputs: Sequence[Input]) -> dict[str, list[tuple[str, _Reader]]]:
    """For each node name: the graph inputs that the node reads, and how."""
    wanted = {i.name for i in inputs}
    constants = {name: tensor.shape for name, tensor in constant_tensors(model)}
    found: dict[str, list[tuple[str, _Reader]]] = defaultdict(list)
    # onnxruntime calls a node without a name by its place, where constants have none.
    operators = [node for node in model.graph.node if not all(name in constants for name in node.output)]
    for index, node in enumerate(operators):
        operands = [name for name in node.input if name]
        for place, name in enumerate(operands):
            if name in wanted:
                shapes = tuple(constants.get(operand) for operand in operands)
                found[node.name or f"{node.op_type}_{index}"].append((name, _Reader(node.op_type, shapes, place)))
    return found


def _shapes(
    run: Sequence[OperatorEvent],
    inputs: Sequence[Input],
    own: Mapping[str, list[tuple[str, _Reader]]],
    optimized: Callable[[], Mapping[str, list[tuple[str, _Reader]]]],
) -> dict[str, Shape]:
    """Shapes of the inputs, as far as this run tells them."""
    shapes = _read(run, own)
    _complete(shapes, inputs)
    if any(i.name not in shapes for i in inputs):
        for name, shape in _read(run, optimized()).items():
            shapes.setdefault(name, shape)
        _complete(shapes, inputs)
    return shapes


def _read(run: Sequence[OperatorEvent], readers: Mapping[str, list[tuple[str, _Reader]]]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for operator in run:
        for name, reader in readers.get(operator.name, ()):
            if name not in shapes and reader.op_type == operator.op_type:
                shape = _aligned(operator.shapes, reader)
                if shape is not None:
                    shapes[name] = shape
    return shapes


def _aligned(seen: Sequence[Shape], reader: _Reader) -> Shape | None:
    """The operand's shape among those that an event lists, which may leave out constants."""
    left_out = len(reader.operands) - len(seen)
    place = 0
    for index, constant in enumerate(reader.operands):
        if constant is not None and left_out > 0 and (place >= len(seen) or seen[place] != constant):
            left_out -= 1
            continue
        if index == reader.place:
            return seen[place] if place < len(seen) else None
        place += 1
    return None


def _complete(shapes: dict[str, Shape], inputs: Sequence[Input]) -> None:
    """Add shapes that follow from declared ones, with symbols that the shapes of other inputs tell."""
    symbols: dict[str, int] = {}
    for i in inputs:
        if i.name in shapes and i.dims is not None and len(i.dims) == len(shapes[i.name]):
            symbols.update({dim: n for dim, n in zip(i.dims, shapes[i.name], strict=True) if isinstance(dim, str)})
    for i in inputs:
        if i.name not in shapes and i.dims is not None:
            sizes = [dim if isinstance(dim, int) else symbols.get(dim or "") for dim in i.dims]
            if None not in sizes:
                shapes[i.name] = tuple(size for size in sizes if size is not None)
