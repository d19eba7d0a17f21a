"""A report as Markdown that pastes into a pull request."""

from graphopt.report.document import Align, Block, Cell, Column, Document, Drawing, Listing, Paragraph, Table
from graphopt.report.numbers import percent


def render(document: Document) -> str:
    """The document as GitHub-flavoured Markdown. Names from models are escaped: they are data, never markup."""
    parts = [f"## {escape(document.title)}"]
    parts.extend(_block(block) for block in document.blocks)
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return escape(block.text)
        case Listing():
            return "\n".join(f"- {escape(line)}" for line in block.lines)
        case Drawing():
            width = max((len(mark) for mark, _ in block.rows), default=0)
            # An indented block needs no fence, so nothing in it needs to be escaped.
            return "\n".join(f"    {mark:<{width}}  {text}".rstrip() for mark, text in block.rows)
        case Table():
            columns = [*block.columns, *([Column(block.detail)] if block.detail else [])]
            rows = [[*row, *block.details[at : at + 1]] for at, row in enumerate(block.rows)]
            lines = ["| " + " | ".join(escape(column.title) for column in columns) + " |"]
            rules = ("---:" if column.align is Align.RIGHT or column.bar else "---" for column in columns)
            lines.append("| " + " | ".join(rules) + " |")
            lines.extend("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)
            return "\n".join(lines)


def _cell(cell: Cell) -> str:
    return escape(cell) if isinstance(cell, str) else percent(cell)


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it stands."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in ("\\", "|", "*", "_", "`", "[", "]"):
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
