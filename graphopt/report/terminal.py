"""A report as plain or coloured text that fits a terminal."""

import io
from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from graphopt.report.document import Align, Block, Cell, Column, Document, Drawing, Listing, Paragraph, Table
from graphopt.report.numbers import percent

BAR_CELLS = 8
LEAST_FLEXIBLE, GAP = 12, 3
"""Columns of a terminal: that a table's flexible column needs, and between two of its columns."""
EIGHTHS = " ▏▎▍▌▋▊▉█"


def write(document: Document, stream: TextIO, *, width: int = 80, colour: bool = False) -> None:
    """Draw a document.

    Args:
        document: what to draw.
        stream: where to.
        width: columns that it may use, at least 40; tables whose numbers need more take more.
        colour: whether escape codes for colour and weight are wanted.
    """
    drawn = io.StringIO()
    _console(drawn, width, colour).print(Text(document.title, style="bold"))
    for block in document.blocks:
        drawn.write("\n")
        console = _console(drawn, max(width, _least_width(block)), colour)
        for part in _drawn(block, console):
            console.print(part)
    stream.writelines(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines())


def _console(stream: TextIO, width: int, colour: bool) -> Console:
    return Console(
        file=stream,
        width=max(width, 40),
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )


def _least_width(block: Block) -> int:
    """Columns without which numbers would be cut, and half of a number is another number: such a table sticks out."""
    if not isinstance(block, Table):
        return 0
    widths = [
        LEAST_FLEXIBLE
        if column.flexible
        else max([cell_len(column.title), *(_cell(column, row[at], 1.0).cell_len for row in block.rows)])
        for at, column in enumerate(block.columns)
    ]
    return sum(widths) + GAP * (len(widths) - 1)


def render(document: Document, width: int = 80) -> str:
    """The document as plain text."""
    text = io.StringIO()
    write(document, text, width=width)
    return text.getvalue()


def _drawn(block: Block, console: Console) -> Iterator[Text | RichTable]:
    match block:
        case Paragraph():
            yield Text(block.text)
        case Listing():
            yield _beside([("-", line) for line in block.lines])
        case Drawing():
            yield _beside(block.rows)
        case Table() if block.detail:
            yield from _detailed(block, console)
        case Table():
            yield _table(block)


def _beside(rows: Iterable[tuple[str, str]]) -> RichTable:
    """Wrapped texts, each beside its mark."""
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for mark, text in rows:
        grid.add_row(Text(mark), Text(text))
    return grid


def _detailed(block: Table, console: Console) -> Iterator[Text | RichTable]:
    """Head, then each row with its detail below, indented by the first column."""
    with console.capture() as capture:
        console.print(_table(block))
    lines = capture.get().splitlines()
    head = len(lines) - len(block.rows)
    yield Text.from_ansi("\n".join(lines[:head]))
    indent = " " * max(len(str(row[0])) for row in block.rows) if block.rows else ""
    for line, detail in zip(lines[head:], block.details, strict=True):
        yield Text.from_ansi(line)
        yield _beside([(indent, detail)])


def _table(block: Table) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, header_style="bold")
    for column in block.columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.align is Align.RIGHT else "left",
            no_wrap=not column.flexible,
            overflow="fold",
        )
    shares = [cell for row in block.rows for cell in row if isinstance(cell, float)]
    greatest = max(shares, default=0.0)
    for row in block.rows:
        table.add_row(*(_cell(column, cell, greatest) for column, cell in zip(block.columns, row, strict=True)))
    return table


def _cell(column: Column, cell: Cell, greatest: float) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    text = Text(f"{percent(cell):>7}")
    if column.bar and greatest > 0:
        text.append(f" {bar(cell / greatest):<{BAR_CELLS}}", style="cyan")
    return text


def bar(share: float) -> str:
    """A bar for a share from 0 to 1, in eighths of a character; anything above zero shows."""
    eighths = round(min(max(share, 0.0), 1.0) * BAR_CELLS * 8)
    if share > 0:
        eighths = max(eighths, 1)
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
