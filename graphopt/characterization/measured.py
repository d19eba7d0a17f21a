"""Measured times of a corpus, out of a profile that ``graphopt profile`` wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.graph import Capture


def measured_seconds(
    captures: Sequence[Capture], profile: Mapping[str, Any], view: str
) -> list[dict[str, float] | None]:
    """For each capture, measured seconds by node name; None for one that the profile does not hold.

    Args:
        captures: of one view; profiled captures are found by the model's name and the input shapes.
        profile: JSON of kind ``profile``.
        view: of the captures.

    Raises:
        GraphoptError: the profile is one of another view, not whole, or of none of the captures.
    """
    try:
        if profile["view"] != view:
            raise GraphoptError(f"it is of the {profile['view']} view, not of the {view} one")
        known = {
            _key(one["model"], one["inputs"]): {row["node"]: float(row["measured_seconds"]) for row in one["operators"]}
            for one in profile["captures"]
        }
    except KeyError as error:
        raise GraphoptError(f"not a whole profile: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise GraphoptError(f"not a valid profile: {error}") from None
    found = [known.get(_key(capture.graph.name, capture.input_shapes())) for capture in captures]
    if not any(found):
        raise GraphoptError("it holds none of the corpus's captures")
    return found


def _key(name: str, shapes: Mapping[str, Sequence[int]]) -> tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]:
    return name, tuple(sorted((key, tuple(shape)) for key, shape in shapes.items()))
