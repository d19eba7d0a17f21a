"""Where shards live: in this process, or in worker processes on this machine.

An engine holds shards and calls one method on all of them at a time. Shards keep their occurrences to themselves; what
travels is, for each level, a tally per pattern. Graphs are dealt out by size, and every result is put in order by
digest, so the outcome does not depend on how many shards there are.
"""

import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import graphopt
from graphopt.errors import GraphoptError
from graphopt.mining.graphs import MiningGraph
from graphopt.mining.growth import Shard

NAMES = ("processes", "serial")
"""Engines by name."""

Numbered = list[tuple[int, MiningGraph]]


class Engine(Protocol):
    """Calls a method of every shard."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Results of ``Shard.method(*arguments)``, one per shard."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_engine(name: str, graphs: Sequence[MiningGraph], *, jobs: int | None, budget: int) -> Engine:
    """An engine that holds the graphs.

    Args:
        name: ``processes`` or ``serial``.
        graphs: distinct graphs; a graph's position is its index.
        jobs: number of worker processes; as many as this process may use processors when None.
        budget: see Shard.

    Raises:
        GraphoptError: there is no engine of this name, or the number of jobs is below one.
    """
    if name not in NAMES:
        raise GraphoptError(f"there is no mining engine {name!r}; there are: {', '.join(NAMES)}")
    if jobs is not None and jobs < 1:
        raise GraphoptError(f"the number of jobs must be at least 1, not {jobs}")
    numbered = list(enumerate(graphs))
    if name == "processes":
        jobs = min(jobs or len(os.sched_getaffinity(0)), len(graphs))
        if jobs > 1:
            return Processes(dealt(numbered, jobs), budget)
    return Serial(numbered, budget)


def dealt(graphs: Numbered, shards: int) -> list[Numbered]:
    """Graphs dealt out to shards: the largest first, each to the shard that has the fewest nodes so far."""
    hands: list[Numbered] = [[] for _ in range(shards)]
    loads = [0] * shards
    for index, graph in sorted(graphs, key=lambda pair: (-pair[1].eligible_nodes.bit_count(), pair[0])):
        shard = loads.index(min(loads))
        hands[shard].append((index, graph))
        loads[shard] += graph.eligible_nodes.bit_count() + 1
    return [sorted(hand, key=lambda pair: pair[0]) for hand in hands]


class Serial:
    """One shard, in this process."""

    def __init__(self, graphs: Numbered, budget: int) -> None:
        self._shard = Shard(graphs, budget)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The result of the one shard."""
        return [_answer(self._shard, method, arguments)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Processes:
    """A worker process for each shard; they end when the engine is left, whatever they are doing."""

    def __init__(self, hands: list[Numbered], budget: int) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._hands = hands
        self._budget = budget

    def __enter__(self) -> Self:
        root = str(Path(graphopt.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        try:
            for hand in self._hands:
                worker = subprocess.Popen(
                    [sys.executable, "-P", "-c", "from graphopt.mining.engines import serve; serve()"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    process_group=0,  # an interrupt from the terminal is for us, and we end them
                )
                self._workers.append(worker)
                self._send(worker, (hand, self._budget))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue
        self._workers = []

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Results of all workers, which work at the same time.

        Raises:
            GraphoptError: a worker ended.
        """
        for worker in self._workers:
            self._send(worker, (method, arguments))
        answers = []
        for worker in self._workers:
            assert worker.stdout is not None
            answer = _receive(worker.stdout)
            if answer is None:
                raise GraphoptError("a mining worker ended before its work was done (out of memory?)")
            answers.append(answer[0])
        return answers

    @staticmethod
    def _send(worker: subprocess.Popen[bytes], message: object) -> None:
        assert worker.stdin is not None
        try:
            _write(worker.stdin, message)
        except BrokenPipeError:
            raise GraphoptError("a mining worker ended before its work was done (out of memory?)") from None


def serve() -> None:
    """What a worker process does: answer calls on standard input until it is closed."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    first = _receive(source)
    if first is None:
        return
    shard = Shard(*first)
    while (message := _receive(source)) is not None:
        _write(target, (_answer(shard, *message),))


def _answer(shard: Shard, method: str, arguments: tuple[Any, ...]) -> Any:
    found = getattr(shard, method)
    return found(*arguments) if callable(found) else found


def _write(pipe: BinaryIO | Any, message: object) -> None:
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(struct.pack("<Q", len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> Any:
    """The next message; None when the other side is gone. Messages come only from our own processes."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    content = pipe.read(size)
    return pickle.loads(content) if len(content) == size else None
