"""One run of a model: what came out."""

from collections.abc import Mapping
from typing import Any

from graphopt.report.document import Align, Block, Column, Document, Paragraph, Table
from graphopt.report.numbers import inputs_text, plural, shape_text, significant

COLUMNS = (
    Column("output", flexible=True),
    Column("dtype"),
    Column("shape", flexible=True),
    Column("minimum", Align.RIGHT),
    Column("mean", Align.RIGHT),
    Column("maximum", Align.RIGHT),
    Column("not finite", Align.RIGHT),
)


def document(data: Mapping[str, Any]) -> Document:
    """A row for each output.

    Args:
        data: JSON of kind ``run``.
    """
    rows = []
    for name, output in data["outputs"].items():
        numbers = (significant(output[key]) if key in output else "" for key in ("minimum", "mean", "maximum"))
        rows.append((name, output["dtype"], shape_text(output["shape"]), *numbers, str(output.get("not_finite", ""))))
    inputs = inputs_text(data["inputs"])
    blocks: list[Block] = [Paragraph(f"Inputs: {inputs}"), Table(COLUMNS, rows)]
    if data["executed"]:
        parts = ", ".join(f"{plural(count, 'node')} by {who}" for who, count in data["executed"].items())
        blocks.append(Paragraph(f"Executed: {parts}"))
    return Document(f"{data['model']} in {data['runtime']}", blocks)
