"""Counting executions by input shapes: all that happens in a service's own threads."""

import threading
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from graphopt.graph import Shape

Shapes = tuple[Shape | None, ...]
"""Of a session's inputs by position; None for one that was left out or is no tensor."""

MOST_SHAPES = 10_000
"""Different shapes that a session counts between two flushes; the half of them makes a flush come early."""


_SHAPE = attrgetter("shape")


class Counts:
    """Executions of one session by input shapes.

    Attributes:
        names: of the session's inputs, in its order.
        dropped: executions that could not be counted: too many different shapes at once, or unknown ones.
    """

    def __init__(self, names: Sequence[str], on_new: Callable[[int], None]) -> None:
        """Count for a session with these inputs.

        Args:
            names: of the inputs.
            on_new: called with the number of different shapes since the last flush when shapes come up that are new.
        """
        self.names = tuple(names)
        self.dropped = 0
        self._on_new = on_new
        # A count is a list of one: so that shapes, whose hashes Python does not keep, are hashed once for an execution.
        self._table: dict[Any, list[int]] = {}
        self._values = _values_of(self.names)
        # Reentrant: a signal handler or a finaliser may run the session while this thread counts.
        self._lock = threading.RLock()

    def feed(self, feed: Mapping[str, Any]) -> None:
        """Count an execution by what was fed. Never raises."""
        try:
            key = tuple(map(_SHAPE, self._values(feed)))
            with self._lock:
                self._table[key][0] += 1
        except Exception:  # shapes that are new, an input that was left out, a value that is no array
            self.add(self.shapes_of(feed))

    def shapes_of(self, feed: Mapping[str, Any]) -> Shapes | None:
        """The shapes of what is fed; None where they cannot be known. Never raises."""
        try:
            return tuple([shape_of(feed.get(name)) for name in self.names])
        except Exception:  # whatever was fed, the service has its result
            return None

    def add(self, shapes: Shapes | None) -> None:
        """Count an execution; one of unknown shapes counts as dropped. Never raises."""
        with self._lock:
            count = self._table.get(shapes)
            if count is not None:
                count[0] += 1
                return
            different = len(self._table) + 1
            if shapes is None or different > MOST_SHAPES:
                self.dropped += 1
                return
            self._table[shapes] = [1]
        self._on_new(different)

    def take(self) -> tuple[dict[Shapes, int], int]:
        """What was counted, and how much was dropped, since the last call."""
        with self._lock:
            taken, self._table = self._table, {}
            dropped, self.dropped = self.dropped, 0
        return {shapes: count for shapes, (count,) in taken.items()}, dropped

    def different(self) -> int:
        """How many different shapes were counted since the last ``take``."""
        return len(self._table)

    def after_fork(self) -> None:
        """In a child process: what the parent counted is the parent's; its lock may have been held."""
        self._lock = threading.RLock()
        self._table = {}
        self.dropped = 0


def _values_of(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """What takes the values of these names out of a dictionary; both it and ``_SHAPE`` are C, and this is why."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda feed: [feed[name] for name in names]


def shape_of(value: Any) -> Shape | None:
    """The shape of what is fed to a session: an array, an OrtValue, nested lists; None for what is no tensor."""
    shape = getattr(value, "shape", None)
    if callable(shape):  # an OrtValue
        shape = shape() if value.is_tensor() else None
    elif shape is None and isinstance(value, list | tuple | int | float | str):
        if isinstance(value, list) and value and not isinstance(value[0], list | tuple | int | float | bool | str):
            return None  # a sequence of tensors
        shape = np.shape(value)
    return None if shape is None else tuple(int(size) for size in shape)
