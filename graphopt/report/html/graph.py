"""A pattern as an SVG drawing: operators in layers, data flowing down, the kernel's boundary around them.

The layers are the longest paths from the sources. Edges over several layers get a place in each of them, and places
are put in order by the mean of their neighbours' places, downwards and upwards in turn (Sugiyama, Tagawa and Toda,
1981, with the barycentre method).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from graphopt.mining.canonical import Edge, topological_order
from graphopt.report.html.elements import element
from graphopt.report.opportunity import short_label

SWEEPS = 8
CHARACTER = 7.2
"""Width of a character, in the drawing's units (pixels at its own size)."""
BOX_HEIGHT, LAYER_HEIGHT, GAP, MARGIN = 26.0, 64.0, 18.0, 22.0

Place = tuple[int, int]
"""(node, -1), or (number of an edge, layer) where an edge passes a layer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands.

    Attributes:
        layers: the places of each layer from left to right.
        centres: for each place the horizontal middle.
        widths: for each place its width.
        width: of the whole drawing, without margins.
    """

    layers: tuple[tuple[Place, ...], ...]
    centres: Mapping[Place, float]
    widths: Mapping[Place, float]
    width: float


def layout(widths: Sequence[float], edges: Sequence[Edge]) -> Layout:
    """Put nodes into layers.

    Args:
        widths: of the nodes' boxes.
        edges: (producer, output, consumer, slot).
    """
    layer = [0] * len(widths)
    for node in topological_order(len(widths), edges):
        layer[node] = max((layer[edge[0]] + 1 for edge in edges if edge[2] == node), default=0)
    layers: list[list[Place]] = [[] for _ in range(max(layer, default=-1) + 1)]
    size: dict[Place, float] = {}
    for node, width in enumerate(widths):
        layers[layer[node]].append((node, -1))
        size[node, -1] = width
    above: dict[Place, list[Place]] = {}
    below: dict[Place, list[Place]] = {}
    for number, edge in enumerate(edges):
        chain = path(number, edge, layer)
        for place in chain[1:-1]:
            layers[place[1]].append(place)
            size[place] = GAP
        for upper, lower in pairwise(chain):
            below.setdefault(upper, []).append(lower)
            above.setdefault(lower, []).append(upper)
    for sweep in range(SWEEPS):
        _sweep(layers, above if sweep % 2 == 0 else below, downwards=sweep % 2 == 0)
    spans = [sum(size[place] + GAP for place in places) - GAP for places in layers]
    width = max(spans, default=0.0)
    centres: dict[Place, float] = {}
    for places, span in zip(layers, spans, strict=True):
        left = (width - span) / 2
        for place in places:
            centres[place] = left + size[place] / 2
            left += size[place] + GAP
    return Layout(tuple(map(tuple, layers)), centres, size, width)


def path(number: int, edge: Edge, layer: Sequence[int]) -> list[Place]:
    """The places that an edge goes through, its ends included."""
    between = range(layer[edge[0]] + 1, layer[edge[2]])
    return [(edge[0], -1), *((number, at) for at in between), (edge[2], -1)]


def _sweep(layers: list[list[Place]], neighbours: Mapping[Place, Sequence[Place]], *, downwards: bool) -> None:
    """Order each layer by the mean position of its neighbours in the layer before."""
    order = layers if downwards else layers[::-1]
    for before, places in pairwise(order):
        position = {place: at for at, place in enumerate(before)}
        keys = {}
        for at, place in enumerate(places):
            known = [position[other] for other in neighbours.get(place, ()) if other in position]
            keys[place] = (sum(known) / len(known) if known else float(at), at)
        places.sort(key=keys.__getitem__)


