"""Machines: all in a row each, or one with every number and its source."""

from collections.abc import Sequence

from graphopt.machine import Machine, Quantity
from graphopt.report.document import Align, Column, Document, Listing, Paragraph, Table
from graphopt.report.numbers import count, seconds

_UNITS = {"flop/s": "FLOP/s", "element/s": "elements/s", "piece/s": "pieces/s", "byte/s": "B/s", "byte": "B"}


def overview(machines: Sequence[Machine], default: str) -> Document:
    """A row for every machine."""
    rows = [(machine.name, machine.scope, machine.description) for machine in machines]
    columns = [Column("machine"), Column("scope"), Column("what it is", flexible=True)]
    return Document("Machines", [Table(columns, rows), Paragraph(f"Default: {default}")])


def document(machine: Machine) -> Document:
    """Every number of a machine, with its kind and the source's number in the list below."""
    sources: dict[str, int] = {}
    rows: list[tuple[str, str, str, str]] = []

    def add(what: str, quantity: Quantity | None) -> None:
        if quantity is not None:
            number = sources.setdefault(quantity.source, len(sources) + 1)
            rows.append((what, text(quantity), quantity.kind, f"[{number}]"))

    for dtype, peak in machine.peak.items():
        add(f"peak {dtype}", peak)
    for level in machine.memory:
        add(f"{level.name} capacity", level.capacity)
        add(f"{level.name} bandwidth", level.bandwidth)
        if level.writing is not None:
            add(f"{level.name} writing", level.writing)
    for name, rate in machine.rates.items():
        add(f"rate {name}", rate)
    for name, rate in machine.kernel_rates.items():
        add(f"rate {name}, in a kernel", rate)
    for name, rate in machine.piece_rates.items():
        add(f"pieces {name}", rate)
    for name, rate in machine.kernel_piece_rates.items():
        add(f"pieces {name}, in a kernel", rate)
    add("per node", machine.per_node)
    add("per kernel", machine.per_kernel)
    add("per step of a kernel", machine.per_step)
    add("per call", machine.per_call)
    columns = [Column("number", flexible=True), Column("value", Align.RIGHT), Column("kind"), Column("source")]
    return Document(
        f"{machine.name} ({machine.scope})",
        [
            Paragraph(machine.description),
            Table(columns, rows),
            Listing([f"[{number}] {source}" for source, number in sources.items()]),
        ],
    )


def text(quantity: Quantity) -> str:
    """A quantity with its unit: ``105 GFLOP/s``."""
    if quantity.unit == "s":
        return seconds(quantity.value)
    number = count(quantity.value)
    return f"{number}{'' if number[-1].isalpha() else ' '}{_UNITS[quantity.unit]}"
