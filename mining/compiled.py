"""Loops that are compiled by numba when they are first called, and kept on disk from then on."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """The function as machine code, for the types that it is called with.

    Machine code is kept beside the source, or in the user's cache folder where that cannot be written; where neither
    can, each process compiles for itself.
    """
    try:
        return cast(Loop, njit(cache=True, nogil=True, error_model="numpy")(loop))
    except RuntimeError:  # there is no folder to keep it in
        return cast(Loop, njit(nogil=True, error_model="numpy")(loop))