def drawing(labels: Sequence[str], edges: Sequence[Edge]) -> Element:
    """The SVG of a pattern.

    Args:
        labels: of its operators, in canonical order.
        edges: between them.
    """
    names = [short_label(label).partition("{")[0].partition("(")[0] for label in labels]
    found = layout([len(name) * CHARACTER + 20 for name in names], edges)
    layer = {place[0]: at for at, places in enumerate(found.layers) for place in places if place[1] < 0}
    height = len(found.layers) * LAYER_HEIGHT - (LAYER_HEIGHT - BOX_HEIGHT)
    outer = (found.width + 4 * MARGIN, height + 4 * MARGIN)
    parts = [
        element("title", f"Pattern of {len(names)} operators: {', '.join(names)}"),
        element(
            "rect",
            x=MARGIN,
            y=MARGIN,
            width=outer[0] - 2 * MARGIN,
            height=outer[1] - 2 * MARGIN,
            rx=12,
            class_="boundary",
        ),
    ]
    depth = [layer[node] for node in range(len(names))]
    for number, edge in enumerate(edges):
        parts.extend(_edge(number, edge, edges, labels, found, depth))
    for node, name in enumerate(names):
        x, y = found.centres[node, -1] + 2 * MARGIN, depth[node] * LAYER_HEIGHT + 2 * MARGIN
        width = found.widths[node, -1]
        parts.append(
            element(
                "g",
                element("title", labels[node]),
                element("rect", x=x - width / 2, y=y, width=width, height=BOX_HEIGHT, rx=5),
                element("text", name, x=x, y=y + BOX_HEIGHT / 2 + 4.5),
                class_="operator",
            )
        )
    return element(
        "svg",
        *parts,
        class_="pattern",
        role="img",
        viewBox=f"0 0 {outer[0]:.0f} {outer[1]:.0f}",
        width=f"{outer[0]:.0f}",
        height=f"{outer[1]:.0f}",
    )


def _edge(
    number: int, edge: Edge, edges: Sequence[Edge], labels: Sequence[str], found: Layout, depth: Sequence[int]
) -> list[Element]:
    """A curve from producer to consumer, with the tensor's type beside its end."""
    points = []
    for place in path(number, edge, depth):
        row = depth[place[0]] if place[1] < 0 else place[1]
        points.append((found.centres[place] + 2 * MARGIN, row * LAYER_HEIGHT + 2 * MARGIN))
    leaving = [at for at, other in enumerate(edges) if other[0] == edge[0]]
    entering = [at for at, other in enumerate(edges) if other[2] == edge[2]]
    first, final = points[0], points[-1]
    last = (first[0] + _aside(number, leaving, found.widths[edge[0], -1]), first[1] + BOX_HEIGHT)
    points[-1] = (final[0] + _aside(number, entering, found.widths[edge[2], -1]), final[1])
    line = f"M{last[0]:.1f},{last[1]:.1f}"
    for at, (x, y) in enumerate(points[1:], 1):
        middle = (last[1] + y) / 2
        line += f"C{last[0]:.1f},{middle:.1f} {x:.1f},{middle:.1f} {x:.1f},{y:.1f}"
        last = (x, y)
        if at < len(points) - 1:  # straight through the layer that it passes
            last = (x, y + BOX_HEIGHT)
            line += f"L{last[0]:.1f},{last[1]:.1f}"
    tensor = _tensor(edge, labels)
    title = element("title", f"result {edge[1]} ({tensor}) to operand {edge[3]}")
    parts = [element("path", title, d=line, class_="edge")]
    alike = [at for at in entering if _tensor(edges[at], labels) == tensor]
    if number == alike[-1]:  # once where several of a kind enter side by side
        parts.append(element("text", tensor, x=last[0] + 5, y=last[1] - 6, class_="tensor"))
    return parts


def _aside(number: int, edges: Sequence[int], width: float) -> float:
    """How far from the middle of a box an edge ends, so that the box's edges stand side by side."""
    step = min(width / (len(edges) + 1), 24.0)
    return (edges.index(number) - (len(edges) - 1) / 2) * step


def _tensor(edge: Edge, labels: Sequence[str]) -> str:
    """Type and rank of the tensor on an edge, as the producer's label tells it."""
    results = labels[edge[0]].rpartition("->")[2].split(",")
    return results[edge[1]] if edge[1] < len(results) else ""
