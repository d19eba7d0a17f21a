"""A profile as a timeline in Chromium's trace format, which Perfetto shows, with fused regions beside the operators.

A process stands for a capture. One of its rows holds the operators' measured times end to end, in the order of the
graph; the other the regions that plans of ``graphopt apply`` fuse, at the operators that they replace.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

OPERATORS, FUSED = 1, 2
"""Rows (threads, in the trace's words) of a capture."""


def trace(profile: Mapping[str, Any], plans: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The trace; times in microseconds.

    Args:
        profile: JSON of kind ``profile``.
        plans: JSON of kind ``plan`` each, of the models that were profiled, in the same view.
    """
    regions: dict[str, dict[str, str]] = {}
    for plan in plans:
        names = regions.setdefault(PurePath(plan["model"]).stem, {})
        names.update(
            (node, fused["name"]) for fused in plan["fused"] for nodes in fused["occurrences"] for node in nodes
        )
    events: list[dict[str, Any]] = []
    for process, capture in enumerate(profile["captures"], 1):
        inputs = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in capture["inputs"].items())
        events.append(_name("process_name", process, 0, f"{capture['model']} ({inputs})"))
        events.append(_name("thread_name", process, OPERATORS, "operators"))
        if capture["model"] in regions:
            events.append(_name("thread_name", process, FUSED, "fused"))
        events.extend(_capture(process, capture, regions.get(capture["model"], {})))
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _capture(process: int, capture: Mapping[str, Any], regions: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    start = 0.0
    above: dict[str, Any] | None = None
    for row in capture["operators"]:
        duration = (row["measured_seconds"] or 0.0) * 1e6
        known = ("node", "flops", "bytes", "predicted_seconds", "fraction_of_roofline")
        yield _slice(process, OPERATORS, row["operator"], start, duration, {key: row[key] for key in known})
        region = regions.get(row["node"])
        if above is not None and above["name"] == region:
            above["dur"] += duration
            above["args"]["nodes"] += 1
        else:
            if above is not None:
                yield above
            above = None if region is None else _slice(process, FUSED, region, start, duration, {"nodes": 1})
        start += duration
    if above is not None:
        yield above


def _slice(process: int, row: int, name: str, start: float, duration: float, about: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": process, "tid": row, "name": name, "ts": start, "dur": duration, "args": about}


def _name(what: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": row, "name": what, "args": {"name": name}}
