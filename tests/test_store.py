"""Observed corpora: what writers append is what readers find, beside other writers, readers and compaction."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import corpus, store, weights
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.store import tables
from tests.test_corpus import add, mlp

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(
    graph: str, shapes: tuple[Shape | None, ...], executions: int, *, second: int = 0, name: str = "m"
) -> store.Capture:
    start = NOON + timedelta(seconds=second)
    return store.Capture(graph, name, shapes, executions, start, start + timedelta(seconds=1), "1.31.1")


def put(fleet: store.ObservedCorpus, *captures: store.Capture) -> str:
    """Append captures in a file of their own; returns its name."""
    return fleet.captured.append(store.CAPTURES.table(captures))


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return str(tmp_path / "fleet") if request.param == "folder" else (tmp_path / "fleet").as_uri()


def test_what_is_put_is_found(place: str) -> None:
    fleet = store.open(place)
    assert (fleet.graphs(), fleet.captured.total().num_rows) == ([], 0)
    found = fleet.put_graph(mlp())
    assert fleet.put_graph(weights.drop_weights(mlp("other"))) == found == digest(mlp())
    assert fleet.graphs() == [found]
    assert weights.has_dropped_weights(fleet.graph(found))
    put(fleet, row(found, ((4, 32),), 3), row(found, ((8, 32), None), 5))
    put(fleet, row(found, ((4, 32),), 2**40, second=7, name="a"))
    assert fleet.captured.total().to_pylist() == [
        {**vars(row(found, (), 3 + 2**40, name="a")), "shapes": "[[4,32]]", "end": NOON + timedelta(seconds=8)},
        {**vars(row(found, (), 5)), "shapes": "[[8,32],null]"},
    ]


def test_an_observed_corpus_loads_and_mines(place: str, graphopt) -> None:  # type: ignore[no-untyped-def]
    fleet = store.open(place)
    first, second = fleet.put_graph(mlp()), fleet.put_graph(mlp(operator="Tanh"))
    put(fleet, row(first, ((4, 32),), 3, name="same"), row(second, ((4, 32),), 5, name="same"))
    put(fleet, row(first, ((4, 32),), 10, name="same"), row(first, ((2, 32),), 1, name="same"))
    loaded = corpus.load(place, view="raw")
    assert loaded.problems == ()
    assert sorted((c.graph.name, c.executions, c.shapes["x"]) for c in loaded.captures) == sorted(
        [
            (f"same-{first[:8]}", 13, (4, 32)),
            (f"same-{first[:8]}", 1, (2, 32)),
            (f"same-{second[:8]}", 5, (4, 32)),
        ]
    )
    outcome = graphopt("mine", place, "--view", "raw", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["executions"] == 19


def test_a_folder_can_be_both_kinds(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(mlp().SerializeToString())
    add(tmp_path / "fleet", source, {"x": (4, 32)}, executions=3)
    fleet = store.open(tmp_path / "fleet")
    put(fleet, row(fleet.put_graph(mlp()), ((4, 32),), 4))
    loaded = corpus.load(tmp_path / "fleet", view="raw")
    assert ([capture.executions for capture in loaded.captures], loaded.problems) == ([7], ())


def test_what_is_wrong_is_said_and_the_rest_is_used(tmp_path: Path) -> None:
    fleet = store.open(tmp_path)
    good, gone = fleet.put_graph(mlp()), fleet.put_graph(mlp(operator="Tanh"))
    put(fleet, row(good, ((4, 32),), 3), row(gone, ((4, 32),), 1), row(good, ((4, 32), ()), 1))
    (tmp_path / "graphs" / f"{gone}.onnx").unlink()
    (tmp_path / "captures" / "torn.parquet").write_bytes(b"PAR1 torn")
    other = pa.table({"graph": ["x"]}).replace_schema_metadata({"schema_version": "2"})
    pa.parquet.write_table(other, tmp_path / "captures" / "version.parquet")
    loaded = corpus.load(tmp_path, view="raw")
    assert [(capture.executions, capture.shapes["x"]) for capture in loaded.captures] == [(3, (4, 32))]
    text = "\n".join(loaded.problems)
    for part in ("torn.parquet: not a table", "version.parquet: schema_version is '2'", "no such graph", "2 inputs"):
        assert part in text, part
    assert len(loaded.problems) == 4
    with pytest.raises(GraphoptError, match=r"(torn|version)\.parquet"):
        fleet.captured.total()
    with pytest.raises(GraphoptError, match="not the digest"):
        fleet.graph("../../etc/passwd")


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="nonsense://there: cannot be opened"):
        store.open("nonsense://there")
    with pytest.raises(GraphoptError, match="no models in it"):
        corpus.load("memory://empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(GraphoptError, match="cannot"):
        store.open(tmp_path / "file").put_graph(mlp())


def test_graphs_hold_no_weights_and_external_data_is_not_read(tmp_path: Path) -> None:
    model = mlp()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="not there")
    fleet = store.open(tmp_path)
    assert fleet.put_graph(model) == digest(mlp())


# ------------------------------------------------------------------------------------------------------ compaction


def compact(fleet: store.ObservedCorpus, names: list[str], *, remove: int) -> str:
    """What compaction does to some files, up to the removal of so many of them."""
    read = [fleet.captured.read(name) for name in names]
    covered = set().union(*(replaces for _, replaces in read)) & set(fleet.captured.names())
    content = tables.to_parquet(store.CAPTURES.together([table for table, _ in read]), covered.union(names))
    name = store.COMPACTED + store.file_name()
    fleet.folder.write(f"{store.CAPTURES.folder}/{name}", content)
    for gone in names[:remove]:
        fleet.folder.remove(f"{store.CAPTURES.folder}/{gone}")
    return name


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_nothing_counts_twice_however_far_compaction_came(counts: list[int], data: st.DataObject) -> None:
    fsspec.filesystem("memory").store.clear()
    fleet = store.open("memory://compaction")
    names = [put(fleet, row("0" * 64, ((count,),), count)) for count in counts]
    for _ in range(data.draw(st.integers(1, 3))):
        chosen = names[: data.draw(st.integers(1, len(names)))]
        names = [*names[len(chosen) :], compact(fleet, chosen, remove=data.draw(st.integers(0, len(chosen))))]
        assert sum(fleet.captured.total().column("executions").to_pylist()) == sum(counts)


def test_readers_beside_writers_and_compaction(tmp_path: Path) -> None:
    """A reader sees each append that was done before it began, and nothing twice, while files are replaced."""
    fleet = store.open(tmp_path)
    written = [0]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            put(fleet, row("0" * 64, ((1,),), 1))
            written[0] += 1
            time.sleep(0.002)

    def compact_all() -> None:
        while not stop.is_set():
            if len(names := fleet.captured.names()) > 1:
                compact(fleet, names, remove=len(names))
            time.sleep(0.02)

    threads = [threading.Thread(target=write), threading.Thread(target=compact_all)]
    for thread in threads:
        thread.start()
    try:
        seen = 0
        for _ in range(25):
            before = written[0]
            seen = sum(fleet.captured.total().column("executions").to_pylist())
            assert before <= seen <= written[0] + 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(fleet.captured.total().column("executions").to_pylist()) == written[0] > seen > 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 2**40), st.integers(0, 99))))
def test_aggregation_is_that_of_a_dictionary(rows: list[tuple[int, int, int, int]]) -> None:
    expected: dict[tuple[str, str], int] = {}
    first: dict[tuple[str, str], int] = {}
    for graph, size, executions, second in rows:
        key = (str(graph), f"[[{size}]]")
        expected[key] = expected.get(key, 0) + executions
        first[key] = min(first.get(key, second), second)
    table = store.CAPTURES.table(row(str(g), ((s,),), e, second=t) for g, s, e, t in rows)
    found = store.CAPTURES.aggregated(table).to_pylist()
    assert [((r["graph"], r["shapes"]), r["executions"]) for r in found] == sorted(expected.items())
    assert all(r["start"] == NOON + timedelta(seconds=first[r["graph"], r["shapes"]]) for r in found)


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 2**40))))
def test_shapes_survive(shapes: list[list[int] | None]) -> None:
    given_shapes = tuple(None if shape is None else tuple(shape) for shape in shapes)
    assert tables.shapes_of(tables.shapes_text(given_shapes)) == given_shapes


@pytest.mark.parametrize("text", ["", "1", "[1]", "[[-1]]", "[[true]]", "[[1.0]]", "{}"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(GraphoptError, match="not a JSON array"):
        tables.shapes_of(text)
