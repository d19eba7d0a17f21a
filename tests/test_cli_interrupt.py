"""Interrupting commands: whatever the moment, files are as they were or complete, and nothing else is left behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from graphopt.cli.environment import Exit
from tests.test_cli_models import hard_swish

ROOT = Path(__file__).parent.parent
STOPPED = {int(Exit.INTERRUPTED), -signal.SIGINT, -signal.SIGTERM}
"""Before Python has read our code, a signal ends the process by itself: a shell reports 130 for that, too."""
MOMENTS = 4
AT_ONCE = 10
"""Seconds to end in, on a machine that is busy with other things."""


def start(folder: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "graphopt", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def interrupted_at(folder: Path, words: list[str], delay: float, number: int, whole_group: bool) -> tuple[int, bytes]:
    """Run a command and stop it after the delay. A terminal signals the whole group, ``kill`` only the command."""
    with start(folder, words) as process:
        time.sleep(delay)
        if process.poll() is None:
            (os.killpg if whole_group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=AT_ONCE)
        assert left_running(process.pid) == []
        return process.returncode, errors


def left_running(session: int) -> list[str]:
    """Commands of a session's processes, after a moment to end."""
    end = time.monotonic() + AT_ONCE
    while True:
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = status.read_text().rpartition(")")
            except OSError:  # it has just ended
                continue
            state, _, _, its_session, *_ = rest.split()
            if int(its_session) == session and state != "Z":
                found.append(name)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, factor in (("one", 0.5), ("two", 0.25), ("three", 0.75)):
        onnx.save(hard_swish(name, factor), folder / f"{name}.onnx")
    return folder


def moments(count: int, seconds: float) -> list[tuple[float, int, bool]]:
    generator = random.Random(0)
    kinds = [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)]
    return [(generator.uniform(0.05, 1.0) * seconds, *kinds[i % len(kinds)]) for i in range(count)]


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    return 60 if request.config.getoption("--slow") else MOMENTS


def check(folder: Path, words: list[str], outputs: tuple[str, ...], count: int, deterministic: bool) -> None:
    before = content(folder)
    began = time.monotonic()
    with start(folder, words) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == Exit.DONE, errors.decode()
    seconds = time.monotonic() - began
    complete = content(folder)
    for name in outputs:
        (folder / name).write_bytes(b"old")
    untouched = content(folder)
    for delay, number, whole_group in moments(count, seconds):
        code, errors = interrupted_at(folder, words, delay, number, whole_group)
        left = content(folder)
        assert set(left) == set(untouched), f"after {delay:.2f} s"
        assert b"Traceback" not in errors, errors.decode()
        if code in STOPPED:
            assert errors == b""
        else:
            assert code == Exit.DONE, errors.decode()
        changed = {name for name in left if left[name] != untouched[name]}
        assert changed in (set(), set(outputs)), f"after {delay:.2f} s"
        if changed and deterministic:
            assert left == complete
        for name in changed:
            (folder / name).write_bytes(b"old")
    assert {name: data for name, data in content(folder).items() if name not in outputs} == before


@pytest.mark.parametrize("engine", ["processes", "serial", "dask"])
def test_interrupting_mine(corpus: Path, tmp_path: Path, count: int, engine: str) -> None:
    words = ["mine", str(corpus), "--jobs", "2", "--engine", engine, "-o", "opportunities.json"]
    check(tmp_path, words, ("opportunities.json",), count, deterministic=True)


def test_interrupting_workers_at_work(sample_graphs: Path, tmp_path: Path) -> None:
    """They are killed in the middle of a level."""
    for name in ("dlrm", "mobilenet_v3_large"):
        shutil.copy(sample_graphs / f"{name}.onnx", tmp_path)
    words = ["mine", str(tmp_path), "--view", "raw", "--max-size", "40", "--engine", "processes", "--jobs", "2"]
    with start(tmp_path, words) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and not any(
            b"engine_processes" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split()
        ):
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=AT_ONCE)
        assert (process.returncode, errors) == (Exit.INTERRUPTED, b"")
        assert left_running(process.pid) == []


def test_interrupting_apply(corpus: Path, tmp_path: Path, count: int) -> None:
    words = ["apply", str(corpus / "one.onnx"), "--accept", "all", "-o", "fused.onnx"]
    outputs = ("fused.onnx", "fused.c", "fused.so", "fused.plan.json")
    check(tmp_path, words, outputs, count, deterministic=False)
