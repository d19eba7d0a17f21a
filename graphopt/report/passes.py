"""The passes that a pipeline can name."""

from collections.abc import Sequence

from graphopt.passes.pipeline import Listing
from graphopt.report.document import Column, Document, Paragraph, Table


def document(passes: Sequence[Listing]) -> Document:
    """A row for every option of every pass."""
    rows: list[tuple[str, str, str]] = []
    for entry in passes:
        rows.append((entry.name, "", entry.doc))
        for option in entry.options:
            values = "|".join(option.choices) or option.type
            rows.append(("", f"{option.name}={option.default}", values))
    return Document(
        "Passes, in the order of the default pipeline",
        [
            Table([Column("pass"), Column("option=default"), Column("what it does", flexible=True)], rows),
            Paragraph("Written as: pass,pass{option=value option=value},…"),
        ],
    )
