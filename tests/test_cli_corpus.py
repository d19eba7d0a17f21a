"""``graphopt corpus``: what it says of both kinds of corpus, what it finds broken, and export and back."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import captures_file, corpus, store, weights
from graphopt.cli.corpus import EXAMPLES
from graphopt.cli.environment import Exit
from graphopt.corpus_verification import verify
from graphopt.digests import digest
from graphopt.store import tables
from tests.command_line import CommandLine
from tests.test_corpus import add, mlp, renamed
from tests.test_store import put, row


def observed(place: Path | str) -> store.ObservedCorpus:
    """Two graphs, one at two shapes, in three files."""
    fleet = store.open(place)
    first = fleet.put_graph(mlp())
    second = fleet.put_graph(renamed(mlp(operator="Tanh"), "secret_"))
    put(fleet, row(first, ((4, 32),), 3, name="relu"), row(second, ((4, 32),), 5, name="tanh", second=60))
    put(fleet, row(first, ((8, 32),), 1, name="relu", second=120))
    put(fleet, row(first, ((4, 32),), 7, name="relu", second=30))
    return fleet


@pytest.fixture
def fleet(tmp_path: Path) -> store.ObservedCorpus:
    return observed(tmp_path / "fleet")


def printed(graphopt: CommandLine, *words: object, code: int = Exit.DONE) -> dict:  # type: ignore[type-arg]
    outcome = graphopt("corpus", *words, "--json")
    assert outcome.code == code, outcome.err
    found = json.loads(outcome.out)
    assert (found["schema_version"], found["kind"], found["action"]) == (1, "corpus", words[0])
    assert isinstance(found, dict)
    return found


def test_stats_list_and_show(fleet: store.ObservedCorpus, graphopt: CommandLine) -> None:
    place = fleet.folder.url
    first, second = digest(mlp()), digest(mlp(operator="Tanh"))
    stats = printed(graphopt, "stats", place)
    assert {key: stats[key] for key in ("observed", "files", "graphs", "captures", "executions", "unused_graphs")} == {
        "observed": True,
        "files": 3,
        "graphs": 2,
        "captures": 3,
        "executions": 16,
        "unused_graphs": 0,
    }
    assert (stats["start"], stats["end"]) == ("2026-01-01T12:00:00Z", "2026-01-01T12:02:01Z")
    assert stats["runtimes"] == ["1.31.1"]
    graphs = printed(graphopt, "list", place)["graphs_held"]
    assert [(one["graph"], one["name"], one["captures"], one["executions"]) for one in graphs] == [
        (first, "relu", 2, 11),
        (second, "tanh", 1, 5),
    ]
    for which in (first, first[:8], "relu"):
        shown = printed(graphopt, "show", place, which)
        assert shown["operators"] == {"Add": 1, "MatMul": 1, "Relu": 1}
        assert shown["inputs"] == [{"name": "x", "dtype": "float32", "dimensions": ["N", 32]}]
        assert [(one["shapes"], one["executions"]) for one in shown["runs"]] == [([[4, 32]], 10), ([[8, 32]], 1)]
    for words in (("stats", place), ("list", place), ("show", place, "tanh")):
        outcome = graphopt("corpus", *words)
        assert outcome.code == Exit.DONE
        assert "tanh" in outcome.out or words[0] == "stats"
    outcome = graphopt("corpus", "show", place, "nothing")
    assert (outcome.code, outcome.err) == (Exit.BAD_INPUT, f"graphopt: error: {place}: no graph called 'nothing'\n")


def test_a_folder_of_models(tmp_path: Path, graphopt: CommandLine) -> None:
    folder = tmp_path / "fleet"
    target = add(folder, mlp(), {"x": (4, 32)}, name="relu", executions=3)
    add(folder, mlp(), {"x": (8, 32)}, name="relu", executions=4)
    stats = printed(graphopt, "stats", folder)
    assert (stats["observed"], stats["graphs"], stats["captures"], stats["executions"]) == (False, 1, 2, 7)
    shown = printed(graphopt, "show", folder, Path(target).stem)
    assert [one["shapes"] for one in shown["runs"]] == [[[8, 32]], [[4, 32]]]
    assert printed(graphopt, "verify", folder)["problems"] == []
    observed_too = store.open(folder)
    put(observed_too, row(observed_too.put_graph(mlp()), ((4, 32),), 10))
    both = printed(graphopt, "stats", folder)
    assert (both["observed"], both["graphs"], both["executions"]) == (True, 2, 17)
    (folder / "captures.toml").write_text("schema_version = 1\n[[capture]]\nmodel = 'gone.onnx'\n")
    found = printed(graphopt, "verify", folder, code=Exit.NEGATIVE)
    assert any("gone.onnx" in line for line in found["problems"])


@pytest.mark.parametrize("redact", [False, True])
def test_export_and_back(fleet: store.ObservedCorpus, tmp_path: Path, redact: bool, graphopt: CommandLine) -> None:
    folder, url = tmp_path / "exported", f"file://{tmp_path}/back"
    words = ["--redact"] if redact else []
    assert printed(graphopt, "export", fleet.folder.url, folder, *words)["graphs"] == 2
    assert printed(graphopt, "verify", folder)["problems"] == []
    assert (b"secret" in b"".join(path.read_bytes() for path in folder.iterdir())) != redact
    loaded = corpus.load(folder, view="raw")
    assert sorted(capture.executions for capture in loaded.captures) == [1, 5, 10]
    assert graphopt("capture", folder, "--corpus", url).code == Exit.DONE
    columns = ["graph", "shapes", "executions"]
    assert store.open(url).captured.total().select(columns).equals(fleet.captured.total().select(columns))
    outcome = graphopt("corpus", "export", fleet.folder.url, folder)
    assert (outcome.code, outcome.err) == (Exit.BAD_INPUT, f"graphopt: error: {folder}: is not an empty folder\n")


def test_export_of_a_folder_keeps_views_and_ranges(tmp_path: Path, graphopt: CommandLine) -> None:
    add(tmp_path / "a", mlp(), {"x": (4, 32)}, name="secret", view="executed", ranges={"x": (0, 2)}, executions=9)
    assert printed(graphopt, "export", tmp_path / "a", tmp_path / "b", "--redact")["graphs"] == 1
    (entry,) = captures_file.read(tmp_path / "b" / "captures.toml")
    assert entry.model.startswith("model-")
    assert (entry.shapes, entry.executions, entry.ranges, entry.view) == (
        {"t0": (4, 32)},
        9,
        {"t0": (0, 2)},
        "executed",
    )


def test_compact(fleet: store.ObservedCorpus, graphopt: CommandLine) -> None:
    place = fleet.folder.url
    before = fleet.captured.total()
    done = printed(graphopt, "compact", place)
    captures, profiles = done["tables"]
    assert (captures["replaced"], captures["rows_before"], captures["rows_after"]) == (3, 4, 3)
    assert profiles["file"] is None
    assert fleet.captured.total().equals(before)
    assert "captures: nothing to compact" in graphopt("corpus", "compact", place, "--take-over").out
    assert printed(graphopt, "verify", place)["problems"] == []


# ------------------------------------------------------------------------------------------------------- verify


def graph_file(fleet: store.ObservedCorpus) -> Path:
    assert fleet.folder.local is not None
    return fleet.folder.local / "graphs" / f"{digest(mlp())}.onnx"


def capture_file(fleet: store.ObservedCorpus) -> Path:
    assert fleet.folder.local is not None
    return sorted((fleet.folder.local / "captures").iterdir())[0]


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_graph(fleet: store.ObservedCorpus) -> None:
    graph_file(fleet).write_bytes(weights.drop_weights(mlp(operator="Neg")).SerializeToString())


def other_version(fleet: store.ObservedCorpus) -> None:
    table = pq.read_table(capture_file(fleet)).replace_schema_metadata({"schema_version": "2"})
    pq.write_table(table, capture_file(fleet))


def other_columns(fleet: store.ObservedCorpus) -> None:
    table = pq.read_table(capture_file(fleet)).drop_columns(["executions"])
    pq.write_table(table.replace_schema_metadata({"schema_version": "1"}), capture_file(fleet))


def missing_values(fleet: store.ObservedCorpus) -> None:
    table = pq.read_table(capture_file(fleet)).to_pylist()
    table[0]["executions"] = None
    written = tables.pa.Table.from_pylist(table, store.CAPTURES.schema())
    capture_file(fleet).write_bytes(tables.to_parquet(written))


def compacted_twice(fleet: store.ObservedCorpus) -> None:
    for name in ("a", "b"):
        content = tables.to_parquet(fleet.captured.total(), [capture_file(fleet).name])
        fleet.folder.write(f"captures/compacted-{name}.parquet", content)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda fleet: torn(graph_file(fleet)), r"graphs/\w+\.onnx: truncated"),
        (lambda fleet: graph_file(fleet).write_bytes(b""), r"graphs/\w+\.onnx: not an ONNX file"),
        (other_graph, r"graphs/\w+\.onnx: its digest is \w{64}"),
        (lambda fleet: graph_file(fleet).unlink(), "no usable graph"),
        (lambda fleet: torn(capture_file(fleet)), r"captures/.*\.parquet: not a table"),
        (lambda fleet: capture_file(fleet).write_bytes(b"hello"), r"captures/.*\.parquet: not a table"),
        (other_version, "schema_version is '2'"),
        (other_columns, r"captures/.*\.parquet: not a table"),
        (missing_values, "executions is missing in 1 of"),
        (lambda fleet: put(fleet, row(digest(mlp()), ((1, 32), (2,)), 1)), "shapes of 2 inputs for graph"),
        (lambda fleet: put(fleet, row(digest(mlp()), ((1, 32),), 0)), "executions are below 1 in 1 of 1 rows"),
        (lambda fleet: fleet.folder.write("profiles/x.parquet", b"PAR1"), r"profiles/x\.parquet: not a table"),
        (compacted_twice, "both stand for it"),
    ],
)
def test_verify_finds(
    fleet: store.ObservedCorpus, harm: Callable[[store.ObservedCorpus], object], problem: str, graphopt: CommandLine
) -> None:
    assert verify(fleet.folder.url).problems == ()
    harm(fleet)
    found = printed(graphopt, "verify", fleet.folder.url, code=Exit.NEGATIVE)["problems"]
    assert any(re.search(problem, line) for line in found), found
    outcome = graphopt("corpus", "verify", fleet.folder.url)
    assert (outcome.code, outcome.err) == (Exit.NEGATIVE, "")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_file_that_is_cut_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.mktemp("cut")
    fleet = observed(base)
    files = sorted(path for path in base.rglob("*.*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert any(file.name in line for line in verify(fleet.folder.url).problems)


# --------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_work(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphopt: CommandLine) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"memory://{tmp_path.name}"
    for place in (url, "fleet"):
        observed(place)
    words = shlex.split(
        example.partition(" | ")[0].replace("s3://bucket/fleet", url).replace("83f0c73c", digest(mlp())[:8])
    )
    outcome = graphopt(*words[1:])
    assert (outcome.code, outcome.err) == (Exit.DONE, "")
    assert outcome.out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nonsense", "fleet"], Exit.USAGE, "nonsense"),
        (["show", "fleet"], Exit.USAGE, "takes a graph's digest"),
        (["export", "fleet"], Exit.USAGE, "takes a folder"),
        (["stats", "fleet", "more"], Exit.USAGE, "nothing else"),
        (["stats", "fleet", "--redact"], Exit.USAGE, "--redact is for export"),
        (["stats", "fleet", "--take-over"], Exit.USAGE, "--take-over is for compact"),
        (["stats", "missing"], Exit.BAD_INPUT, "missing: cannot read: "),
        (["verify", "missing"], Exit.BAD_INPUT, "missing: cannot read: "),
        (["compact", "missing"], Exit.BAD_INPUT, "missing: no captures in it"),
        *(([action, "memory://nothing"], Exit.BAD_INPUT, "no captures in it") for action in ("stats", "verify")),
        (["stats", "nonsense://x"], Exit.BAD_INPUT, "nonsense://x: cannot be opened"),
    ],
)
def test_mistakes(words: list[str], code: int, text: str, graphopt: CommandLine) -> None:
    outcome = graphopt("corpus", *words)
    assert (outcome.code, outcome.out) == (code, "")
    assert text in outcome.err
    assert code == Exit.USAGE or outcome.err.count("\n") == 1


def test_the_query_of_the_docs(fleet: store.ObservedCorpus, graphopt: CommandLine, sample_graphs: Path) -> None:
    """DuckDB adds up what the corpus holds, a compaction that was killed half-way included."""
    duckdb = pytest.importorskip("duckdb")
    text = (sample_graphs.parent / "docs" / "file-formats.md").read_text()
    query = text.partition("```sql\n")[2].partition("```")[0].replace("'fleet/", f"'{fleet.folder.url}/")
    old = fleet.folder.read(f"captures/{capture_file(fleet).name}")
    name = capture_file(fleet).name
    for step in range(3):
        if step == 1:
            graphopt("corpus", "compact", fleet.folder.url)
        elif step == 2:
            fleet.folder.write(f"captures/{name}", old)
        expected = printed(graphopt, "list", fleet.folder.url)["graphs_held"]
        found = duckdb.sql(query).fetchall()
        assert found == [(one["graph"], one["name"], one["captures"], one["executions"]) for one in expected]
