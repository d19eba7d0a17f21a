"""Any report's document as one self-contained HTML page."""

from importlib.resources import files
from xml.etree.ElementTree import Element

from graphopt.report.document import Align, Block, Cell, Column, Document, Drawing, Listing, Paragraph, Table
from graphopt.report.html.elements import element, text
from graphopt.report.html.page import POLICY
from graphopt.report.numbers import percent


def render(document: Document) -> str:
    """The page: no network, no scripts; names from models always as text."""
    style = files("graphopt.report.html").joinpath("page.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", name="generator", content="graphopt"),
        element("title", f"graphopt: {document.title}"),
        element("style", style),
    )
    blocks = [_block(block) for block in document.blocks]
    body = element("body", element("header", element("h1", document.title)), element("main", *blocks))
    return text(element("html", head, body, lang="en"))


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
