"""A dask cluster of our own, on this machine: a process of its own group, so that it ends at once and whole."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import graphopt
from graphopt.errors import GraphoptError


class OwnCluster:
    """A scheduler and worker processes; all of them end when this is left, or when this process dies.

    Args:
        workers: how many worker processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        root = str(Path(graphopt.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from graphopt.mining.own_cluster import serve; serve()", str(self._workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            process_group=0,  # an interrupt from the terminal is for us, and we end it
            text=True,
        )
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                raise GraphoptError("cannot start a dask cluster on this machine")
            self.address = json.loads(line)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def serve() -> None:
    """What the process does: start the cluster, say its address, and end with all its workers when stdin is closed."""

    def end() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    from distributed import LocalCluster

    cluster = LocalCluster(
        n_workers=int(sys.argv[1]),
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )
    print(json.dumps(cluster.scheduler_address), flush=True)
    threading.Event().wait()
