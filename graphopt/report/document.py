"""What a report says, apart from how it is drawn: paragraphs and tables that each format renders in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Align(StrEnum):
    """Where a column's text stands."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        align: where its text stands.
        flexible: whether it gives way (wraps) when the table is too wide.
        bar: whether its cells are shares from 0 to 1, drawn as a bar beside the percentage.
    """

    title: str
    align: Align = Align.LEFT
    flexible: bool = False
    bar: bool = False


Cell = str | float
"""Text, or a share from 0 to 1 in a bar column."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns.

    Attributes:
        columns: the columns.
        rows: for each row, a cell for each column. Bars are drawn relative to the greatest share of their column.
        detail: title of a text that belongs to each row and is too long for a column; empty when there is none. A
            terminal shows it below the row: then no column is flexible.
        details: that text, for each row.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    detail: str = ""
    details: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Short lines, a point each."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing in letters of one width, with a text beside each of its rows (empty: none)."""

    rows: Sequence[tuple[str, str]]


Block = Table | Paragraph | Listing | Drawing


@dataclass(frozen=True, slots=True)
class Document:
    """A titled sequence of blocks."""

    title: str
    blocks: Sequence[Block]
