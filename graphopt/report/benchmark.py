"""Times of a model against its original."""

from collections.abc import Mapping
from typing import Any

from graphopt.report.document import Align, Column, Document, Paragraph, Table
from graphopt.report.numbers import inputs_text, plural, seconds, times

TIMES = (
    Column("model", flexible=True),
    Column("median", Align.RIGHT),
    Column("mean", Align.RIGHT),
    Column("min", Align.RIGHT),
    Column("max", Align.RIGHT),
    Column("std dev", Align.RIGHT),
)
RATIOS = (
    Column("candidate against", flexible=True),
    Column("ratio", Align.RIGHT),
    Column("95 % interval", Align.RIGHT),
)


def document(data: Mapping[str, Any]) -> Document:
    """The ratios, with their intervals, and the times behind them.

    Args:
        data: JSON of kind ``benchmark``.
    """
    fields = ("median_seconds", "mean_seconds", "min_seconds", "max_seconds", "stdev_seconds")
    timings = [(timing["name"], *(seconds(timing[field]) for field in fields)) for timing in data["timings"]]
    ratios = [
        (ratio["baseline"], times(ratio["ratio"]), f"{times(ratio['low'])} – {times(ratio['high'])}")
        for ratio in data["ratios"]
    ]
    inputs = inputs_text(data["inputs"])
    setting = f"{plural(data['threads'], 'thread')}, {plural(data['timings'][0]['runs'], 'run')} each, alternating"
    return Document(
        f"{data['candidate']} against {data['original']}",
        [Paragraph(f"{inputs}; {setting}"), Table(RATIOS, ratios), Table(TIMES, timings)],
    )
