"""Counting executions by input shapes: all that happens in a service's own threads.

Before a run its shapes are looked up, while the caller's arrays are in the cache for the run anyway; after it, a
counter moves on. A counter is an ``itertools.repeat``, which knows how often it will go on: ``next`` of it is one step
of the interpreter, so that threads need no lock, and makes no number.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter, itemgetter, length_hint
from typing import Any

import numpy as np
from onnxruntime import OrtValue

from graphopt.graph import Shape

Shapes = tuple[Shape | None, ...]
"""Of a session's inputs by position; None for one that was left out or is no tensor."""

Declared = Sequence[int | str | None] | None
"""A shape as onnxruntime checks it: a number is a fixed size, a symbol or None any size; None is any shape at all.

Inputs that share a symbol may differ in it: onnxruntime checks numbers only.
"""

Steps = Iterator[None]
"""A counter, which ``next`` moves on."""

MOST_SHAPES = 10_000
"""Different shapes that a session counts between two flushes; the half of them makes a flush come early."""


class _Counter:
    """How often ``steps`` was moved on, and how much of that was taken already."""

    __slots__ = ("steps", "taken")

    def __init__(self) -> None:
        self.steps: Steps = repeat(None, sys.maxsize)
        self.taken = 0

    def take(self) -> int:
        """Steps since the last call."""
        reached = sys.maxsize - length_hint(self.steps)
        found, self.taken = reached - self.taken, reached
        return found


class Counts:
    """Executions of one session by input shapes.

    Attributes:
        names: of the session's inputs, in its order.
        counter: takes a feed; returns what to move on when an execution with it has ended well. Never
            raises.
        generation: changes when counters that were given out must no longer be used.
    """

    def __init__(self, inputs: Mapping[str, Declared], on_new: Callable[[int], None]) -> None:
        """Count for a session.

        Args:
            inputs: names and declared shapes of its inputs.
            on_new: called with the number of different shapes known when one comes up that is new.
        """
        self.names = tuple(inputs)
        self.generation = 0
        self._on_new = on_new
        self._declared = tuple(inputs.values())
        # Sizes that are fixed need no look: onnxruntime rejects all others.
        self._looked_at = [at for at, shape in enumerate(self._declared) if shape is None or _free(shape)]
        # Where only first sizes are free, they are looked at: an array tells its length sooner than its shape.
        self._by_length = all(_free(self._declared[at]) == [0] for at in self._looked_at)
        first = {shape[0] for shape in self._declared if shape} if self._by_length else set()
        self._by_one_length = len(first) == 1 and all(isinstance(size, str) for size in first)
        self._quick: dict[Any, Steps] = {}
        """Counters by what is looked at. Cleared, never replaced: ``counter`` holds it."""
        self.counter = self._looking()
        self._forget()

    def _forget(self) -> None:
        self.generation += 1
        self._lock = threading.RLock()
        self._dropped = _Counter()
        self._known: dict[Shapes, _Counter] = {}
        self._retired: dict[Shapes, _Counter] = {}
        self._quick.clear()

    def _looking(self) -> Callable[[Mapping[str, Any]], Steps]:
        """``counter``: a function with all that it needs at hand, as caches are cold between two runs."""
        quick, at_leisure = self._quick, self._counter_at_leisure
        part = len if self._by_length else attrgetter("shape")
        values_of = _values_of([self.names[at] for at in self._looked_at])

        def by_parts(feed: Mapping[str, Any]) -> Steps:
            try:
                return quick[tuple(map(part, values_of(feed)))]
            except Exception:  # shapes that are new, an input that was left out, a value that is no array
                return at_leisure(feed)

        def by_one_length(feed: Mapping[str, Any]) -> Steps:
            try:
                length = len(feed[first])
                for value in feed.values():  # quicker than a set of lengths
                    if len(value) != length:
                        return by_parts(feed)
                return quick[length]
            except Exception:
                return by_parts(feed)

        def by_its_length(feed: Mapping[str, Any]) -> Steps:
            try:
                return quick[len(feed[first])]
            except Exception:
                return by_parts(feed)

        if not self._by_one_length:
            return by_parts
        first = self.names[self._looked_at[0]]
        return by_its_length if len(self._looked_at) == 1 else by_one_length

    def _counter_at_leisure(self, feed: Mapping[str, Any]) -> Steps:
        try:
            return self.counter_of(tuple([shape_of(feed.get(name)) for name in self.names]))
        except Exception:  # whatever is fed, the service gets its result
            return self._dropped.steps

    def counter_of(self, shapes: Shapes | None) -> Steps:
        """The same by shapes; executions of unknown ones (None) are counted as dropped. Never raises."""
        if shapes is None:
            return self._dropped.steps
        with self._lock:
            found = self._known.get(shapes)
            if found is not None:
                return found.steps
            if len(self._known) >= MOST_SHAPES:
                return self._dropped.steps
            found = self._known[shapes] = _Counter()
            different = len(self._known)
            if all(map(_fits, shapes, self._declared)):  # onnxruntime rejects all others
                self._make_quick(shapes, found.steps)
        self._on_new(different)
        return found.steps

    def _make_quick(self, shapes: Shapes, steps: Steps) -> None:
        looked_at = [shapes[at] for at in self._looked_at]
        if not self._by_length:
            self._quick[tuple(looked_at)] = steps
            return
        lengths = [shape[0] for shape in looked_at if shape]
        self._quick[tuple(lengths)] = steps
        if self._by_one_length and len(set(lengths)) == 1:
            self._quick[lengths[0]] = steps

    def take(self) -> tuple[dict[Shapes, int], int]:
        """What was counted, and how much was dropped, since the last call."""
        with self._lock:
            taken: dict[Shapes, int] = {}
            for known in (self._retired, self._known):
                for shapes, counter in known.items():
                    if executions := counter.take():
                        taken[shapes] = taken.get(shapes, 0) + executions
            # Those that are crowded out are looked at once more: a run may be under way that will move them on.
            self._retired = {}
            if self.different() >= MOST_SHAPES // 2:
                self._retired, self._known = self._known, {}
                self._quick.clear()
                self.generation += 1
            return taken, self._dropped.take()

    def different(self) -> int:
        """How many different shapes are known."""
        return len(self._known)

    def after_fork(self) -> None:
        """In a child process: what the parent counted is the parent's; its lock may have been held."""
        self._forget()


def _values_of(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """What takes the values of these names out of a dictionary; for more than one it is C, and quick."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda feed: [feed[name] for name in names]


def _free(shape: Declared) -> list[int]:
    """Dimensions of any size; none for any shape."""
    return [at for at, size in enumerate(shape or ()) if not isinstance(size, int)]


def _fits(shape: Shape | None, declared: Declared) -> bool:
    if declared is None:
        return True
    if shape is None or len(shape) != len(declared):
        return False
    return all(size == wanted or not isinstance(wanted, int) for size, wanted in zip(shape, declared, strict=True))


def shape_of(value: Any) -> Shape | None:
    """The shape of what is fed to a session: an array, an OrtValue, nested lists; None for what is no tensor."""
    if isinstance(value, OrtValue):
        return tuple(value.shape()) if value.is_tensor() else None
    shape = getattr(value, "shape", None)
    if shape is None and isinstance(value, list | tuple | int | float | str):
        if isinstance(value, list) and value and not isinstance(value[0], list | tuple | int | float | bool | str):
            return None  # a sequence of tensors
        shape = np.shape(value)
    return None if shape is None else tuple(int(size) for size in shape)
