"""The engine ``dask``: a shard on each worker of a dask.distributed cluster, on this machine or many.

A shard stays on its worker, in a *slot*: a result that the cluster keeps for us and frees when we let go of it. Every
call is a task that is tied to the slot's worker. A shard is what its graphs and the calls so far have made of it, so a
shard that is lost (its worker has died, or has handed its memory to disk or to another worker) is made again, on any
worker, from its graphs and by repeating the calls. A slot counts its calls: one that has not seen exactly the calls
before this one answers that it is lost, never something wrong.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, NamedTuple, Self

import distributed
from distributed import Client, Future, KilledWorker

from graphopt.errors import GraphoptError
from graphopt.mining.engine import Numbered, answer, dealt
from graphopt.mining.own_cluster import OwnCluster
from graphopt.mining.shard import Shard

Call = tuple[str, tuple[Any, ...]]
"""A method of Shard and its arguments."""

POLL = 0.5
"""Seconds between looks at which workers live."""

PATIENCE = 60.0
"""Seconds to wait for a worker where there is none."""

MOST_PLACEMENTS = 5
"""Times that one shard is placed during one call before we give up."""

CONNECTING = 10.0
"""Seconds to wait for a scheduler's first answer."""

CLOSING = 1.0
"""Seconds that taking leave of a scheduler may take."""

_LOST = "lost"
_LATE = "late"


class Slot:
    """Where a worker keeps a shard, and how many calls the shard has answered. Copies are empty."""

    def __init__(self) -> None:
        self.shard: Shard | None = None
        self.answered = 0

    def __reduce__(self) -> tuple[type["Slot"], tuple[()]]:
        return Slot, ()


def ask(slot: Slot, position: int, call: Call) -> tuple[Any] | str:
    """Answer a call, on a worker.

    Args:
        slot: holds the shard.
        position: how many calls went before.
        call: what to answer.

    Returns:
        the answer, or that the shard is lost.
    """
    shard = slot.shard
    if shard is None or slot.answered != position:
        return _LOST
    slot.shard = None  # whatever stops us, the shard is not left half changed
    found = answer(shard, *call)
    slot.shard, slot.answered = shard, position + 1
    return (found,)


def replay(slot: Slot, hand: Numbered, budget: int, calls: list[Call]) -> tuple[Any] | str:
    """Make a shard from its graphs, on a worker, and answer all calls so far; returns the last answer."""
    shard = Shard(hand, budget)
    found = None
    for call in calls:
        found = answer(shard, *call)
    slot.shard, slot.answered = shard, len(calls)
    return (found,)


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a logger's errors to itself: a client that is interrupted at the wrong moment logs a fault of its own."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Place(NamedTuple):
    """Where a shard is."""

    worker: str
    slot: Future


