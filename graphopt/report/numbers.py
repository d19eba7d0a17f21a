"""Numbers as people read them: three significant digits and a unit."""

import math
from collections.abc import Iterable, Mapping

TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNKNOWN = "?"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent: ``0.0123``, ``1.23``, ``12.3``, ``1230``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))  # 9.996 became 10.0
    return f"{rounded:.{max(decimals, 0)}f}"


def seconds(value: float | None) -> str:
    """A duration: ``1.23 ms``; ``?`` when unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for factor, unit in TIME_UNITS:
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)} {unit}"
    return f"{significant(value / TIME_UNITS[-1][0])} {TIME_UNITS[-1][1]}" if value else "0 s"


def percent(share: float | None) -> str:
    """A share as a percentage: ``12.3 %``, ``1.23 %``; ``?`` when unknown."""
    if share is None or not math.isfinite(share):
        return UNKNOWN
    return f"{share * 100:.{1 if share >= 0.09995 else 2}f} %"


def times(ratio: float | None) -> str:
    """A ratio: ``1.50×``; ``?`` when unknown."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    return f"{ratio:.2f}×"


def count(value: float) -> str:
    """A count: exact below 10,000, else with three digits and a unit: ``1.23 M``."""
    if abs(value) < 10_000 and value == int(value):
        return f"{int(value)}"
    for factor, unit in COUNT_UNITS:
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)} {unit}"
    return significant(value)


def plural(number: int, noun: str, nouns: str = "") -> str:
    """``1 capture``, ``2 captures``."""
    return f"{count(number)} {noun if number == 1 else nouns or noun + 's'}"


def shape_text(shape: Iterable[int]) -> str:
    """``1×3×224×224``; ``scalar`` where there are no dimensions."""
    return "×".join(map(str, shape)) or "scalar"


def inputs_text(shapes: Mapping[str, Iterable[int]], most: int = 3) -> str:
    """``x 1×3×224×224, y 8``; the first few, and how many more there are."""
    parts = [f"{name} {shape_text(shape)}" for name, shape in shapes.items()]
    more = f" and {plural(len(parts) - most, 'input')} more" if len(parts) > most else ""
    return (", ".join(parts[:most]) or "no inputs") + more
