"""Compaction beside writers, readers and other compactions, stopped anywhere: no capture is lost or counted twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest

from graphopt import store
from graphopt.errors import GraphoptError
from graphopt.store import compaction, rows
from graphopt.store.compaction import CLAIMS, Compaction
from graphopt.store.tables import to_parquet
from tests.stepped_folder import Killed, SteppedFolder, Turns
from tests.test_store import NOON, put, row

ROOT = Path(__file__).parent.parent
SECOND = timedelta(seconds=1)
NOW = timedelta(0)
"""A claim's life with which every claim of others is void: where they are known to be dead."""


def compact(fleet: store.ObservedCorpus, claim_life: timedelta = compaction.CLAIM_LIFE) -> Compaction:
    """What compaction does to captures."""
    return compaction.compact(fleet, claim_life=claim_life)["captures"]


def fleet_of(files: int, folder: SteppedFolder | None = None) -> store.ObservedCorpus:
    """A corpus of so many files with one capture each, of a shape of its own."""
    fleet = store.ObservedCorpus(folder or SteppedFolder())  # type: ignore[arg-type]
    for index in range(files):
        append(fleet, index)
    return fleet


def append(fleet: store.ObservedCorpus, index: int) -> None:
    put(fleet, row("0" * 64, ((index,),), 1))


def counts(fleet: store.ObservedCorpus) -> dict[int, int]:
    """How often each capture counts."""
    found = fleet.captured.total().to_pylist()
    return {int(one["shapes"].strip("[]")): one["executions"] for one in found}


def names(fleet: store.ObservedCorpus, folder: str = store.CAPTURES.folder) -> list[str]:
    return fleet.folder.names(folder, "")


def test_many_files_become_one() -> None:
    fleet = fleet_of(5)
    put(fleet, row("0" * 64, ((0,),), 7), row("1" * 64, ((0,),), 2))
    expected = fleet.captured.total()
    done = compact(fleet)
    assert (done.replaced, done.rows_before, done.rows_after, done.deleted) == (6, 7, 6, 6)
    assert names(fleet) == [done.file]
    assert names(fleet, CLAIMS) == []
    assert fleet.captured.total().equals(expected)
    assert compact(fleet).file is None
    append(fleet, 99)
    again = compact(fleet)
    assert (again.replaced, names(fleet)) == (2, [again.file])
    assert counts(fleet)[99] == 1


def test_a_broken_file_stays() -> None:
    fleet = fleet_of(3)
    fleet.folder.write("captures/a.parquet", b"torn")
    done = compact(fleet)
    assert (done.replaced, len(done.problems), names(fleet)) == (3, 1, ["a.parquet", done.file])
    assert "a.parquet: not a table" in done.problems[0]


@pytest.mark.parametrize("leftovers", [0, 2])
def test_compaction_can_be_killed_at_any_access(leftovers: int) -> None:
    """Before and after each access of a compaction: the counts are right, and the next compaction ends the work."""
    survived = 0
    while True:
        fleet = fleet_of(4)
        if leftovers:  # of a compaction that was killed while it deleted
            kept = {path: content for path, content in fleet.folder.files.items() if path.startswith("captures/")}  # type: ignore[attr-defined]
            compact(fleet)
            fleet.folder.files.update(list(kept.items())[:leftovers])  # type: ignore[attr-defined]
            append(fleet, 50)
        expected = counts(fleet)
        folder = fleet.folder
        left = survived

        def step() -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1

        try:
            with mock.patch.object(folder, "_step", step):
                compact(fleet)
            break
        except Killed:
            pass
        assert counts(fleet) == expected
        append(fleet, 60)
        done = compact(fleet, claim_life=NOW)
        assert counts(fleet) == {**expected, 60: 1}
        assert names(fleet) == [done.file]
        survived += 1
    assert survived > 15


