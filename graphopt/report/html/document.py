"""Any report's document as one self-contained HTML page."""

from xml.etree.ElementTree import Element

from graphopt.report.document import Align, Block, Cell, Column, Document, Drawing, Listing, Paragraph, Table
from graphopt.report.html.elements import element
from graphopt.report.html.frame import page
from graphopt.report.numbers import percent


def render(document: Document) -> str:
    """The page: no network, no scripts; names from models always as text."""
    blocks = [_block(block) for block in document.blocks]
    return page(document.title, element("header", element("h1", document.title)), element("main", *blocks))


def _block(block: Block) -> Element:
    match block:
        case Paragraph():
            return element("p", block.text)
        case Listing():
            return element("ul", *(element("li", line) for line in block.lines))
        case Drawing():
            return element("pre", "\n".join(f"{rails} {name}".rstrip() for rails, name in block.rows))
        case Table():
            columns = [*block.columns, *([Column(block.detail)] if block.detail else [])]
            head = element("thead", element("tr", *(element("th", column.title) for column in columns)))
            rows = [[*row, *block.details[at : at + 1]] for at, row in enumerate(block.rows)]
            body = element("tbody", *(_row(columns, row) for row in rows))
            return element("div", element("table", head, body), style="overflow-x: auto")


def _row(columns: list[Column], cells: list[Cell]) -> Element:
    return element("tr", *(_cell(column, cell) for column, cell in zip(columns, cells, strict=True)))


def _cell(column: Column, cell: Cell) -> Element:
    shown = cell if isinstance(cell, str) else percent(cell)
    if column.align is Align.RIGHT or column.bar:
        return element("td", shown, style="text-align: right")
    return element("td", shown)
