"""Opportunities as a table of plain values, a row for each, for spreadsheets and data frames."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.errors import GraphoptError

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


def rows(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each opportunity, ruled-out ones last; lists are joined by a space.

    Args:
        data: JSON of kind ``opportunities``.
    """
    for number, entry in enumerate((*data["opportunities"], *data["ruled_out"]), 1):
        row = {
            **entry,
            "rank": number,
            "operators": " ".join(entry["operators"]),
            "models": " ".join(model["name"] for model in entry["models"]),
        }
        yield {name: row[name] for name in COLUMNS}


def csv_text(data: Mapping[str, Any]) -> str:
    """A line of headings and a line for each row.

    Cells that a spreadsheet would take for a formula begin with an apostrophe: names come from models.

    Args:
        data: JSON of kind ``opportunities``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in row.values()] for row in rows(data))
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def write_parquet(data: Mapping[str, Any], path: Path) -> None:
    """The same rows as a Parquet file, whole or not at all.

    Args:
        data: JSON of kind ``opportunities``.
        path: where to write it.

    Raises:
        GraphoptError: pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise GraphoptError("Parquet needs pyarrow: pip install 'graphopt[parquet]'") from None
    made = list(rows(data))
    columns = {name: [row[name] for row in made] for name in COLUMNS}
    schema = arrow.schema([(name, _TYPES.get(name, "int64")) for name in COLUMNS])
    with files.staged(path) as temporary:
        parquet.write_table(arrow.table(columns, schema=schema), temporary)


_TEXTS = ("digest", "verdict", "rule", "operators", "models")
_SHARES = ("share", "saving_seconds", "seconds_before", "seconds_after")
_TYPES = {**dict.fromkeys(_TEXTS, "string"), **dict.fromkeys(_SHARES, "float64")}
# all other columns are whole numbers
