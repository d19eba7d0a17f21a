"""A comparison of two models' numbers."""

from collections.abc import Mapping
from typing import Any

from graphopt.report.document import Align, Block, Column, Document, Listing, Paragraph, Table
from graphopt.report.numbers import inputs_text, plural

COLUMNS = (
    Column("inputs", flexible=True),
    Column("output", flexible=True),
    Column("dtype"),
    Column("max abs", Align.RIGHT),
    Column("max rel", Align.RIGHT),
    Column("verdict"),
)


def document(data: Mapping[str, Any]) -> Document:
    """The verdict, and a row for each output at each set of input shapes.

    Args:
        data: JSON of kind ``verification``.
    """
    rows, reasons = [], []
    for case in data["cases"]:
        inputs = "batch {}".format(case["batch"]) if case["batch"] is not None else inputs_text(case["shapes"])
        if case["reason"]:
            reasons.append(f"{inputs}: {case['reason']}")
        if not case["outputs"]:
            rows.append((inputs, "", "", "", "", case["verdict"]))
        for output in case["outputs"]:
            errors = (f"{output['max_absolute']:.1e}", f"{output['max_relative']:.1e}")
            rows.append((inputs, output["name"], output["dtype"], *errors, output["verdict"]))
            if output["reason"]:
                reasons.append(f"{output['name']}: {output['reason']}")
    tried = plural(len(data["cases"]), "set of input shapes", "sets of input shapes")
    blocks: list[Block] = [
        Paragraph(f"{data['candidate']} against {data['original']}, {tried}"),
        Table(COLUMNS, rows),
    ]
    if reasons:
        blocks.append(Listing(list(dict.fromkeys(reasons))))
    blocks.append(Paragraph("Relative errors are over the largest magnitude of the output."))
    return Document(f"Verdict: {data['verdict']}", blocks)
