"""Charts as SVG: the roofline of an opportunity, and the saving of the first k opportunities."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any
from xml.etree.ElementTree import Element

from graphopt.machine import Machine
from graphopt.report.html.elements import element
from graphopt.report.numbers import count, percent, seconds
from graphopt.report.opportunity import short_label

WIDTH, HEIGHT = 560.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 28.0, 44.0


class _Axes:
    """Logarithmic axes: from values to places in the drawing."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = x, y

    def across(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.x[0])) / (math.log10(self.x[1]) - math.log10(self.x[0]))
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.y[0])) / (math.log10(self.y[1]) - math.log10(self.y[0]))
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def roofline(labels: Sequence[str], example: Mapping[str, Any], machine: Machine | None) -> Element:
    """Operations per second over operations per byte: the operators as they are, the kernel, the machine's ceilings.

    What computes nothing (a Transpose) stands at the left edge, at the height of its bytes per second.

    Args:
        labels: of the pattern's operators.
        example: one of the opportunity's shapes, with ``costs``.
        machine: for the ceilings; None draws none.
    """
    costs = example["costs"]
    points = [
        (short_label(label), float(cost["flops"]), float(cost["bytes"]), float(cost["seconds"]))
        for label, cost in zip(labels, costs, strict=True)
    ]
    flops = sum(point[1] for point in points)
    kernel = ("as one kernel", flops, float(example["bytes_after"]), float(example["seconds_after"]))
    drawn = [point for point in (*points, kernel) if point[2] > 0 and point[3] > 0]
    ratios = [point[1] / point[2] for point in drawn if point[1] > 0]
    low = 10 ** math.floor(math.log10(min([*ratios, 0.1])))
    high = 10 ** math.ceil(math.log10(max([*ratios, 100.0])))
    speeds = [max(point[1] / point[3], low * point[2] / point[3]) for point in drawn]
    peak = machine.peak_of("float32") if machine else max([*speeds, 1e9])
    bottom = 10 ** math.floor(math.log10(min([*speeds, peak / 1e3])))
    axes = _Axes((low, high), (bottom, 10 ** math.ceil(math.log10(max([*speeds, peak])))))
    parts = [element("title", "Roofline of the operators and of the kernel"), *_grid(axes)]
    if machine:
        parts += _ceilings(axes, machine)
    for name, work, moved, taken in drawn:
        ratio, speed = (work / moved, work / taken) if work else (low, low * moved / taken)
        rate = f"{count(work / taken)}FLOP/s, {count(moved / taken)}B/s, {seconds(taken)}"
        kind = "kernel" if name == kernel[0] else "before"
        parts.append(
            element(
                "circle",
                element("title", f"{name}: {rate}, {count(work)} operations, {count(moved)} bytes"),
                cx=axes.across(ratio),
                cy=axes.up(speed),
                r=7 if kind == "kernel" else 5,
                class_=kind,
                tabindex=0,
            )
        )
    return _svg(parts, "roofline")


def _ceilings(axes: _Axes, machine: Machine) -> list[Element]:
    """The peak, and a slope for each level of the memory."""
    peak = machine.peak_of("float32")
    parts = []
    for level in machine.memory:
        bandwidth = level.bandwidth.value
        start = max(axes.x[0], axes.y[0] / bandwidth)
        end = min(peak / bandwidth, axes.x[1])
        if start >= end:
            continue
        places = (axes.across(start), axes.up(start * bandwidth), axes.across(end), axes.up(end * bandwidth))
        parts.append(
            element(
                "line",
                element("title", f"{level.name}: {count(bandwidth)}B/s"),
                x1=places[0],
                y1=places[1],
                x2=places[2],
                y2=places[3],
                class_="ceiling",
            )
        )
        parts.append(element("text", level.name, x=places[0] + 4, y=places[1] - 6, class_="level"))
    at = axes.up(peak)
    parts.append(element("line", x1=LEFT, y1=at, x2=WIDTH - RIGHT, y2=at, class_="ceiling"))
    label = f"peak {count(peak)}FLOP/s"
    parts.append(element("text", label, x=WIDTH - RIGHT - 4, y=at - 5, class_="level", text_anchor="end"))
    return parts


def _grid(axes: _Axes) -> list[Element]:
    """A line and a number for each power of ten."""
    parts = []
    for power in range(round(math.log10(axes.x[0])), round(math.log10(axes.x[1])) + 1):
        x = axes.across(10.0**power)
        parts.append(element("line", x1=x, y1=TOP, x2=x, y2=HEIGHT - BOTTOM, class_="grid"))
        parts.append(element("text", f"{10.0**power:g}", x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    for power in range(round(math.log10(axes.y[0])), round(math.log10(axes.y[1])) + 1):
        y = axes.up(10.0**power)
        parts.append(element("line", x1=LEFT, y1=y, x2=WIDTH - RIGHT, y2=y, class_="grid"))
        parts.append(element("text", count(10.0**power), x=LEFT - 6, y=y + 4, text_anchor="end"))
    parts.append(
        element("text", "operations per byte", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle")
    )
    parts.append(element("text", "FLOP/s", x=LEFT - 6, y=TOP - 12, text_anchor="end"))
    return parts


def cumulative(shares: Sequence[float]) -> Element:
    """The share of the fleet's time that the first k opportunities save, over k.

    Args:
        shares: of each opportunity, in order.
    """
    totals = list(accumulate(shares))
    greatest = max(totals, default=0.0) or 1.0
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(k: int, total: float) -> tuple[float, float]:
        return LEFT + wide * k / max(len(totals), 1), HEIGHT - BOTTOM - high * total / greatest

    points = [place(0, 0.0), *(place(k, total) for k, total in enumerate(totals, 1))]
    parts = [
        element("title", "Share of the fleet's time saved by the first k opportunities"),
        element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_="curve"),
    ]
    for step in range(5):
        total = greatest * step / 4
        y = place(0, total)[1]
        parts.append(element("line", x1=LEFT, y1=y, x2=WIDTH - RIGHT, y2=y, class_="grid"))
        parts.append(element("text", percent(total), x=LEFT - 6, y=y + 4, text_anchor="end"))
    every = max(1, len(totals) // 10)
    for k, total in enumerate(totals, 1):
        x, y = place(k, total)
        parts.append(
            element("circle", element("title", f"first {k}: {percent(total)}"), cx=x, cy=y, r=3, class_="kernel")
        )
        if k == 1 or k % every == 0:
            parts.append(element("text", str(k), x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(element("text", "opportunities, best first", x=middle, y=HEIGHT - 8, text_anchor="middle"))
    return _svg(parts, "chart")


def _svg(parts: Sequence[Element], kind: str) -> Element:
    return element("svg", *parts, class_=kind, role="img", viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}")
