"""Hash tables of what compiled loops number as it comes: slots that hold numbers, and for each number its hash.

Whoever looks something up goes through the numbers with its hash, and compares::

    slot = slot_of(slots, hashes, value, home(slots, value))
    while slots[slot] >= 0 and not same(slots[slot]):
        slot = slot_of(slots, hashes, value, slot + 1)
"""

import numpy as np

from graphopt.mining.compiled import compiled
from graphopt.mining.levels import Numbers
from graphopt.mining.refinement import Hashes

FEWEST_SLOTS = 1024
"""Slots of a table to begin with, a power of two."""


@compiled
def empty_slots(count: int) -> Numbers:
    """Slots, none taken, for so many numbers: a power of two, at least twice as many."""
    room = FEWEST_SLOTS
    while room < 2 * count:
        room *= 2
    return np.full(room, -1, np.int32)


@compiled
def home(slots: Numbers, value: np.uint64) -> np.int64:
    """The slot at which to begin looking for a hash."""
    return np.int64(value & np.uint64(len(slots) - 1))


@compiled
def slot_of(slots: Numbers, hashes: Hashes, value: np.uint64, start: np.int64) -> np.int64:
    """The first slot from ``start`` on that is free or holds a number with this hash.

    Args:
        slots: a number each, -1 where free.
        hashes: the hash of each number.
        value: the hash.
        start: a slot.
    """
    slot = start & (len(slots) - 1)
    while slots[slot] >= 0 and hashes[slots[slot]] != value:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@compiled
def more_slots(hashes: Hashes, count: int, most: int) -> Numbers:
    """Slots for ``most`` numbers that hold those from 0 to before ``count``."""
    slots = empty_slots(most)
    for number in range(count):
        slot = home(slots, hashes[number])
        while slots[slot] >= 0:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = number
    return slots
