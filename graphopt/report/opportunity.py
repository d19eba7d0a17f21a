"""One opportunity in full: its pattern drawn, what it is worth, where it stands and at which shapes it runs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.report.document import Align, Block, Column, Document, Drawing, Listing, Paragraph, Table
from graphopt.report.drawing import draw
from graphopt.report.numbers import count, percent, plural, seconds, shape_text, times
from graphopt.report.opportunities import fusible, mean_seconds

MOST_SHAPES = 8
"""Shapes that are listed; a file holds more."""

SHAPES = (
    Column("runs", Align.RIGHT),
    Column("before", Align.RIGHT),
    Column("after", Align.RIGHT),
    Column("faster", Align.RIGHT),
    Column("bytes before", Align.RIGHT),
    Column("bytes after", Align.RIGHT),
)
MODELS = (Column("model", flexible=True), Column("places", Align.RIGHT), Column("executions", Align.RIGHT))


def find(path: Path, data: Mapping[str, Any], digest: str) -> Mapping[str, Any]:
    """The opportunity, ruled out or not, whose digest starts so.

    Args:
        path: the file, for messages.
        data: its content, of kind ``opportunities``.
        digest: first digits, or all of them.

    Raises:
        GraphoptError: there is none, or several.
    """
    found: list[Mapping[str, Any]] = [
        entry
        for entry in (*data["opportunities"], *data["ruled_out"])
        if digest and entry["digest"].startswith(digest.lower())
    ]
    if not found:
        raise GraphoptError(f"{path}: no opportunity's digest starts with {digest!r}")
    if len(found) > 1:
        some = ", ".join(entry["digest"][:12] for entry in found[:4])
        raise GraphoptError(f"{path}: {plural(len(found), 'digest')} start with {digest!r}: {some}")
    return found[0]


def document(entry: Mapping[str, Any]) -> Document:
    """Everything that the file says about an opportunity.

    Args:
        entry: one of a file's opportunities.
    """
    before, after = mean_seconds(entry)
    verdict = f"ruled out by {entry['rule']}: {entry['reason']}" if entry["rule"] else fusible(entry)
    facts = [
        f"Digest {entry['digest']}",
        f"Verdict: {verdict}",
        f"Saves {percent(entry['share'])} of the fleet's time ({seconds(entry['saving_seconds'])} of its executions)",
        f"One run: {seconds(before)} → {seconds(after)}, {times(before / after if after else None)}",
        f"Support: {plural(entry['support'], 'execution')} of {plural(entry['captures'], 'capture')}; "
        f"{plural(entry['occurrences'], 'occurrence')}, "
        f"{count(entry['disjoint_occurrences'])} of them disjoint and counted",
    ]
    names = [short_label(label) for label in entry["labels"]]
    blocks: list[Block] = [Drawing(draw(names, entry["edges"])), Listing(facts)]
    shapes = entry["shapes"][:MOST_SHAPES]
    if shapes:
        blocks.append(Paragraph(f"Shapes, those that save most first ({len(shapes)} of {len(entry['shapes'])}):"))
        blocks.append(Table(SHAPES, _shapes(shapes), "shapes", [signature(example) for example in shapes]))
    rows = [(model["name"], count(model["occurrences"]), count(model["executions"])) for model in entry["models"]]
    blocks.append(Table(MODELS, rows))
    return Document(f"{entry['digest'][:8]}, {plural(entry['size'], 'operator')}", blocks)


def _shapes(examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows in the columns of SHAPES."""
    return [
        (
            count(example["executions"]),
            seconds(example["seconds_before"]),
            seconds(example["seconds_after"]),
            times(example["seconds_before"] / example["seconds_after"] if example["seconds_after"] else None),
            count(example["bytes_before"]),
            count(example["bytes_after"]),
        )
        for example in examples
    ]


def signature(example: Mapping[str, Any]) -> str:
    """``float32 8×128, int64 20 → float32 8×128``; constants in brackets, equal neighbours counted."""

    def tensors(entries: Sequence[Mapping[str, Any]]) -> str:
        texts = (f"{entry['dtype']} {shape_text(entry['shape'])}" for entry in entries)
        return counted(f"({text})" if entry["constant"] else text for text, entry in zip(texts, entries, strict=True))

    return f"{tensors(example['operands'])} → {tensors(example['results'])}"


def short_label(label: str) -> str:
    """An operator's label without its domain, equal operands counted: ``Concat{axis=1}(27 × float32[2])->float32[2]``.

    Labels are written by ``graphopt.operators.label``; one of another form stays as it is.
    """
    head, bracket, rest = label.rpartition("(")
    operands, _, results = rest.partition(")")
    if not bracket:
        return label
    name, brace, attributes = head.partition("{")
    return f"{name.rpartition('.')[2]}{brace}{attributes}({counted(operands.split(','))}){results}"


def counted(texts: Iterable[str]) -> str:
    """Texts with commas, runs of equal ones counted: ``a, 3 × b``."""
    groups = ((text, len(list(group))) for text, group in groupby(texts))
    return ", ".join(text if number == 1 else f"{number} × {text}" for text, number in groups)
