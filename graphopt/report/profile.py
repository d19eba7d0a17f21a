"""Measured beside predicted times: whole models, operators by type, and those that deviate most."""

from collections.abc import Mapping
from typing import Any

from graphopt.report.document import Align, Block, Column, Document, Paragraph, Table
from graphopt.report.numbers import UNKNOWN, count, percent, plural, seconds, shape_text, times

MODELS = (
    Column("model", flexible=True),
    Column("inputs", flexible=True),
    Column("measured", Align.RIGHT),
    Column("predicted", Align.RIGHT),
    Column("ratio", Align.RIGHT),
)
TYPES = (
    Column("operator", flexible=True),
    Column("nodes", Align.RIGHT),
    Column("share", Align.RIGHT),
    Column("measured", Align.RIGHT),
    Column("predicted", Align.RIGHT),
    Column("ratio", Align.RIGHT),
)
OPERATORS = (
    Column("operator"),
    Column("measured", Align.RIGHT),
    Column("predicted", Align.RIGHT),
    Column("B/s", Align.RIGHT),
    Column("FLOP/s", Align.RIGHT),
    Column("of roofline", Align.RIGHT),
)


def document(data: Mapping[str, Any], *, most: int = 20) -> Document:
    """A table of the models, one of operator types, and one of the operators that deviate most.

    Args:
        data: JSON of kind ``profile``.
        most: operators that are listed.
    """
    captures = data["captures"]
    blocks: list[Block] = [
        Paragraph(
            f"{plural(len(captures), 'capture')}, {data['view']} view, {plural(data['threads'], 'thread')}; "
            f"predictions for {data['machine']}. ratio: predicted over measured."
        ),
        Table(MODELS, [_model(capture) for capture in captures]),
        Table(TYPES, _types(captures)),
    ]
    rows = [(capture, row) for capture in captures for row in capture["operators"]]
    known = [(capture, row) for capture, row in rows if row["predicted_seconds"] is not None]
    known.sort(key=lambda pair: (-_deviation(*pair), pair[0]["model"], pair[1]["node"]))
    if known:
        blocks += [
            Paragraph("Operators that deviate most from their prediction, by time of all executions:"),
            Table(
                OPERATORS,
                [_operator(capture, row) for capture, row in known[:most]],
                "where",
                [f"{capture['model']}, {row['node']}: {_tensors(row)}" for capture, row in known[:most]],
            ),
        ]
    return Document("Profile", blocks)


def _deviation(capture: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    return float(capture["executions"] * abs(row["measured_seconds"] - row["predicted_seconds"]))


def _model(capture: Mapping[str, Any]) -> tuple[str, ...]:
    inputs = ", ".join(shape_text(shape) for shape in capture["inputs"].values())
    measured, predicted = capture["measured_seconds"], capture["predicted_seconds"]
    unknown = capture["operators_unknown"]
    name = capture["model"] + (f" ({plural(unknown, 'operator')} unknown)" if unknown else "")
    return name, inputs, seconds(measured), seconds(predicted), times(predicted / measured)


def _types(captures: list[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    sums: dict[str, list[float]] = {}
    for capture in captures:
        for row in capture["operators"]:
            entry = sums.setdefault(row["operator"], [0, 0.0, 0.0, 0.0])
            measured = capture["executions"] * row["measured_seconds"]
            entry[0] += 1
            entry[1] += measured
            if row["predicted_seconds"] is not None:
                entry[2] += measured
                entry[3] += capture["executions"] * row["predicted_seconds"]
    total = sum(entry[1] for entry in sums.values()) or 1.0
    return [
        (
            operator,
            count(nodes),
            percent(measured / total),
            seconds(measured),
            seconds(predicted) if known else seconds(None),
            times(predicted / known if known else None),
        )
        for operator, (nodes, measured, known, predicted) in sorted(sums.items(), key=_by_time)
    ]


def _by_time(item: tuple[str, list[float]]) -> tuple[float, str]:
    return -item[1][1], item[0]


def _operator(capture: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, ...]:
    rates = [row["bytes_per_second"], row["flops_per_second"]]
    return (
        row["operator"].rpartition(".")[2],
        seconds(row["measured_seconds"]),
        seconds(row["predicted_seconds"]),
        *(UNKNOWN if rate is None else count(rate) for rate in rates),
        percent(row["fraction_of_roofline"]),
    )


def _tensors(row: Mapping[str, Any]) -> str:
    return ", ".join(shape_text(tensor["shape"]) for tensor in row["tensors"])