def test_a_claim_keeps_others_away() -> None:
    fleet = fleet_of(3)
    with mock.patch.object(rows.Rows, "added_up", side_effect=Killed), pytest.raises(Killed):
        compact(fleet)
    assert names(fleet, CLAIMS) == []  # whoever can still clean up does
    with mock.patch.object(rows.Rows, "remove", side_effect=Killed), pytest.raises(Killed):
        compact(fleet)
    assert len(names(fleet, CLAIMS)) == 1
    append(fleet, 7)
    assert compact(fleet).replaced == 2  # that claim is for files that no longer count
    (claim,) = names(fleet, CLAIMS)
    fleet.folder.write(f"{CLAIMS}/{claim}", b"what is this?")
    append(fleet, 8)
    with pytest.raises(GraphoptError, match="another compaction is at work"):
        compact(fleet)
    assert names(fleet, CLAIMS) == [claim]
    assert compact(fleet, claim_life=NOW).replaced == 2
    assert names(fleet, CLAIMS) == []
    assert counts(fleet) == {0: 1, 1: 1, 2: 1, 7: 1, 8: 1}


@pytest.mark.parametrize("others", [1, 2])
def test_a_compaction_that_is_late_takes_its_file_back(others: int) -> None:
    """It is suspended before it writes; meanwhile another one takes over, and maybe a third goes on from there."""
    fleet = fleet_of(3)
    expected = counts(fleet)
    write, age = fleet.folder.write, compaction.age
    void: list[str] = []

    def suspended(path: str, content: bytes) -> None:
        if path.startswith("captures/") and not void:
            void.extend(names(fleet, CLAIMS))
            for index in range(others):
                append(fleet, 10 + index)
                expected[10 + index] = 1
                compact(fleet)
        write(path, content)

    with (
        mock.patch.object(fleet.folder, "write", suspended),
        mock.patch.object(compaction, "age", lambda name: 1.1 * compaction.CLAIM_LIFE if name in void else age(name)),
        pytest.raises(GraphoptError, match="took too long"),
    ):
        compact(fleet)
    assert counts(fleet) == expected
    assert len(names(fleet)) == 1


def test_what_counts_twice_is_not_compacted() -> None:
    fleet = fleet_of(2)
    table, old = fleet.captured.total(), names(fleet)
    for name in "ab":
        fleet.captured.write(f"{store.COMPACTED}{name}.parquet", to_parquet(table, old if name == "a" else old[:1]))
    with pytest.raises(GraphoptError, match="both stand for it"):
        compact(fleet)


def test_operator_times_are_compacted() -> None:
    fleet = fleet_of(1)
    times = [
        store.OperatorTime("0" * 64, ((1,),), node, "n", "Relu", 0.25, 2, NOON + second * SECOND, "1.31.1")
        for second, node in enumerate([None, 0, 1, None, 1])
    ]
    for time_of in times:
        fleet.sampled.append(store.PROFILES.table([time_of]))
    expected = store.PROFILES.table(
        store.OperatorTime("0" * 64, ((1,),), node, "n", "Relu", seconds, 8 * seconds, NOON + second * SECOND, "1.31.1")
        for node, seconds, second in ((0, 0.25, 1), (1, 0.5, 2), (None, 0.5, 0))
    )
    done = compaction.compact(fleet)
    assert (done["captures"].file, done["profiles"].replaced) == (None, 5)
    assert names(fleet, "profiles") == [done["profiles"].file]
    assert fleet.sampled.total().equals(expected)


class OneAfterTheOther:
    """A pool of no threads."""

    def __init__(self, workers: int) -> None:
        assert workers > 0

    def __enter__(self) -> "OneAfterTheOther":
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def map(self, function: Callable[[str], object], items: Iterable[str]) -> Iterator[object]:
        return map(function, items)


