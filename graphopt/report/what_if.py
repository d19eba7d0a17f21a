"""What if: the same corpus ranked on several machines side by side, marked where the order changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.report.document import Align, Block, Column, Document, Listing, Table
from graphopt.report.numbers import percent, plural, seconds
from graphopt.report.plan import chain

SCHEMA_VERSION = 1

UNRANKED = "–"
"""Where a machine's list does not hold the pattern."""


def what_if(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Side by side, for JSON.

    Args:
        reports: JSON of kind ``opportunities`` of one corpus, a machine each.

    Returns:
        JSON of kind ``what-if``: every pattern that some machine's list holds, in the first machine's order.
    """
    places = [{entry["digest"]: at for at, entry in enumerate(report["opportunities"], 1)} for report in reports]
    entries = {entry["digest"]: entry for report in reports for entry in report["opportunities"]}
    last = len(entries) + 1
    order = sorted(entries, key=lambda digest: ([ranks.get(digest, last) for ranks in places], digest))
    shares = [{entry["digest"]: entry["share"] for entry in report["opportunities"]} for report in reports]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "what-if",
        "machines": [
            {
                "name": report["machine"],
                "seconds": report["seconds"],
                "share": sum(entry["share"] for entry in report["opportunities"]),
            }
            for report in reports
        ],
        "patterns": [
            {
                "digest": digest,
                "operators": entries[digest]["operators"],
                "ranks": [ranks.get(digest) for ranks in places],
                "shares": [share.get(digest) for share in shares],
            }
            for digest in order
        ],
    }


def document(data: Mapping[str, Any]) -> Document:
    """A column for each machine; ``+`` and ``-`` say by how many places a pattern stands higher or lower than first.

    Args:
        data: JSON of kind ``what-if``.
    """
    machines = data["machines"]
    columns = [Column(f"{at}: {machine['name']}", Align.RIGHT) for at, machine in enumerate(machines, 1)]
    rows = [
        [
            _cell(pattern["ranks"][0], rank, share)
            for rank, share in zip(pattern["ranks"], pattern["shares"], strict=True)
        ]
        for pattern in data["patterns"]
    ]
    details = [f"{chain(pattern['operators'])} ({pattern['digest'][:8]})" for pattern in data["patterns"]]
    notes = [
        f"{machine['name']}: {seconds(machine['seconds'])} for the corpus, {percent(machine['share'])} could be saved"
        for machine in machines
    ]
    notes.append(
        "rank and saving on each machine; in brackets, how many places higher (+) or lower (-) than on the first"
    )
    blocks: list[Block] = [Table(columns, rows, "pattern", details), Listing(notes)]
    moved = sum(len(set(pattern["ranks"])) > 1 for pattern in data["patterns"])
    return Document(f"{plural(len(rows), 'pattern')}, {moved} of them with another rank elsewhere", blocks)


def _cell(first: int | None, rank: int | None, share: float | None) -> str:
    if rank is None or share is None:
        return UNRANKED
    by = 0 if first is None else first - rank
    return f"{rank}. {percent(share)}" + (f" ({by:+d})" if by else "")
