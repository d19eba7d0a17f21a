"""The engine ``processes``: a worker process for each shard, on this machine."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO, Self

import graphopt
from graphopt.errors import GraphoptError
from graphopt.mining.canonical import Edge
from graphopt.mining.engine import Numbered, answer
from graphopt.mining.shard import Shard


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
                    [sys.executable, "-P", "-c", "from graphopt.mining.engine_processes import serve; serve()"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    process_group=0,  # an interrupt from the terminal is for us, and we end them
                )
                self._workers.append(worker)
                self._send(worker, (len(hand), self._budget))
                for numbered in hand:  # one by one: pickling many at once takes more room than they do
                    self._send(worker, numbered)
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
    count, budget = first
    hand: Numbered = []
    edges: dict[Edge, Edge] = {}
    while len(hand) < count:
        numbered = _receive(source)
        if numbered is None:
            return
        hand.append((numbered[0], numbered[1].sharing(edges)))
    shard = Shard(hand, budget)
    del hand, edges  # the shard has made tables of them
    while (message := _receive(source)) is not None:
        _write(target, (answer(shard, *message),))


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
