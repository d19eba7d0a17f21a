"""Engines: wherever shards live, and whatever becomes of the workers, the result is the same."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

from graphopt.errors import GraphoptError
from graphopt.mining import MiningResult, mine
from graphopt.mining.engines import open_engine
from graphopt.mining.graphs import from_any
from graphopt.mining.tallies import Tallies, combined

distributed = pytest.importorskip("distributed")
engine_dask = pytest.importorskip("graphopt.mining.engine_dask")


def corpus() -> list[tuple[nx.MultiDiGraph, int]]:
    chance = random.Random(5)
    graphs = []
    for _ in range(12):
        graph = nx.gnp_random_graph(14, 0.15, seed=chance.randrange(1000), directed=True)
        dag = nx.MultiDiGraph((a, b, {"slot": (a + b) % 2}) for a, b in graph.edges if a < b)
        nx.set_node_attributes(dag, {node: "ab"[node % 2] for node in dag}, "label")
        graphs.append((dag, chance.randrange(1, 4)))
    return graphs


def written(result: MiningResult) -> bytes:
    """All that a result says, in bytes."""
    rows = [(p.digest, p.labels, p.edges, p.support, p.occurrences, p.closed, list(p.found())) for p in result]
    # pickle would tell equal tuples from one that is shared
    return repr((rows, result.weight, result.min_support, result.index, result.truncated)).encode()


ARGUMENTS = {"min_support": 2, "max_size": 6}


@pytest.fixture(scope="module")
def expected() -> bytes:
    result = mine(corpus(), engine="serial", **ARGUMENTS)
    assert len(result) > 20
    return written(result)


@pytest.fixture
def cluster() -> Iterator["distributed.LocalCluster"]:
    settings = {"n_workers": 3, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(silence_logs=50, **settings) as running:
        yield running


def test_dask_and_a_worker_that_is_killed_in_mid_run(cluster: "distributed.LocalCluster", expected: bytes) -> None:
    assert written(mine(corpus(), engine="dask", scheduler=cluster.scheduler_address, **ARGUMENTS)) == expected
    workers = [worker.process.pid for worker in cluster.workers.values()]
    killed = []

    def kill(size: int, *_: object) -> None:
        if size in (2, 4):
            os.kill(workers[size // 2], signal.SIGKILL)
            killed.append(size)

    with distributed.Client(cluster) as client:
        result = mine(corpus(), engine="dask", scheduler=client, progress=kill, **ARGUMENTS)
        assert killed == [2, 4]
        assert written(result) == expected
        assert client.status == "running"


def listed(tallies: list[Tallies]) -> list[list]:
    """All that shards say about patterns, but in how many shards they are."""
    return [column.tolist() for name, column in combined(tallies)._asdict().items() if name != "shards"]


def test_dask_while_workers_answer(cluster: "distributed.LocalCluster") -> None:
    """A worker that dies during a call, and one that leaves and hands over what it holds."""
    graphs = [from_any(item) for item in corpus()]
    with open_engine("serial", graphs, jobs=1, budget=10_000) as engine:
        first = engine.call("start")
        engine.call("grow", first[0].keys, True)
        second = engine.call("tally")
        engine.call("grow", second[0].keys, True)
        third = engine.call("tally")
    workers = [worker.process.pid for worker in cluster.workers.values()]
    with distributed.Client(cluster) as client:
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        with open_engine("dask", graphs, jobs=None, budget=10_000, scheduler=client) as engine:
            answers = engine.call("start")
            assert len(answers) == 3
            assert listed(answers) == listed(first)
            client.retire_workers([addresses[0]])
            engine.call("grow", first[0].keys, True)
            assert listed(engine.call("tally")) == listed(second)
            kill = threading.Timer(0.01, os.kill, (workers[1], signal.SIGKILL))
            kill.start()
            engine.call("grow", second[0].keys, True)
            assert listed(engine.call("tally")) == listed(third)
            kill.join()


@pytest.mark.slow
def test_workers_that_are_killed_at_any_moment(expected: bytes) -> None:
    chance = random.Random(0)
    for _ in range(12):
        settings = {"n_workers": 3, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(silence_logs=50, **settings) as running:
            workers = [worker.process.pid for worker in running.workers.values()]
            timers = [
                threading.Timer(chance.uniform(0, 0.8), os.kill, (worker, signal.SIGKILL))
                for worker in chance.sample(workers, chance.randrange(1, 4))
            ]
            for timer in timers:
                timer.start()
            result = mine(corpus(), engine="dask", scheduler=running.scheduler_address, **ARGUMENTS)
            assert written(result) == expected
            for timer in timers:
                timer.join()


def test_a_dask_cluster_of_our_own(expected: bytes) -> None:
    assert written(mine(corpus(), engine="dask", jobs=2, **ARGUMENTS)) == expected


def test_a_worker_whose_graphs_hold_nothing() -> None:
    graph = nx.DiGraph([(0, 1)])
    nx.set_node_attributes(graph, {0: "a", 1: "b"}, "label")
    (found,) = mine([graph, nx.DiGraph()], engine="processes", jobs=2, max_size=12)
    assert (found.labels, found.support) == (("a", "b"), 1)


def test_a_dask_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_dask, "CONNECTING", 0.5)
    with pytest.raises(GraphoptError, match="cannot reach the dask scheduler tcp"):
        mine(corpus(), engine="dask", scheduler="tcp://127.0.0.1:1")


def test_what_a_shard_raises_is_raised(cluster: "distributed.LocalCluster") -> None:
    graphs = [from_any(item) for item in corpus()]
    with (
        open_engine("dask", graphs, jobs=None, budget=1000, scheduler=cluster.scheduler_address) as engine,
        pytest.raises(AttributeError, match="shrink"),
    ):
        engine.call("shrink")


def test_a_scheduler_is_for_dask() -> None:
    with pytest.raises(GraphoptError, match="dask"):
        mine(corpus(), engine="serial", scheduler="tcp://127.0.0.1:1")


def test_a_dask_scheduler_that_ends_in_mid_run() -> None:
    def kill(*_: object) -> None:
        (child,) = clusters_of_our_own()
        os.killpg(child, signal.SIGKILL)

    with pytest.raises(GraphoptError, match="the dask scheduler has gone"):
        mine(corpus(), engine="dask", jobs=2, progress=kill)


def clusters_of_our_own() -> list[int]:
    """Process groups of our own clusters that run now."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"own_cluster" in Path(f"/proc/{pid}/cmdline").read_bytes()]
