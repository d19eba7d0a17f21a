"""Holding interruptions back for moments that must not be cut in two."""

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

ALL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name))


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait until the block ends. Processes started in it never get them, unless they ask to.

    Does nothing outside of the main thread, which alone is interrupted, and where the system cannot do it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    # The mask is for processes that are started; a thread of a library may get a signal in spite of it.
    # A handler that C code installed (None) could not be put back.
    ours = [number for number in ALL if signal.getsignal(number) is not None]
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ours}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def let_through(signals: Collection[signal.Signals]) -> None:
    """In a process that was started while signals were held back: get these again."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
