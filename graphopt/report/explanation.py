"""Why a model's operators are fused or not: a plan of ``graphopt apply``, asked about a node, a digest or all."""

from collections.abc import Mapping, Sequence
from itertools import chain as chained
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.report.document import Align, Column, Document, Listing, Paragraph, Table
from graphopt.report.numbers import plural, seconds, times
from graphopt.report.plan import chain

SCHEMA_VERSION = 1

MOST_NODES = 6
"""Names of nodes that are written of a region."""

COLUMNS = (
    Column("verdict"),
    Column("places", Align.RIGHT),
    Column("predicted", Align.RIGHT),
    Column("before", Align.RIGHT),
    Column("after", Align.RIGHT),
    Column("measured", Align.RIGHT),
)


def explanation(plan: Mapping[str, Any], about: str | None = None) -> dict[str, Any]:
    """The result of ``graphopt explain``, for JSON.

    Args:
        plan: JSON of kind ``plan``.
        about: name of a node, or the first digits of a fused operator's identity or its name; None for everything.

    Returns:
        JSON of kind ``explanation``: regions that were fused, then those that were not, the most valuable first.

    Raises:
        GraphoptError: the plan knows no such node or fused operator.
    """
    regions = [*(_fused(entry) for entry in plan["fused"]), *(_not_fused(entry) for entry in plan["not_fused"])]
    holder = {node: entry["name"] for entry in plan["fused"] for nodes in entry["occurrences"] for node in nodes}
    for region in regions:
        inside = chained.from_iterable(region["nodes"])
        names = sorted({holder[node] for node in inside if node in holder})
        region["overlaps"] = [] if region["fused"] else names
    if about is not None:
        regions = [region for region in regions if _is_about(region, about)]
        if not regions:
            raise GraphoptError(f"{plan['model']}: no candidate for fusion holds a node {about!r} or has that digest")
        for region in regions:
            region["nodes"] = sorted(region["nodes"], key=lambda nodes: about not in nodes)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "explanation",
        "model": plan["model"],
        "view": plan["view"],
        "about": about,
        "regions": regions,
    }


def _fused(entry: Mapping[str, Any]) -> dict[str, Any]:
    predicted = entry["predicted_seconds"]
    return {
        "fused": True,
        "reason": "",
        "identity": entry["identity"],
        "name": entry["name"],
        "operators": entry["operators"],
        "places": len(entry["occurrences"]),
        "nodes": entry["occurrences"],
        "predicted_saving_seconds": predicted["before"] - predicted["after"],
        "measured_seconds": entry["measured_seconds"],
    }


def _not_fused(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "fused": False,
        "reason": entry["reason"],
        "identity": entry["identity"],
        "name": "",
        "operators": entry["operators"],
        "places": entry["occurrences"],
        "nodes": entry["nodes"],
        "predicted_saving_seconds": entry["predicted_saving_seconds"],
        "measured_seconds": entry["measured_seconds"],
    }


def _is_about(region: Mapping[str, Any], about: str) -> bool:
    if any(about in nodes for nodes in region["nodes"]):
        return True
    return about == region["name"] or bool(about and region["identity"].startswith(about))


def document(data: Mapping[str, Any]) -> Document:
    """A row for each region, with what it holds and why it stands as it does below.

    Args:
        data: JSON of kind ``explanation``.
    """
    regions = data["regions"]
    fused = sum(region["places"] for region in regions if region["fused"])
    left = sum(region["places"] for region in regions if not region["fused"])
    about = f"{data['about']} in {data['model']}" if data["about"] else data["model"]
    title = f"{about}: {plural(fused, 'place')} fused, {left} not"
    if not regions:
        return Document(title, [Paragraph("No candidate for fusion.")])
    table = Table(COLUMNS, [_row(region) for region in regions], "region", [_detail(region) for region in regions])
    notes = [
        "predicted: seconds that one execution of the model would save in all places, by the roofline",
        "before, after, measured: of all places in one execution on this machine, where the fusion was tried",
    ]
    return Document(title, [table, Listing(notes)])


def _row(region: Mapping[str, Any]) -> tuple[str, ...]:
    measured = region["measured_seconds"]
    saving = region["predicted_saving_seconds"]
    predicted = "–" if saving is None else seconds(saving) if saving > 0 else "nothing"
    verdict = "fused" if region["fused"] else "not fused"
    row = (verdict, str(region["places"]), predicted)
    if measured is None:
        return (*row, "–", "–", "–")
    ratio = measured["before"] / measured["after"] if measured["after"] else None
    return (*row, seconds(measured["before"]), seconds(measured["after"]), times(ratio))


def _detail(region: Mapping[str, Any]) -> str:
    text = chain(region["operators"])
    if not region["fused"]:
        text += f"; {region['reason']}"
        if region["overlaps"]:
            text += f" ({', '.join(region['overlaps'])})"
    else:
        text += f" ({region['name']})"
    measured = region["measured_seconds"]
    if measured is not None and measured.get("interval"):
        low, high = measured["interval"]
        text += f"; 95 % interval of what was measured: {times(low)} – {times(high)}"
    return f"{text}. {_nodes(region['nodes'])}"


def _nodes(occurrences: Sequence[Sequence[str]]) -> str:
    first = list(occurrences[0]) if occurrences else []
    more = f" and {len(first) - MOST_NODES} more" if len(first) > MOST_NODES else ""
    places = f"; {plural(len(occurrences) - 1, 'place')} more" if len(occurrences) > 1 else ""
    return f"At {', '.join(first[:MOST_NODES])}{more}{places}"
