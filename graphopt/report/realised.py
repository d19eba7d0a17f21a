"""What plans say was measured, by pattern: predicted beside realised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True, slots=True)
class Realised:
    """What fusing a pattern did to a model.

    Attributes:
        model: the model.
        before: measured seconds per call of its operators one by one.
        after: measured seconds per call of the kernel.
        interval: the 95 % interval of how many times faster the kernel is; None when unknown.
        kept: whether the fusion stayed.
        reason: why not, where it did not.
    """

    model: str
    before: float
    after: float
    interval: tuple[float, float] | None
    kept: bool
    reason: str = ""


def realised(data: Mapping[str, Any], plans: Iterable[Mapping[str, Any]]) -> dict[str, Realised]:
    """By digest, what plans measured of an opportunities file's patterns.

    A fused operator belongs to a pattern if it replaces the nodes of one of the pattern's occurrences in the same
    model. Where several plans do, the one that saves the most time per execution is taken.

    Args:
        data: JSON of kind ``opportunities``.
        plans: JSON of kind ``plan`` each.
    """
    places = {  # a body is called after its model
        (example["model"].partition("/")[0], frozenset(example["nodes"])): entry["digest"]
        for entry in (*data["opportunities"], *data["ruled_out"])
        for example in entry["shapes"]
    }
    found: dict[str, Realised] = {}
    for plan in plans:
        model = PurePath(plan["model"]).stem
        tried = [(fused, fused["occurrences"], len(fused["occurrences"]), "") for fused in plan["fused"]]
        tried += [(lost, lost["nodes"], lost["occurrences"], lost["reason"]) for lost in plan["not_fused"]]
        for entry, occurrences, calls, reason in tried:
            digest = next((places[key] for nodes in occurrences if (key := (model, frozenset(nodes))) in places), None)
            seconds = entry["measured_seconds"]
            if digest is None or seconds is None or not calls:
                continue
            ends = seconds.get("interval")
            interval = (ends[0], ends[1]) if ends else None
            one = Realised(model, seconds["before"] / calls, seconds["after"] / calls, interval, not reason, reason)
            if digest not in found or one.before - one.after > found[digest].before - found[digest].after:
                found[digest] = one
    return found
