"""What changed between two opportunity files: two weeks, two versions of onnxruntime, two machines.

Savings are compared as shares of each file's own predicted time: a longer week or a faster machine is no change.
"""

from collections.abc import Mapping
from typing import Any

from graphopt.report.document import Align, Block, Column, Document, Listing, Paragraph, Table
from graphopt.report.numbers import percent, plural, seconds
from graphopt.report.plan import chain

SCHEMA_VERSION = 1

NOTICEABLE = 0.001
"""Share of the time by which a saving must differ to be a change."""

CHANGES = ("added", "grown", "shrunk", "gone", "unchanged")
REGRESSIONS = ("added", "grown")
"""Changes that mean: the fleet loses more time to operators that could be fused than it did."""

COLUMNS = (
    Column("change"),
    Column("old", Align.RIGHT),
    Column("new", Align.RIGHT),
    Column("difference", Align.RIGHT),
    Column("pattern", flexible=True),
)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], noticeable: float = NOTICEABLE) -> dict[str, Any]:
    """The result of ``graphopt diff``, for JSON.

    Args:
        old: JSON of kind ``opportunities``.
        new: likewise.
        noticeable: share of the time by which a saving must differ to be a change, at least.

    Returns:
        JSON of kind ``difference``: every pattern of either list, the greatest change first. A pattern that is in one
        list only may still be below the other's ``-k``.
    """
    before = {entry["digest"]: entry for entry in old["opportunities"]}
    after = {entry["digest"]: entry for entry in new["opportunities"]}
    rows = []
    for digest in before.keys() | after.keys():
        was, now = before.get(digest), after.get(digest)
        share = 0.0 if was is None else float(was["share"])
        became = 0.0 if now is None else float(now["share"])
        rows.append(
            {
                "digest": digest,
                "operators": (now or was or {})["operators"],
                "change": _change(was is not None, now is not None, became - share, noticeable),
                "share_old": None if was is None else share,
                "share_new": None if now is None else became,
                "share_difference": became - share,
            }
        )
    rows.sort(key=lambda row: (-abs(row["share_difference"]), row["digest"]))
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "difference",
        "noticeable_share": noticeable,
        "old": _about(old),
        "new": _about(new),
        "regression": any(row["change"] in REGRESSIONS for row in rows),
        "patterns": rows,
    }


def _change(was: bool, now: bool, by: float, noticeable: float) -> str:
    if abs(by) < noticeable:
        return "unchanged"
    if not was:
        return "added"
    if not now:
        return "gone"
    return "grown" if by > 0 else "shrunk"


def _about(data: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("machine", "captures", "graphs", "executions", "seconds")
    saved = sum(entry["share"] for entry in data["opportunities"])
    return {**{key: data[key] for key in keys}, "share": saved}


def document(data: Mapping[str, Any]) -> Document:
    """A row for each pattern that changed.

    Args:
        data: JSON of kind ``difference``.
    """
    rows = [row for row in data["patterns"] if row["change"] != "unchanged"]
    blocks: list[Block] = [Listing([f"old: {_fleet(data['old'])}", f"new: {_fleet(data['new'])}"])]
    if rows:
        blocks.append(Table(COLUMNS, [_row(row) for row in rows]))
    same = len(data["patterns"]) - len(rows)
    blocks.append(
        Paragraph(f"{plural(same, 'pattern')} changed by less than {percent(data['noticeable_share'])} of the time.")
    )
    if any(row["change"] in ("added", "gone") for row in rows):
        blocks.append(Paragraph("What is added or gone may merely be below -k in the other file."))
    counts = {change: sum(row["change"] == change for row in rows) for change in CHANGES}
    parts = [f"{number} {change}" for change, number in counts.items() if number]
    return Document(", ".join(parts) or "No change", blocks)


def _fleet(about: Mapping[str, Any]) -> str:
    return (
        f"{plural(about['captures'], 'capture')} of {plural(about['graphs'], 'graph')}, {seconds(about['seconds'])} on "
        f"{about['machine']}, {percent(about['share'])} could be saved"
    )


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    shares = ("–" if row[key] is None else percent(row[key]) for key in ("share_old", "share_new"))
    sign = "+" if row["share_difference"] > 0 else "−"
    return (
        row["change"],
        *shares,
        f"{sign}{percent(abs(row['share_difference']))}",
        f"{chain(row['operators'])} ({row['digest'][:8]})",
    )
