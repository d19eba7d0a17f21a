"""The plan of ``graphopt apply``: what was fused, what was not, and why."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from graphopt.report.document import Align, Block, Column, Document, Listing, Paragraph, Table
from graphopt.report.numbers import UNKNOWN, plural, seconds, times

FUSED = (
    Column("operators", flexible=True),
    Column("calls", Align.RIGHT),
    Column("predicted", Align.RIGHT),
    Column("before", Align.RIGHT),
    Column("after", Align.RIGHT),
    Column("faster", Align.RIGHT),
)
NOT_FUSED = (Column("not fused, because", flexible=True), Column("places", Align.RIGHT), Column("worth", Align.RIGHT))
BASELINES = {
    "stock": "the original in onnxruntime with everything enabled",
    "unfused": "the same view without fused operators",
}


def document(data: Mapping[str, Any]) -> Document:
    """The gain, a row for each fused operator, and the reasons for the rest.

    Args:
        data: JSON of kind ``plan``.
    """
    nodes = data["nodes"]
    blocks: list[Block] = [Paragraph(_head(data))]
    gains = [_gain(comparison) for comparison in data["comparisons"]]
    if gains:
        blocks.append(Listing(gains))
    if data["fused"]:
        blocks.append(Table(FUSED, [_fused(entry) for entry in data["fused"]]))
    if data["not_fused"]:
        blocks.append(Table(NOT_FUSED, _reasons(data["not_fused"])))
    counts = f"Operators: {nodes['original']} in the original, {nodes['unfused']} in the {data['view']} view"
    notes = [f"{counts}, {nodes['written']} written.", f"Numbers: {_numbers(data['verification'])}"]
    blocks.append(Listing([*notes, *data["notes"]]))
    return Document(f"{data['model']} → {data['output']}", blocks)


def chain(operators: list[str]) -> str:
    """Operators in their order, without domains: ``ReorderOutput → Add → Mul``; runs of one are counted."""
    names = [name.rpartition(".")[2] for name in operators]
    parts = [(name, len(list(group))) for name, group in groupby(names)]
    return " → ".join(name if count == 1 else f"{name} ×{count}" for name, count in parts)


def _head(data: Mapping[str, Any]) -> str:
    calls = sum(len(entry["occurrences"]) for entry in data["fused"])
    if not calls:
        return "Nothing was fused."
    made = f"{plural(len(data['fused']), 'fused operator')} in {plural(calls, 'place')}"
    return f"{made}, kernels in {data['kernels']}" if data["kernels"] else made


def _gain(comparison: Mapping[str, Any]) -> str:
    before, after = comparison["seconds"]["before"], comparison["seconds"]["after"]
    low, high = comparison["interval"]
    ratio = f"{times(comparison['ratio'])} ({times(low)} – {times(high)})"
    baseline = BASELINES.get(comparison["baseline"], comparison["baseline"])
    return f"{ratio} of {baseline}: {seconds(before)} → {seconds(after)}"


def _fused(entry: Mapping[str, Any]) -> tuple[str, ...]:
    predicted = entry["predicted_seconds"]
    measured = entry["measured_seconds"]
    row = (chain(entry["operators"]), str(len(entry["occurrences"])), _ratio(predicted))
    if measured is None:
        return (*row, UNKNOWN, UNKNOWN, UNKNOWN)
    return (*row, seconds(measured["before"]), seconds(measured["after"]), _ratio(measured))


def _ratio(pair: Mapping[str, float]) -> str:
    return times(pair["before"] / pair["after"] if pair["after"] else None)


def _reasons(entries: list[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """A row for each reason, with what all of it would be worth; the most valuable first."""
    worth: dict[str, tuple[int, float | None]] = {}
    for entry in entries:
        places, saving = worth.get(entry["reason"], (0, None))
        own = entry["predicted_saving_seconds"]
        total = saving if own is None else (saving or 0.0) + own
        worth[entry["reason"]] = (places + entry["occurrences"], total)
    rows = sorted(worth.items(), key=lambda row: (-(row[1][1] or 0.0), row[0]))
    return [(reason, str(places), _worth(saving)) for reason, (places, saving) in rows]


def _worth(saving: float | None) -> str:
    return seconds(saving) if saving is None or saving > 0 else "nothing"


def _numbers(verification: Mapping[str, Any]) -> str:
    text = str(verification["verdict"])
    if text == "close":
        text += f", at most {verification['max_relative']:.1e} of an output's largest value"
    return text + "."
