"""A service under load that is killed at random moments: what it flushed is whole, and nothing is made up."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from graphopt import store
from tests.command_line import CommandLine
from tests.test_corpus import mlp

ROOT = Path(__file__).parent.parent
FLUSH_SECONDS = 0.15
CLIENTS = 6


@dataclass
class Load:
    """What clients sent, and who answered when.

    Attributes:
        sent: requests by batch size, counted before they are sent.
        answered: process of the worker, batch size, and moment of each answer.
    """

    sent: Counter[int] = field(default_factory=Counter)
    answered: list[tuple[int, int, datetime]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def client(self, port: int, seed: int) -> None:
        """Send requests until the service is gone."""
        generator = random.Random(seed)
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                for _ in range(20):  # then another worker may get the connection
                    size = generator.randint(1, 3)
                    with self.guard:
                        self.sent[size] += 1
                    connection.request("POST", "/", body=str(size))
                    worker = int(connection.getresponse().read())
                    now = datetime.now(UTC)
                    with self.guard:
                        self.answered.append((worker, size, now))
            except (OSError, http.client.HTTPException, ValueError):
                return
            finally:
                connection.close()


def run_and_kill(model: Path, fleet: Path, load: Load, generator: random.Random) -> None:
    """Start the service, load it, and kill all of its processes at a random moment."""
    service = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "observed_service.py", model, fleet, str(FLUSH_SECONDS)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert service.stdout is not None
        port = int(service.stdout.readline())
        clients = [
            threading.Thread(target=load.client, args=(port, generator.randrange(10**9))) for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        if generator.random() < 0.8:  # on a busy machine, a first flush takes its time
            before = len(store.open(fleet).captured.names())
            deadline = time.monotonic() + 30
            while len(store.open(fleet).captured.names()) == before and time.monotonic() < deadline:
                time.sleep(0.02)
        time.sleep(generator.uniform(0.0, 1.0))
    finally:
        os.killpg(service.pid, signal.SIGKILL)
        service.wait()
    for client in clients:
        client.join()


def check(fleet: Path, load: Load) -> None:
    corpus = store.open(fleet)
    total: Counter[int] = Counter()
    by_worker: Counter[tuple[int, int]] = Counter()
    flushed: dict[int, datetime] = {}
    for name in corpus.captured.names():
        table, _ = corpus.captured.read(name)  # raises if it is torn
        worker = int(name.split("-")[-3])
        for row in table.to_pylist():
            ((size, width),) = json.loads(row["shapes"])
            assert width == 32
            assert row["executions"] > 0
            total[size] += row["executions"]
            by_worker[worker, size] += row["executions"]
            flushed[worker] = max(row["end"], flushed.get(worker, row["end"]))
    assert all(total[size] <= load.sent[size] for size in total), (total, load.sent)
    # Whatever a worker answered before its last flush began is in there.
    answered = Counter((worker, size) for worker, size, at in load.answered if at < flushed.get(worker, at))
    assert all(by_worker[key] >= count for key, count in answered.items())
    # What is missing was answered by workers that were killed before they flushed it.
    missing = len(load.answered) - sum(total.values())
    tail = sum(at >= flushed.get(worker, at) for worker, _, at in load.answered)
    assert missing <= tail
    for graph in corpus.graphs():
        corpus.graph(graph)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_service_that_is_killed(tmp_path: Path, graphopt: CommandLine, kills: int) -> None:
    (tmp_path / "model.onnx").write_bytes(mlp().SerializeToString())
    generator = random.Random(kills)
    load = Load()
    for _ in range(kills):
        run_and_kill(tmp_path / "model.onnx", tmp_path / "fleet", load, generator)
        check(tmp_path / "fleet", load)
    outcome = graphopt("mine", tmp_path / "fleet", "--view", "raw", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["graphs"] == 1
    assert found["executions"] <= sum(load.sent.values())
    assert outcome.err == ""
    assert found["executions"] > 0.2 * len(load.answered)  # most was flushed
