"""Observed corpora in object storage: an S3 server on this machine, written by sessions, read by the miner."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from graphopt import store
from graphopt.errors import GraphoptError
from tests.command_line import CommandLine
from tests.test_corpus import mlp

moto_server = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

ROOT = Path(__file__).parent.parent
BUCKET = "graphopt-test"
WRITERS = 2


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an S3 server that lives as long as this file's tests."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def fleet(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty corpus."""
    for key, value in credentials(endpoint).items():
        monkeypatch.setenv(key, value)
    filesystem = fsspec.filesystem("s3")
    if filesystem.exists(BUCKET):
        filesystem.rm(BUCKET, recursive=True)
    filesystem.mkdir(BUCKET)
    return f"s3://{BUCKET}/fleet"


def credentials(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


def test_from_sessions_to_opportunities(fleet: str, endpoint: str, tmp_path: Path, graphopt: CommandLine) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            import numpy as np
            import onnxruntime
            session = onnxruntime.InferenceSession(sys.argv[1])
            for _ in range(5):
                session.run(None, {"x": np.ones((int(sys.argv[2]), 32), np.float32)})
            """
        )
    )
    (tmp_path / "m.onnx").write_bytes(mlp().SerializeToString())
    environment = {**os.environ, **credentials(endpoint), "PYTHONPATH": str(ROOT), "GRAPHOPT_CORPUS": fleet}
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "graphopt.observe", program, tmp_path / "m.onnx", "2"],
            env=environment,
        )
        for _ in range(WRITERS)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * WRITERS
    corpus = store.open(fleet)
    assert len(corpus.captured.names()) == WRITERS
    table = corpus.captured.total()
    assert [table.column(name).to_pylist() for name in ("shapes", "executions")] == [["[[2,32]]"], [5 * WRITERS]]
    outcome = graphopt("mine", fleet, "--view", "raw", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["graphs"], found["executions"], outcome.err) == (1, 5 * WRITERS, "")


def test_a_bucket_that_is_not_there(fleet: str, graphopt: CommandLine) -> None:
    assert fleet
    outcome = graphopt("mine", "s3://no-such-bucket/fleet")
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) == 1
    with pytest.raises(GraphoptError, match="no-such-bucket"):
        store.open("s3://no-such-bucket/fleet").put_graph(mlp())
