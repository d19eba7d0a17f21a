"""A pattern as a text drawing: a row for each operator, and its data flow in rails on the left.

Rows stand in topological order. A rail is one use of a result on its way down to its consumer; rails of one consumer
meet in its row, and each further use of a result starts a rail of its own.
"""

from collections.abc import Sequence

from graphopt.mining.canonical import Edge, topological_order

NODE, PIPE = "●", "│"


def draw(names: Sequence[str], edges: Sequence[Edge]) -> list[tuple[str, str]]:
    """The rows of the drawing.

    Args:
        names: what to write beside each node.
        edges: between places in ``names``; the graph must not have a cycle.

    Returns:
        rails and name of each row; the name is empty in rows where rails part or meet.
    """
    outgoing: dict[int, list[Edge]] = {}
    for edge in sorted(edges):
        outgoing.setdefault(edge[0], []).append(edge)
    rails: list[int | None] = []  # the consumer that each rail goes to; None where a rail has ended
    rows: list[tuple[str, str]] = []
    ended = -1  # where the row above ends: what starts there must not look as if it were its consumer
    for node in topological_order(len(names), edges):
        arriving = [at for at, consumer in enumerate(rails) if consumer == node]
        if arriving:
            own = arriving[0]
            if len(arriving) > 1:
                rows.append((_joined(rails, arriving, "╯", "┴"), ""))
            for at in arriving:
                rails[at] = None
        else:
            own = next((at for at, consumer in enumerate(rails) if consumer is None), len(rails))
            if own == len(rails):
                rails.append(None)
            if own == ended:
                rows.append((" ".join(" " if consumer is None else PIPE for consumer in rails).rstrip(), ""))
        row = [NODE if at == own else PIPE if consumer is not None else " " for at, consumer in enumerate(rails)]
        rows.append((" ".join(row).rstrip(), names[node]))
        uses = outgoing.get(node, [])
        leaving = [own] if uses else []
        ended = -1 if uses else own
        for edge in uses[:1]:
            rails[own] = edge[2]
        for edge in uses[1:]:
            free = next((at for at in range(own + 1, len(rails)) if rails[at] is None), len(rails))
            if free == len(rails):
                rails.append(None)
            rails[free] = edge[2]
            leaving.append(free)
        if len(leaving) > 1:
            rows.append((_joined(rails, leaving, "╮", "┬"), ""))
        while rails and rails[-1] is None:
            rails.pop()
    return rows


def _joined(rails: Sequence[int | None], ends: Sequence[int], last: str, between: str) -> str:
    """A row in which one rail meets others to its right."""
    first, final = ends[0], ends[-1]
    parts = []
    for at, consumer in enumerate(rails):
        passing = consumer is not None
        if at == first:
            mark = "├"
        elif at == final:
            mark = last
        elif at in ends:
            mark = between
        elif first < at < final:
            mark = "┼" if passing else "─"
        else:
            mark = PIPE if passing else " "
        parts.append(mark + ("─" if first <= at < final else " "))
    return "".join(parts).rstrip()
