"""Reports: numbers as people read them, and documents drawn for a terminal, as Markdown and as JSON."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.report import json as report_json
from graphopt.report import markdown, numbers, terminal
from graphopt.report.document import Align, Column, Document, Listing, Paragraph, Table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"),
        (float("nan"), "?"),
        (0.0, "0 s"),
        (1.234e-9, "1.23 ns"),
        (9.999e-7, "1.00 µs"),
        (5e-7, "500 ns"),
        (1.5e-3, "1.50 ms"),
        (0.99996, "1.00 s"),
        (12.34, "12.3 s"),
        (123456.0, "123000 s"),
        (-0.002, "-2.00 ms"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert numbers.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0 k"), (999_900, "1.00 M"), (1.5e9, "1.50 G"), (0.5, "0.500")],
)
def test_count(value: float, text: str) -> None:
    assert numbers.count(value) == text


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_significant_digits_keep_the_value(value: float) -> None:
    text = numbers.significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=5.1e-3)


def test_bars_grow_and_anything_above_zero_shows() -> None:
    lengths = [len(terminal.bar(share / 100)) for share in range(101)]
    assert lengths == sorted(lengths)
    assert terminal.bar(0) == ""
    assert terminal.bar(1e-9) == "▏"
    assert terminal.bar(1) == terminal.bar(7) == "█" * terminal.BAR_CELLS


DOCUMENT = Document(
    "Title with [bold]markup[/bold]",
    [
        Paragraph("Some words about <b>it</b>. " * 8),
        Table(
            [Column("pattern", flexible=True), Column("count", Align.RIGHT), Column("share", bar=True)],
            [("Add → Mul → " * 20 + "[red]x|y", "12", 0.5), ("Relu", "3", 0.0)],
        ),
        Listing(["one", "two " * 40]),
    ],
)


def test_numbers_are_never_cut() -> None:
    columns = [Column("#", Align.RIGHT), *(Column(f"before {i}", Align.RIGHT) for i in range(9))]
    row = ("1", *(f"46.{i} µs" for i in range(9)))
    for details in ((), ("the pattern",)):
        table = Table(columns, [row], "pattern" if details else "", details)
        text = terminal.render(Document("wide", [table]), width=40)
        assert row in [tuple(part.strip() for part in re.split(r" {2,}", line.strip())) for line in text.splitlines()]


@pytest.mark.parametrize("width", [40, 80, 132])
def test_terminal_fits_the_width(width: int) -> None:
    stream = io.StringIO()
    terminal.write(DOCUMENT, stream, width=width)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "[bold]markup[/bold]" in text
    assert "[red]" in text
    assert "50.0 %" in text


def test_terminal_has_colour_on_request() -> None:
    stream = io.StringIO()
    terminal.write(DOCUMENT, stream, width=80, colour=True)
    assert "\x1b[1m" in stream.getvalue()


def test_markdown_escapes_names() -> None:
    text = markdown.render(DOCUMENT)
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert "x\\|y" in text
    assert "| pattern | count | share |\n| --- | ---: | ---: |\n" in text
    assert "- one\n" in text
    assert text.endswith("\n") and not text.endswith("\n\n")


@dataclasses.dataclass(frozen=True)
class Example:
    path: Path
    values: tuple[float, ...]
    shape: np.int64


def test_json_knows_dataclasses_and_says_null_for_what_json_cannot_say() -> None:
    value = {"example": Example(Path("a/b"), (1.5, float("inf"), float("nan")), np.int64(3)), 1: None}
    assert json.loads(report_json.text(value)) == {
        "example": {"path": "a/b", "values": [1.5, None, None], "shape": 3},
        "1": None,
    }
    with pytest.raises(TypeError):
        report_json.plain(object())