def test_a_listing_that_misses_a_compaction() -> None:
    """The second listing looks where the compacted file will be, then one old file is deleted, then it looks on."""
    fleet = fleet_of(2)
    old = names(fleet)
    contents = dict(fleet.folder.files)  # type: ignore[attr-defined]
    compact(fleet)
    fleet.folder.files[f"captures/{old[0]}"] = contents[f"captures/{old[0]}"]  # type: ignore[attr-defined]
    listings = iter([old, old[:1], names(fleet), names(fleet)])
    with mock.patch.object(fleet.folder, "names", lambda folder, suffix: next(listings)):
        assert counts(fleet) == {0: 1, 1: 1}


@pytest.mark.parametrize("part", range(2))
def test_any_order_of_accesses_counts_right(part: int) -> None:
    """Two compactions (one may be killed), a writer and two readers take turns in any order, listings in pages."""
    for seed in range(part * 40, part * 40 + 40):
        take_turns(random.Random(seed))


def take_turns(generator: random.Random) -> None:
    folder = SteppedFolder()
    fleet = fleet_of(generator.randint(2, 4), folder)
    if generator.random() < 0.5:
        compact(fleet)
        append(fleet, 10)
    before = set(counts(fleet))
    written: set[int] = set()
    seen: list[tuple[set[int], dict[int, int]]] = []

    def write() -> None:
        for index in (20, 21):
            append(fleet, index)
            written.add(index)

    def read() -> None:
        there = before | written
        seen.append((there, counts(fleet)))

    bursts = generator.choice([0.0, 0.7, 0.9])  # how likely it is that the same one goes on
    last = ""

    def choose(ready: list[str]) -> str:
        nonlocal last
        last = last if last in ready and generator.random() < bursts else generator.choice(ready)
        return last

    deaths = {"first": generator.randrange(30)} if generator.random() < 0.4 else {}
    folder.turns = Turns(choose, deaths)
    with mock.patch.object(rows, "ThreadPoolExecutor", OneAfterTheOther):
        work = {"first": lambda: compact(fleet), "second": lambda: compact(fleet), "write": write, "a": read, "b": read}
        folder.turns.run(work)
    folder.turns = None
    everything = dict.fromkeys(before | {20, 21}, 1)
    assert len(seen) == 2
    for there, found in seen:
        assert there <= set(found) <= set(everything)
        assert set(found.values()) == {1}
    assert counts(fleet) == everything
    compact(fleet, claim_life=NOW)
    assert counts(fleet) == everything
    assert len(names(fleet)) == 1


WRITER = """
import sys; from graphopt import store; from tests.test_compaction import append
fleet = store.open(sys.argv[1])
for index in range(int(sys.argv[2]), int(sys.argv[2]) + 12): append(fleet, index); print(index, flush=True)
"""
COMPACTOR = """
import sys; from datetime import timedelta; from graphopt import store; from graphopt.store.compaction import compact
fleet = store.open(sys.argv[1]); print("ready", flush=True)
while True: compact(fleet, claim_life=timedelta(seconds=0.02))
"""


def test_processes_that_are_killed(tmp_path: Path) -> None:
    """Writers, and compactions killed with SIGKILL one after the other, while this process reads."""
    generator = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(code: str, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path), *map(str, words)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    writers = [start(WRITER, first) for first in (0, 100)]
    fleet = store.open(tmp_path)
    kills = 0
    while kills < 3 or any(writer.poll() is None for writer in writers):
        with start(COMPACTOR) as compactor:
            assert compactor.stdout is not None
            compactor.stdout.readline()
            time.sleep(generator.uniform(0, 0.2))
            assert set(counts(fleet).values()) <= {1}
            compactor.send_signal(signal.SIGKILL)
        kills += 1
        time.sleep(0.03)  # its claim is void
        assert set(counts(fleet).values()) <= {1}
    for writer in writers:
        assert writer.wait() == 0
        assert writer.stdout is not None
        writer.stdout.close()
    expected = dict.fromkeys([*range(12), *range(100, 112)], 1)
    assert counts(fleet) == expected
    done = compact(fleet, claim_life=NOW)
    assert counts(fleet) == expected
    assert [path.name for path in (tmp_path / "captures").glob("[!.]*")] == ([done.file] if done.file else names(fleet))
