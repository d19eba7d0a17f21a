"""What a pass is: a frozen dataclass whose fields are its options, and a function from a model to a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import onnx

from graphopt.graph import Capture, OperatorGraph, Shape

if TYPE_CHECKING:
    from graphopt.machine import Machine

LOCAL_DOMAIN = "graphopt.fused"
"""Domain of fused operators and of the local functions behind them."""


@dataclass(frozen=True)
class Observed:
    """Input shapes that a model ran with.

    Attributes:
        shapes: graph input to its shape.
        executions: how many times the model ran with these shapes.
        ranges: graph input to the half-open range [low, high) its values come from; others take the default.
    """

    shapes: Mapping[str, Shape]
    executions: int = 1
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What passes may know besides the model.

    Attributes:
        observed: the captured input shapes; empty when nothing is known.
        machine: roofline description; needed by passes that predict times.
        opportunities: patterns worth fusing, as (digest, labels, edges); None to look for them in the model itself.
        excluded: identities of fused operators that must not be made, each with the reason.
        excluded_sets: sets of nodes of the captures' graph, ascending, that must not become one fused operator.
        captures: the operator graph of the model that fusion gets, with its shapes; left out, it is observed.
        sources: C of hand-written kernels by the fused operator's name, in place of generated ones.
        lowerable: whether a kernel can be generated for a body; the kernel generator's answer when left out.
        keep_losing: fuse what can be fused even where no saving is predicted.
        measured: what is fused is going to be measured, so that products and convolutions can be tried whatever is
            predicted.
        source: name of the model, for messages.
    """

    observed: tuple[Observed, ...] = ()
    machine: "Machine | None" = None
    opportunities: tuple["WantedPattern", ...] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    excluded_sets: frozenset[tuple[int, ...]] = frozenset()
    captures: tuple[Capture, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    lowerable: Callable[[OperatorGraph], str | None] | None = None
    keep_losing: bool = False
    measured: bool = False
    source: str = "model"


@dataclass(frozen=True)
class WantedPattern:
    """A pattern to look for.

    Attributes:
        digest: its canonical digest.
        labels: label of each vertex.
        edges: (producer, output index, consumer, slot); slots of commutative operators are 0.
    """

    digest: str
    labels: tuple[str, ...]
    edges: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        model: the model after the pass; the very object it was given when nothing changed.
        modified: whether anything changed.
        notes: one line each on what changed, for people.
        details: what later steps need to know (the fusions made); None for most passes.
    """

    model: onnx.ModelProto
    modified: bool
    notes: tuple[str, ...] = ()
    details: object = None


class Pass(Protocol):
    """A pass. Implementations are frozen dataclasses: their fields, all with defaults, are the options."""

    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model after the pass. The model that came in stays as it was."""
        ...


REGISTRY: dict[str, type[Pass]] = {}
"""Pass name (with dashes) to its class, in the order of the default pipeline."""

PassClass = TypeVar("PassClass", bound=type[Pass])


def register(name: str) -> Callable[[PassClass], PassClass]:
    """Class decorator that gives a pass its name and enters it into REGISTRY."""

    def enter(cls: PassClass) -> PassClass:
        if name in REGISTRY:
            raise ValueError(f"two passes are called {name}")
        cls.name = name
        REGISTRY[name] = cls
        return cls

    return enter