class Dask:
    """A shard on each worker that the cluster has when the engine is entered.

    Args:
        graphs: all graphs.
        budget: see Shard.
        jobs: worker processes of a cluster of our own.
        scheduler: address of a scheduler, or a client; None for a cluster of our own, on this machine.
    """

    def __init__(self, graphs: Numbered, budget: int, *, jobs: int, scheduler: "str | Client | None") -> None:
        self._graphs = graphs
        self._budget = budget
        self._jobs = jobs
        self._scheduler = scheduler
        self._cluster: OwnCluster | None = None
        self._client: Client | None = None
        self._hands: list[Numbered] = []
        self._places: dict[int, _Place] = {}
        self._calls: list[Call] = []
        self._quiet = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._connect()
            self._hands = dealt(self._graphs, min(len(self._living(wait=True)), max(len(self._graphs), 1)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._places.clear()
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        try:
            if client is not None and client is not self._scheduler:
                with contextlib.suppress(OSError, TimeoutError):
                    client.close(timeout=CLOSING)
        finally:
            self._quiet.close()
            if cluster is not None:
                cluster.__exit__()

    def _connect(self) -> None:
        if isinstance(self._scheduler, Client):
            if self._scheduler.asynchronous:
                raise GraphoptError("mining needs a dask client that is not asynchronous")
            self._client = self._scheduler
            return
        address = self._scheduler
        if address is None:
            self._cluster = OwnCluster(self._jobs)
            address = self._cluster.__enter__().address
        self._quiet.enter_context(_silenced("tornado.application"))
        try:
            self._client = Client(address, set_as_default=False, timeout=CONNECTING)
        except (OSError, TimeoutError, ValueError) as error:
            raise GraphoptError(f"cannot reach the dask scheduler {address}: {str(error) or 'no answer'}") from None

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Results of all shards, which work at the same time.

        Raises:
            GraphoptError: the scheduler has gone, or there are no workers, or they are lost again and again.
        """
        client = self._connected()
        self._calls.append((method, arguments))
        placed = dict.fromkeys(range(len(self._hands)), 0)
        running: dict[int, Future] = {}
        for number in placed:
            running[number] = self._ask(number) if number in self._places else self._place(number)
        answers: dict[int, Any] = {}
        patience = POLL
        while running:
            with client.as_current(), contextlib.suppress(TimeoutError, CancelledError):
                distributed.wait(list(running.values()), timeout=POLL, return_when="FIRST_COMPLETED")
            living = self._living()
            for number, future in list(running.items()):
                ready = future.done()
                found = _outcome(future, patience) if ready else _LATE
                if found is _LATE:
                    if ready:
                        patience *= 2  # the answer is large
                    if self._places[number].worker in living:
                        continue
                    found = _LOST
                if isinstance(found, str):
                    placed[number] += 1
                    if placed[number] > MOST_PLACEMENTS:
                        raise GraphoptError("dask workers are lost again and again (out of memory?)")
                    running[number] = self._place(number)
                else:
                    answers[number] = found[0]
                    del running[number]
        return [answers[number] for number in sorted(answers)]

    def _ask(self, number: int) -> Future:
        """Hand the last call to a shard."""
        place = self._places[number]
        return self._submit(place.worker, ask, place.slot, len(self._calls) - 1, self._calls[-1])

    def _place(self, number: int) -> Future:
        """Hand all calls to a new shard, on the worker that has the fewest."""
        old = self._places.pop(number, None)
        load = dict.fromkeys(self._living(wait=True), 0)
        for place in self._places.values():
            if place.worker in load:
                load[place.worker] += 1
        if old is not None and len(load) > 1 and old.worker in load:
            load[old.worker] += len(self._hands)  # what was lost there is best not tried there again
        worker = min(load, key=lambda address: (load[address], address))
        self._places[number] = _Place(worker, self._submit(worker, Slot))
        try:
            hand = self._connected().scatter([self._hands[number]], workers=[worker], hash=False, timeout=POLL)[0]
        except (OSError, TimeoutError):
            return self._submit(worker, _lost)
        return self._submit(worker, replay, self._places[number].slot, hand, self._budget, list(self._calls))

    def _submit(self, worker: str, function: Any, *arguments: Any) -> Future:
        return self._connected().submit(function, *arguments, workers=[worker], pure=False)

    def _connected(self) -> Client:
        assert self._client is not None
        return self._client

    def _living(self, *, wait: bool = False) -> list[str]:
        """Addresses of the workers that take work, in order; at least one if asked to wait."""
        client = self._connected()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                workers = client.scheduler_info(n_workers=-1)["workers"] if client.status == "running" else None
            except (OSError, TimeoutError, KeyError):  # without a connection, nothing is known
                workers = None
            if workers is None:
                raise GraphoptError("the dask scheduler has gone")
            living = sorted(address for address, worker in workers.items() if worker["status"] == "running")
            if living or not wait:
                return living
            if time.monotonic() > end:
                raise GraphoptError("the dask cluster has no worker that takes work")
            time.sleep(POLL)


def _lost() -> str:
    return _LOST


def _outcome(future: Future, patience: float) -> Any:
    """What a finished task says; that it is lost, if its answer is; that it is late, if that does not arrive."""
    try:
        return future.result(timeout=patience)
    except TimeoutError:
        return _LATE
    except (CancelledError, KilledWorker, OSError):
        return _LOST
