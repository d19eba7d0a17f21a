"""The plan: what ``graphopt apply`` fused and what it left alone, and why, with predicted and measured times."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.graph import Shape
from graphopt.passes.seconds import Seconds

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FusedEntry:
    """A fused operator of the model that was written.

    Attributes:
        identity: digest of its body.
        name: operator type in domain ``graphopt.fused``.
        operators: operators of the body, in order.
        occurrences: for each call, the names of the nodes that it replaces.
        predicted_before: seconds per execution of the replaced operators, all occurrences, by the roofline.
        predicted_after: seconds per execution of the calls, by the roofline.
        measured: seconds per execution on this machine, of the replaced operators and of the calls; None when not
            measured.
    """

    identity: str
    name: str
    operators: tuple[str, ...]
    occurrences: tuple[tuple[str, ...], ...]
    predicted_before: float
    predicted_after: float
    measured: Seconds | None = None


@dataclass(frozen=True)
class NotFusedEntry:
    """Operators that stay as they are; those with the same operators and reason are one entry.

    Attributes:
        operators: operator types.
        reason: why, in a few words.
        occurrences: how many such sets of operators there are.
        nodes: names of the nodes of each of them.
        predicted_saving: seconds per execution that fusing all would save by the roofline; None when unknown.
        measured: seconds per execution, where the fusion was tried; None otherwise.
        identity: digest of the body, where the fusion was tried; empty otherwise.
    """

    operators: tuple[str, ...]
    reason: str
    occurrences: int
    nodes: tuple[tuple[str, ...], ...] = ()
    predicted_saving: float | None = None
    measured: Seconds | None = None
    identity: str = ""


@dataclass(frozen=True)
class Comparison:
    """How much faster the written model is than a baseline.

    Attributes:
        baseline: ``stock`` (the original model in onnxruntime with everything enabled) or ``unfused`` (the written
            model's view without fused operators).
        seconds_before: what a quarter of the baseline's runs stay below, averaged over the captured shapes by
            executions: what else runs on the machine disturbs it less than it does the median. The geometric mean of
            the blocks.
        seconds_after: likewise of the written model.
        ratio: before over after.
        low: lower end of the ratio's 95 % interval over the blocks.
        high: upper end.
        blocks: how often the sessions were opened anew and timed.
    """

    baseline: str
    seconds_before: float
    seconds_after: float
    ratio: float
    low: float
    high: float
    blocks: int

    @property
    def faster(self) -> bool:
        """Whether the written model is faster, and not just by chance."""
        return self.low > 1.0

    @property
    def decided(self) -> bool:
        """Whether the interval says which is faster."""
        return self.low > 1.0 or self.high < 1.0


@dataclass(frozen=True)
class Plan:
    """What ``graphopt apply`` did.

    Attributes:
        model: file name of the original.
        output: file name of the model that was written.
        kernels: file name of the kernel library; None when there is none.
        view: view of the written model.
        passes: the pipeline, as text.
        accept: how fusions were accepted: measured, predicted or all.
        machine: name of the roofline description.
        captured: captured input shapes, with executions.
        nodes_before: operators of the original.
        nodes_unfused: operators in the view before fusion.
        nodes_after: operators of the written model.
        fused: fused operators, those that save most first.
        not_fused: what stays, and why.
        comparisons: measured against baselines; may be empty.
        verdict: ``equal`` or ``close`` numbers against the view without fused operators, or ``not checked``.
        max_absolute: greatest absolute difference of all outputs.
        max_relative: greatest difference relative to the output's largest value.
        notes: what passes did, and what else there is to know; one line each.
        environment: versions, compiler and flags.
    """

    model: str
    output: str
    kernels: str | None
    view: str
    passes: str
    accept: str
    machine: str
    captured: tuple[tuple[Mapping[str, Shape], int], ...]
    nodes_before: int
    nodes_unfused: int
    nodes_after: int
    fused: tuple[FusedEntry, ...]
    not_fused: tuple[NotFusedEntry, ...]
    comparisons: tuple[Comparison, ...] = ()
    verdict: str = "not checked"
    max_absolute: float = 0.0
    max_relative: float = 0.0
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def comparison(self, baseline: str) -> Comparison | None:
        """The comparison with a baseline; None when it was not measured."""
        return next((entry for entry in self.comparisons if entry.baseline == baseline), None)

    def to_dict(self) -> dict[str, object]:
        """For JSON; see docs/file-formats.md for the schema. Times in seconds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "plan",
            "model": self.model,
            "output": self.output,
            "kernels": self.kernels,
            "view": self.view,
            "passes": self.passes,
            "accept": self.accept,
            "machine": self.machine,
            "captured": [
                {"shapes": {name: list(shape) for name, shape in sorted(shapes.items())}, "executions": executions}
                for shapes, executions in self.captured
            ],
            "nodes": {"original": self.nodes_before, "unfused": self.nodes_unfused, "written": self.nodes_after},
            "fused": [
                {
                    "identity": entry.identity,
                    "name": entry.name,
                    "operators": list(entry.operators),
                    "occurrences": [list(nodes) for nodes in entry.occurrences],
                    "predicted_seconds": {"before": entry.predicted_before, "after": entry.predicted_after},
                    "measured_seconds": None if entry.measured is None else entry.measured.to_dict(),
                }
                for entry in self.fused
            ],
            "not_fused": [
                {
                    "operators": list(entry.operators),
                    "reason": entry.reason,
                    "occurrences": entry.occurrences,
                    "nodes": [list(nodes) for nodes in entry.nodes],
                    "predicted_saving_seconds": entry.predicted_saving,
                    "measured_seconds": None if entry.measured is None else entry.measured.to_dict(),
                    "identity": entry.identity,
                }
                for entry in self.not_fused
            ],
            "comparisons": [
                {
                    "baseline": entry.baseline,
                    "seconds": {"before": entry.seconds_before, "after": entry.seconds_after},
                    "ratio": entry.ratio,
                    "interval": [entry.low, entry.high],
                    "blocks": entry.blocks,
                }
                for entry in self.comparisons
            ],
            "verification": {
                "verdict": self.verdict,
                "max_absolute": self.max_absolute,
                "max_relative": self.max_relative,
            },
            "notes": list(self.notes),
            "environment": dict(sorted(self.environment.items())),
        }

    def to_json(self) -> str:
        """The plan as a JSON document."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
