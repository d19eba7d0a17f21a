"""An opportunity: a pattern with what stands behind it, what it costs today and what it would cost as one kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from graphopt.mining.canonical import CanonicalForm, Edge

FUSIBLE = "fusible"
RULED_OUT = "ruled out"


@dataclass(frozen=True, slots=True)
class TensorShape:
    """An operand or a result of an occurrence.

    Attributes:
        dtype: numpy's name of the element type.
        shape: its shape.
        constant: whether it is a constant of the graph.
    """

    dtype: str
    shape: tuple[int, ...]
    constant: bool = False


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """What one operator of an occurrence costs in one execution.

    Attributes:
        flops: floating-point (or integer) operations.
        bytes: bytes that it reads and writes, constants included.
        seconds: its predicted time.
    """

    flops: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ShapeExample:
    """Occurrences with the same shapes.

    Attributes:
        model: the model of the first of them.
        nodes: names of its nodes there, in the pattern's canonical order.
        executions: how often occurrences with these shapes were executed.
        operands: tensors that enter the occurrence, in order of first use.
        results: tensors that leave it.
        seconds_before: predicted time of one execution as separate operators.
        seconds_after: predicted time of one execution as one kernel.
        bytes_before: bytes that separate operators read and write in one execution, constants included.
        bytes_after: the same for one kernel.
        costs: the operators one by one, in the pattern's canonical order.
    """

    model: str
    nodes: tuple[str, ...]
    executions: int
    operands: tuple[TensorShape, ...]
    results: tuple[TensorShape, ...]
    seconds_before: float
    seconds_after: float
    bytes_before: int
    bytes_after: int
    costs: tuple[OperatorCost, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """How often a model, or a body in it, holds a pattern.

    Attributes:
        name: the graph; a body is called after its model and the scopes that lead there.
        occurrences: disjoint occurrences in its graph that count here.
        executions: how often it was executed.
    """

    name: str
    occurrences: int
    executions: int


@dataclass(frozen=True, slots=True)
class Opportunity(CanonicalForm):
    """A pattern that is worth a kernel, or would be if no rule stopped it.

    Occurrences whose nodes a better opportunity takes already do not count: the savings of a list add up. Slots and
    outputs of edges are folded as the miner does.

    Attributes:
        operators: operator types, in topological order.
        support: executions of the graphs that hold the pattern.
        captures: number of captures that hold it.
        occurrences: occurrences in all distinct graphs, overlapping ones included.
        disjoint_occurrences: disjoint occurrences, in all distinct graphs, that save time and that no better
            opportunity takes.
        executions: how often those were executed.
        seconds_before: predicted time of all these executions as separate operators.
        seconds_after: predicted time of the same as one kernel each.
        saving_seconds: the difference.
        share: the saving as a share of the predicted time of all captures.
        bytes_before: bytes that these executions read and write as separate operators.
        bytes_after: the same as one kernel each.
        verdict: ``fusible`` or ``ruled out``.
        rule: name of the rule that stops it; empty for a fusible one.
        reason: that rule's reason.
        models: the models that hold those occurrences, by name.
        shapes: the shapes at which they were executed, greatest saving first (at most MOST_SHAPES).
    """

    operators: tuple[str, ...]
    support: int
    captures: int
    occurrences: int
    disjoint_occurrences: int
    executions: int
    seconds_before: float
    seconds_after: float
    saving_seconds: float
    share: float
    bytes_before: int
    bytes_after: int
    verdict: str
    rule: str = ""
    reason: str = ""
    models: tuple[ModelPlaces, ...] = ()
    shapes: tuple[ShapeExample, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The opportunity as JSON knows it; ``size`` is added for readers."""
        return {"size": self.size, **as_dict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Opportunity":
        """The opportunity that ``to_dict`` wrote; keys that are not known are passed over.

        Raises:
            KeyError: a key is missing.
            TypeError: a value has another form.
            ValueError: a value cannot be.
        """
        return cls(
            digest=_text(data["digest"]),
            labels=tuple(_text(label) for label in data["labels"]),
            edges=tuple(_edge(edge) for edge in data["edges"]),
            operators=tuple(_text(name) for name in data["operators"]),
            support=int(data["support"]),
            captures=int(data["captures"]),
            occurrences=int(data["occurrences"]),
            disjoint_occurrences=int(data["disjoint_occurrences"]),
            executions=int(data["executions"]),
            seconds_before=float(data["seconds_before"]),
            seconds_after=float(data["seconds_after"]),
            saving_seconds=float(data["saving_seconds"]),
            share=float(data["share"]),
            bytes_before=int(data["bytes_before"]),
            bytes_after=int(data["bytes_after"]),
            verdict=_text(data["verdict"]),
            rule=_text(data["rule"]),
            reason=_text(data["reason"]),
            models=tuple(
                ModelPlaces(_text(entry["name"]), int(entry["occurrences"]), int(entry["executions"]))
                for entry in data["models"]
            ),
            shapes=tuple(_shape_example(entry) for entry in data["shapes"]),
        )


MOST_SHAPES = 32
"""Shape examples that an opportunity keeps."""


def as_dict(value: Any) -> Any:
    """A dataclass as JSON knows it, tuples as lists."""
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: as_dict(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [as_dict(item) for item in value]
    return value


def _shape_example(data: Mapping[str, Any]) -> ShapeExample:
    return ShapeExample(
        model=_text(data["model"]),
        nodes=tuple(_text(name) for name in data["nodes"]),
        executions=int(data["executions"]),
        operands=tuple(_tensor(entry) for entry in data["operands"]),
        results=tuple(_tensor(entry) for entry in data["results"]),
        seconds_before=float(data["seconds_before"]),
        seconds_after=float(data["seconds_after"]),
        bytes_before=int(data["bytes_before"]),
        bytes_after=int(data["bytes_after"]),
        costs=tuple(OperatorCost(int(c["flops"]), int(c["bytes"]), float(c["seconds"])) for c in data.get("costs", ())),
    )


def _tensor(data: Mapping[str, Any]) -> TensorShape:
    return TensorShape(_text(data["dtype"]), tuple(int(size) for size in data["shape"]), bool(data["constant"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _edge(value: Any) -> Edge:
    producer, output, consumer, slot = (int(part) for part in value)
    return producer, output, consumer, slot
