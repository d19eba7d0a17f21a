"""The opportunities of a corpus, ranked by what each would save."""

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt import operators
from graphopt.report.document import Align, Block, Column, Document, Listing, Paragraph, Table
from graphopt.report.numbers import count, percent, plural, seconds, times
from graphopt.report.plan import chain

COLUMNS = (
    Column("#", Align.RIGHT),
    Column("saving", bar=True),
    Column("before", Align.RIGHT),
    Column("after", Align.RIGHT),
    Column("faster", Align.RIGHT),
    Column("runs", Align.RIGHT),
    Column("captures", Align.RIGHT),
    Column("ops", Align.RIGHT),
)

NEGLIGIBLE = 5e-5
"""Share of the time below which a rule is not mentioned."""


def document(data: Mapping[str, Any]) -> Document:
    """The top k, what rules stopped, and how much of the corpus all of it covers.

    Args:
        data: JSON of kind ``opportunities``.
    """
    found = data["opportunities"]
    fleet = f"{plural(data['captures'], 'capture')} of {plural(data['graphs'], 'graph')}"
    about = f"{fleet}, {plural(data['executions'], 'execution')}, {seconds(data['seconds'])} on {data['machine']}"
    blocks: list[Block] = [Paragraph(about)]
    if found:
        blocks.append(_table(found))
    if data["ruled_out"]:
        blocks.append(Paragraph("Ruled out, with what they would be worth:"))
        blocks.append(_table(data["ruled_out"]))
    blocks.append(Listing(coverage(data)))
    saved = percent(sum(entry["share"] for entry in found))
    title = f"{plural(len(found), 'opportunity', 'opportunities')}, {saved} of the fleet's time"
    return Document(title if found else "No opportunities", blocks)


def coverage(data: Mapping[str, Any]) -> list[str]:
    """How much of the corpus the numbers speak for.

    Args:
        data: JSON of kind ``opportunities``.
    """
    taken = sum(entry["seconds_before"] for entry in data["opportunities"])
    share = taken / data["seconds"] if data["seconds"] > 0 else 0.0
    without_cost = sum(entry["operators"] for entry in data["stopped"] if entry["rule"] == "unknown-operator")
    without_shape = data["operators_unknown"] - without_cost
    lines = [
        f"Coverage: these patterns take {percent(share)} of the fleet's predicted time; of "
        f"{plural(data['operators'], 'operator')}, {count(without_cost)} have no cost formula and "
        f"{count(without_shape)} have unknown shapes: their time counts as unknown."
    ]
    stopped = sorted(data["stopped"], key=lambda entry: (-entry["seconds"], entry["rule"]))
    stopped = [entry for entry in stopped if entry["seconds"] > data["seconds"] * NEGLIGIBLE]
    if stopped:
        parts = (f"{entry['rule']} {percent(entry['seconds'] / data['seconds'])}" for entry in stopped)
        lines.append(f"Kept out of all patterns by rules, as shares of the time: {', '.join(parts)}.")
    if data["incomplete"]:
        names = ", ".join(data["incomplete"])
        lines.append(
            f"Incomplete: the work budget was not enough for all patterns of {names}: larger ones are missing, and "
            "supports and savings are lower bounds."
        )
    lines.append(
        f"Patterns of 2 to {data['max_size']} operators. Runs: executions of all places together; before and after: "
        "the roofline's mean time of one; saving: share of the fleet's time, beyond what the patterns above save."
    )
    return lines


def _table(entries: Sequence[Mapping[str, Any]]) -> Table:
    rows = [_row(number, entry) for number, entry in enumerate(entries, 1)]
    return Table(COLUMNS, rows, "pattern", [_pattern(entry) for entry in entries])


def _pattern(entry: Mapping[str, Any]) -> str:
    verdict = f"{entry['rule']}: {entry['reason']}" if entry["rule"] else fusible(entry)
    return f"{chain(entry['operators'])} ({entry['digest'][:8]}, {verdict})"


def fusible(entry: Mapping[str, Any]) -> str:
    """The verdict on a pattern that no rule stops: whether its kernel must be written by hand, and why."""
    rows = {name: operators.table().get(name) for name in entry["operators"]}
    missing = [name.rpartition(".")[2] for name, row in rows.items() if row is None or row.lowering is None]
    return f"fusible by hand: no lowering for {', '.join(missing)}" if missing else str(entry["verdict"])


def mean_seconds(entry: Mapping[str, Any]) -> tuple[float, float]:
    """An opportunity's predicted seconds of one execution, as separate operators and as one kernel."""
    runs = max(entry["executions"], 1)
    return entry["seconds_before"] / runs, entry["seconds_after"] / runs


def _row(number: int, entry: Mapping[str, Any]) -> tuple[str | float, ...]:
    before, after = mean_seconds(entry)
    return (
        str(number),
        float(entry["share"]),
        seconds(before),
        seconds(after),
        times(before / after if after > 0 else None),
        count(entry["executions"]),
        str(entry["captures"]),
        str(entry["size"]),
    )
