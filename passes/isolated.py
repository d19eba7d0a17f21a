"""Runs work in a child process, so that a kernel that crashes or never ends takes nothing down with it."""

import faulthandler
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from graphopt.errors import GraphoptError

Result = TypeVar("Result")


class DiedError(GraphoptError):
    """The child process crashed or did not end in time."""


def isolated(work: Callable[[], Result], seconds: float, what: str) -> Result:
    """The result of ``work``, computed in a child process.

    The child is a copy of this process: it sees everything, and changes nothing here. Where the system cannot copy a
    process (Windows), the work is done in this one.

    Args:
        work: what to do; its result goes through a pipe, so it can be pickled. It must not wait for threads of this
            process, sessions with several threads for instance: the copy has none of them.
        seconds: when to give up.
        what: does it, for the message.

    Raises:
        DiedError: the child crashed, or took longer.
        GraphoptError: as the work raised it.
    """
    if not hasattr(os, "fork"):
        return work()
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, see above
        child = os.fork()
    if child == 0:
        _child(work, receiver, sender)
    os.close(sender)
    ended = False
    try:
        content, ended = _received(receiver, seconds)
    finally:
        os.close(receiver)
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not ended:
        raise DiedError(f"{what} did not end within {seconds:.0f} s")
    if not content:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        raise DiedError(f"{what} crashed ({signal.Signals(number).name if number else 'no result'})")
    good, result = pickle.loads(content)  # written by our own child
    if not good:
        raise GraphoptError(result)
    return result  # type: ignore[no-any-return]


def _child(work: Callable[[], Any], receiver: int, sender: int) -> None:
    """What the child does; never returns."""
    try:
        os.close(receiver)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        faulthandler.disable()  # the parent tells of a crash
        try:
            answer = (True, work())
        except GraphoptError as error:
            answer = (False, str(error))
        with os.fdopen(sender, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
    except BaseException as error:  # nothing may get past the end of the child
        with os.fdopen(2, "w", closefd=False) as stream:
            stream.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(0)


def _received(receiver: int, seconds: float) -> tuple[bytes, bool]:
    """Everything that comes through a pipe, and whether its other end was closed in time."""
    parts: list[bytes] = []
    limit = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([receiver], [], [], max(0.0, limit - time.monotonic()))
        if not ready:
            return b"".join(parts), False
        part = os.read(receiver, 1 << 16)
        if not part:
            return b"".join(parts), True
        parts.append(part)
