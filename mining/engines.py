"""Engines by name: where shards live."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from graphopt.errors import GraphoptError
from graphopt.mining.engine import Engine, Numbered, answer, dealt
from graphopt.mining.engine_processes import Processes
from graphopt.mining.graphs import MiningGraph
from graphopt.mining.shard import Shard

if TYPE_CHECKING:
    from distributed import Client

NAMES = ("processes", "serial", "dask")
"""Engines: worker processes on this machine, this process, the workers of a dask.distributed cluster."""


def open_engine(
    name: str,
    graphs: Sequence[MiningGraph],
    *,
    jobs: int | None,
    budget: int,
    scheduler: "str | Client | None" = None,
) -> Engine:
    """An engine that holds the graphs.

    Args:
        name: one of NAMES.
        graphs: distinct graphs; a graph's position is its index.
        jobs: number of worker processes on this machine; as many as this process may use processors when None.
        budget: see Shard.
        scheduler: for ``dask``: the address of a scheduler, or a client, whose workers are used, all of them; worker
            processes on this machine when None.

    Raises:
        GraphoptError: there is no engine of this name, or it is not installed, or the number of jobs is below one.
    """
    if name not in NAMES:
        raise GraphoptError(f"there is no mining engine {name!r}; there are: {', '.join(NAMES)}")
    if jobs is not None and jobs < 1:
        raise GraphoptError(f"the number of jobs must be at least 1, not {jobs}")
    if scheduler is not None and name != "dask":
        raise GraphoptError(f"a scheduler is for the mining engine 'dask', not for {name!r}")
    numbered = list(enumerate(graphs))
    jobs = min(jobs or len(os.sched_getaffinity(0)), max(len(graphs), 1))
    if name == "dask":
        try:
            from graphopt.mining.engine_dask import Dask
        except ImportError:
            raise GraphoptError(
                "the mining engine 'dask' needs dask.distributed: pip install 'graphopt[dask]'"
            ) from None
        return Dask(numbered, budget, jobs=jobs, scheduler=scheduler)
    if name == "processes" and jobs > 1:
        return Processes(dealt(numbered, jobs), budget)
    return Serial(numbered, budget)


class Serial:
    """One shard, in this process."""

    def __init__(self, graphs: Numbered, budget: int) -> None:
        self._shard = Shard(graphs, budget)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The result of the one shard."""
        return [answer(self._shard, method, arguments)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
