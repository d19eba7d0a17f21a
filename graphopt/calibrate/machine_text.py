"""A machine as the text of a machine file (docs/machines.md)."""

import json
from collections.abc import Iterator, Mapping

from graphopt.machine import SCHEMA_VERSION, Machine, Quantity


def machine_text(machine: Machine, *, head: str = "") -> str:
    """The TOML file of a machine; ``machine.parse`` of it gives the same numbers.

    Args:
        machine: the machine.
        head: a comment for the first line.
    """
    return "\n".join(_lines(machine, head)) + "\n"


def _lines(machine: Machine, head: str) -> Iterator[str]:
    sources = {text: f"source{number}" for number, text in enumerate(dict.fromkeys(_sources(machine)), 1)}

    def number(key: str, quantity: Quantity) -> str:
        fields: dict[str, str | float] = {
            "value": quantity.value,
            "unit": quantity.unit,
            "kind": quantity.kind,
            "scope": quantity.scope,
        }
        parts = [f"{name} = {_value(value)}" for name, value in fields.items()]
        return f'{_key(key)} = {{ {", ".join(parts)}, source = "{sources[quantity.source]}" }}'

    if head:
        yield f"# {head}"
        yield ""
    yield f"schema_version = {SCHEMA_VERSION}"
    yield f"name = {_value(machine.name)}"
    yield f"description = {_value(machine.description)}"
    yield f"scope = {_value(machine.scope)}"
    yield from ("", "[sources]", *(f"{key} = {_value(text)}" for text, key in sources.items()))
    yield from ("", "[peak]", *(number(dtype, quantity) for dtype, quantity in machine.peak.items()))
    for level in machine.memory:
        yield from ("", "[[memory]]", f"name = {_value(level.name)}")
        if level.capacity is not None:
            yield number("capacity", level.capacity)
        yield number("bandwidth", level.bandwidth)
        if level.writing is not None:
            yield number("writing", level.writing)
    known = {name: quantity for name, quantity in _overheads(machine).items() if quantity is not None}
    tables: dict[str, Mapping[str, Quantity]] = {
        "overhead": known,
        "rates": machine.rates,
        "piece_rates": machine.piece_rates,
        "kernel_rates": machine.kernel_rates,
        "kernel_piece_rates": machine.kernel_piece_rates,
    }
    for name, table in tables.items():
        if table:
            yield from ("", f"[{name}]", *(number(key, quantity) for key, quantity in table.items()))


def _sources(machine: Machine) -> Iterator[str]:
    yield from (quantity.source for quantity in machine.peak.values())
    for level in machine.memory:
        known = (level.capacity, level.bandwidth, level.writing)
        yield from (quantity.source for quantity in known if quantity is not None)
    yield from (quantity.source for quantity in _overheads(machine).values() if quantity is not None)
    for table in (machine.rates, machine.piece_rates, machine.kernel_rates, machine.kernel_piece_rates):
        yield from (quantity.source for quantity in table.values())


def _overheads(machine: Machine) -> dict[str, Quantity | None]:
    return {
        "per_node": machine.per_node,
        "per_kernel": machine.per_kernel,
        "per_step": machine.per_step,
        "per_call": machine.per_call,
    }


def _key(text: str) -> str:
    return text if text.replace("_", "a").replace("-", "a").isalnum() and text.isascii() else _value(text)


def _value(value: str | float) -> str:
    """A TOML value; numbers with four significant digits, which is more than any measurement holds."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(int(value)) if value == int(value) and 1 <= value < 1e9 else f"{value:.4g}"
