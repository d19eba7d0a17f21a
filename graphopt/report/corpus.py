"""What ``graphopt corpus`` found or did, as JSON of kind ``corpus`` and as a document."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from graphopt.corpus_contents import Contents, Detail, Held
from graphopt.corpus_verification import Verification
from graphopt.report.document import Align, Block, Column, Document, Paragraph, Table
from graphopt.report.numbers import count, plural, shape_text
from graphopt.store.compaction import Compaction

GRAPHS = (
    Column("graph"),
    Column("name", flexible=True),
    Column("shapes", Align.RIGHT),
    Column("executions", Align.RIGHT),
    Column("last ran", Align.RIGHT),
)
CAPTURES = (
    Column("inputs", flexible=True),
    Column("executions", Align.RIGHT),
    Column("first ran", Align.RIGHT),
    Column("last ran", Align.RIGHT),
)
OPERATORS = (Column("operator"), Column("nodes", Align.RIGHT))
DIGITS = 12
"""Digits of a digest that a table shows."""


# ------------------------------------------------------------------------------------------------------- as JSON


def stats(place: Path | str, found: Contents) -> dict[str, Any]:
    """Totals."""
    return _data("stats", place, found.problems) | _totals(found)


def listing(place: Path | str, found: Contents) -> dict[str, Any]:
    """Totals and every graph."""
    return _data("list", place, found.problems) | _totals(found) | {"graphs_held": [_held(one) for one in found.graphs]}


def detail(place: Path | str, found: Detail) -> dict[str, Any]:
    """One graph."""
    return (
        _data("show", place)
        | _held(found.held)
        | {
            "inputs": [
                {"name": name, "dtype": dtype, "dimensions": None if dims is None else list(dims)}
                for name, dtype, dims in found.inputs
            ],
            "operators": found.operators,
            "runs": [
                {
                    "shapes": [None if shape is None else list(shape) for shape in one.shapes],
                    "executions": one.executions,
                    "start": _moment(one.start),
                    "end": _moment(one.end),
                    "runtime": one.runtime or None,
                }
                for one in found.captures
            ],
        }
    )


def verification(place: Path | str, found: Verification) -> dict[str, Any]:
    """What verify found."""
    return _data("verify", place, found.problems) | {"files": found.files}


def compaction(place: Path | str, done: Mapping[str, Compaction]) -> dict[str, Any]:
    """What compact did to each table."""
    problems = tuple(problem for one in done.values() for problem in one.problems)
    tables = [
        {
            "table": name,
            "file": one.file,
            "replaced": one.replaced,
            "rows_before": one.rows_before,
            "rows_after": one.rows_after,
            "deleted": one.deleted,
        }
        for name, one in done.items()
    ]
    return _data("compact", place, problems) | {"tables": tables}


def export(place: Path | str, folder: Path, graphs: int, problems: tuple[str, ...]) -> dict[str, Any]:
    """What export wrote."""
    return _data("export", place, problems) | {"folder": str(folder), "graphs": graphs}


def _data(action: str, place: Path | str, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "corpus",
        "action": action,
        "corpus": str(place),
        "problems": list(problems),
    }


def _totals(found: Contents) -> dict[str, Any]:
    return {
        "observed": found.observed,
        "files": found.files,
        "graphs": len(found.graphs),
        "captures": sum(one.captures for one in found.graphs),
        "executions": sum(one.executions for one in found.graphs),
        "unused_graphs": found.unused,
        "start": _moment(min((one.start for one in found.graphs if one.start is not None), default=None)),
        "end": _moment(max((one.end for one in found.graphs if one.end is not None), default=None)),
        "runtimes": list(found.runtimes),
    }


def _held(one: Held) -> dict[str, Any]:
    return {
        "graph": one.graph,
        "name": one.name,
        "captures": one.captures,
        "executions": one.executions,
        "start": _moment(one.start),
        "end": _moment(one.end),
    }


def _moment(when: datetime | None) -> str | None:
    return None if when is None else when.strftime("%Y-%m-%dT%H:%M:%SZ")


# --------------------------------------------------------------------------------------------------- as documents


def document(data: Mapping[str, Any]) -> Document:
    """A document of JSON of kind ``corpus``."""
    blocks: list[Block] = list(_DRAWN[data["action"]](data))
    if data["problems"]:
        blocks.append(Paragraph(f"{plural(len(data['problems']), 'problem')}:"))
        blocks += [Paragraph(line) for line in data["problems"]]
    return Document(data["corpus"], blocks)


def _stats(data: Mapping[str, Any]) -> list[Block]:
    text = (
        f"{plural(data['graphs'], 'graph')} with {plural(data['captures'], 'set of shapes', 'sets of shapes')}, "
        f"{plural(data['executions'], 'execution')}, in {plural(data['files'], 'file')} of captures."
    )
    if data["start"]:
        text += f" From {_short(data['start'])} to {_short(data['end'])}."
    if data["runtimes"]:
        text += f" onnxruntime {', '.join(data['runtimes'])}."
    if data["unused_graphs"]:
        text += f" {plural(data['unused_graphs'], 'stored graph')} without a capture."
    return [Paragraph(text)]


def _list(data: Mapping[str, Any]) -> list[Block]:
    rows = [
        (_digits(one["graph"]), one["name"], count(one["captures"]), count(one["executions"]), _short(one["end"]))
        for one in data["graphs_held"]
    ]
    return [Table(GRAPHS, rows)]


def _show(data: Mapping[str, Any]) -> list[Block]:
    inputs = ", ".join(f"{one['name']} {one['dtype']}[{_dims(one['dimensions'])}]" for one in data["inputs"])
    runs = [
        (
            ", ".join("–" if shape is None else shape_text(shape) for shape in one["shapes"]),
            count(one["executions"]),
            _short(one["start"]),
            _short(one["end"]),
        )
        for one in data["runs"]
    ]
    return [
        Paragraph(f"{data['name']}: {data['graph']}"),
        Paragraph(f"Inputs: {inputs or 'none'}."),
        Table(CAPTURES, runs),
        Table(OPERATORS, [(name, count(number)) for name, number in data["operators"].items()]),
    ]


def _verify(data: Mapping[str, Any]) -> list[Block]:
    return [Paragraph(f"{plural(data['files'], 'file')}: {'broken' if data['problems'] else 'all is well'}.")]


def _compact(data: Mapping[str, Any]) -> list[Block]:
    return [Paragraph(_compacted(table)) for table in data["tables"]]


def _compacted(table: Mapping[str, Any]) -> str:
    if table["file"] is None:
        return f"{table['table']}: nothing to compact. {plural(table['deleted'], 'left-over file')} deleted."
    return (
        f"{table['table']}: {plural(table['replaced'], 'file')} with {plural(table['rows_before'], 'row')} became "
        f"{table['file']} with {plural(table['rows_after'], 'row')}."
    )


def _export(data: Mapping[str, Any]) -> list[Block]:
    return [Paragraph(f"{plural(data['graphs'], 'graph')} written to {data['folder']}.")]


_DRAWN = {
    "stats": _stats,
    "list": _list,
    "show": _show,
    "verify": _verify,
    "compact": _compact,
    "export": _export,
}


def _short(moment: str | None) -> str:
    return "" if moment is None else moment[:16].replace("T", " ")


def _digits(graph: str) -> str:
    return graph if "." in graph else graph[:DIGITS]


def _dims(dims: list[int | str | None] | None) -> str:
    return "…" if dims is None else ", ".join("?" if dim is None else str(dim) for dim in dims)
