"""Opportunities as CSV: a row for each, for spreadsheets and data frames."""

import csv
import io
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "rank",
    "digest",
    "verdict",
    "rule",
    "operators",
    "size",
    "share",
    "saving_seconds",
    "seconds_before",
    "seconds_after",
    "bytes_before",
    "bytes_after",
    "support",
    "captures",
    "executions",
    "occurrences",
    "disjoint_occurrences",
    "models",
)


def csv_text(data: Mapping[str, Any]) -> str:
    """A line of headings and a line for each opportunity, ruled-out ones last; lists are joined by a space.

    Cells that a spreadsheet would take for a formula begin with an apostrophe: names come from models.

    Args:
        data: JSON of kind ``opportunities``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, entry in enumerate((*data["opportunities"], *data["ruled_out"]), 1):
        row = {
            **entry,
            "rank": number,
            "operators": " ".join(entry["operators"]),
            "models": " ".join(model["name"] for model in entry["models"]),
        }
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value
