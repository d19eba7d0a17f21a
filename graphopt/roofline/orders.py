"""Orders of elements: transposes and reorders, which compose, and the loops over results that kernels make of them."""

from graphopt.graph import Node
from graphopt.operators.blocked import DOMAIN

Turn = tuple[str, tuple[int, ...], int]
"""An operator that changes the order of elements: its name, for a transpose its permutation, and its number."""

_OPPOSITE = {f"{DOMAIN}.ReorderInput": f"{DOMAIN}.ReorderOutput", f"{DOMAIN}.ReorderOutput": f"{DOMAIN}.ReorderInput"}


def turn_of(node: Node, index: int) -> Turn | None:
    """The change of order that a node is; None for other nodes."""
    if node.operator in _OPPOSITE:
        return node.operator, (), index
    perm = node.attributes.get("perm")
    if node.operator != "Transpose":
        return None
    return "Transpose", tuple(p for p in perm if isinstance(p, int)) if isinstance(perm, tuple) else (), index


def blocked(index: int) -> Turn:
    """The change of order of a node that reads the blocked layout as well as any other."""
    return f"{DOMAIN}.ReorderInput", (), index


def composed(turns: tuple[Turn, ...], turn: Turn) -> tuple[Turn, ...]:
    """Turns met on the way back from a result, with one more that stands before them."""
    if not turns:
        return (turn,)
    (name, perm, _), (before, earlier, index) = turns[-1], turn
    if _OPPOSITE.get(name) == before:
        return turns[:-1]
    if name == before == "Transpose" and len(perm) == len(earlier):
        both = tuple(earlier[axis] for axis in perm) or tuple(range(2))  # without permutation: reversed twice
        return turns[:-1] if both == tuple(range(len(both))) else (*turns[:-1], ("Transpose", both, index))
    return (*turns, turn)
