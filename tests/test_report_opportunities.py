"""Reports of opportunities: the drawing of a pattern, ``show``, ``diff`` and CSV."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.cli.environment import Exit
from graphopt.mining.canonical import Edge
from graphopt.report import difference, table, terminal, what_if
from graphopt.report.drawing import NODE, draw
from graphopt.report.opportunities import fusible
from graphopt.report.opportunity import counted, short_label
from tests.command_line import CommandLine
from tests.mined_report import HOSTILE, opportunities
from tests.test_cli_models import hard_swish

DIAMOND = [(0, 0, 1 + i, 0) for i in range(3)] + [(1 + i, 0, 4, i) for i in range(3)] + [(0, 0, 5, 0), (4, 0, 5, 1)]


def text_of(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{rails:<9}{name}".rstrip() for rails, name in rows)


def test_drawing_of_branches_that_meet() -> None:
    assert text_of(draw(list("abcdef"), DIAMOND)) == "\n".join(
        [
            "●        a",
            "├─┬─┬─╮",
            "● │ │ │  b",
            "│ ● │ │  c",
            "│ │ ● │  d",
            "├─┴─╯ │",
            "●     │  e",
            "├─────╯",
            "●        f",
        ]
    )


def test_drawing_of_parallel_edges_and_of_parts() -> None:
    assert text_of(draw(["x", "Mul"], [(0, 0, 1, 0), (0, 0, 1, 1)])) == "●        x\n├─╮\n├─╯\n●        Mul"
    assert text_of(draw(["a", "b"], [])) == "●        a\n\n●        b"
    assert draw([], []) == []


@st.composite
def dags(draw_from: st.DrawFn) -> tuple[int, list[Edge]]:
    count = draw_from(st.integers(1, 9))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    chosen = draw_from(st.lists(st.sampled_from(pairs), max_size=14)) if pairs else []
    names = list(range(count))
    random.Random(draw_from(st.integers(0, 99))).shuffle(names)
    return count, [(names[i], 0, names[j], slot) for slot, (i, j) in enumerate(chosen)]


@given(dags())
def test_drawing_shows_every_node_once_and_each_edge_reaches_its_consumer(graph: tuple[int, list[Edge]]) -> None:
    count, edges = graph
    rows = draw([str(node) for node in range(count)], edges)
    shown = [name for _, name in rows if name]
    assert sorted(shown) == sorted(map(str, range(count)))
    assert all((NODE in rails) == bool(name) for rails, name in rows)
    assert followed(rows) == sorted((edge[0], edge[2]) for edge in edges)


def followed(rows: list[tuple[str, str]]) -> list[tuple[int, int]]:
    """The edges that a reader sees, who follows each rail down from where it starts."""
    carried: dict[int, list[int]] = {}  # column to the producers of the rails that come down there
    found = []
    node = -1
    for rails, name in rows:
        carried = {at: producers for at, producers in carried.items() if rails[at : at + 1].strip()}
        if name:
            column = rails.index(NODE)
            node = int(name)
            found += [(producer, node) for producer in carried.get(column, [])]
            carried[column] = [node]
        elif "├" in rails:
            ends = [at for at, mark in enumerate(rails) if mark in "┴╯┬╮"]
            for at in ends:
                if "╮" in rails:
                    carried[at] = [node]
                else:
                    carried[rails.index("├")] += carried.pop(at)
    return sorted(found)


def test_labels_are_shortened_for_people() -> None:
    assert short_label("Concat{axis=1}(float32[2],float32[2],int64[1])->float32[2]") == (
        "Concat{axis=1}(2 × float32[2], int64[1])->float32[2]"
    )
    assert short_label("com.microsoft.Gelu(float32[2])->float32[2]") == "Gelu(float32[2])->float32[2]"
    assert short_label("anything") == "anything"
    assert counted("aabca") == "2 × a, b, c, a"


def written(tmp_path: Path, data: dict[str, Any], name: str = "opportunities.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_show_draws_one_opportunity(graphopt: CommandLine, tmp_path: Path) -> None:
    data = opportunities()
    entry = data["opportunities"][0]
    path = written(tmp_path, data)
    outcome = graphopt("show", path, entry["digest"][:10])
    assert outcome.code == Exit.DONE, outcome.err
    assert outcome.out.count(NODE) == entry["size"]
    assert entry["digest"] in outcome.out
    assert HOSTILE in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert json.loads(graphopt("show", path, entry["digest"], "--json").out) == entry


@pytest.mark.parametrize("digest", ["", "zz"])
def test_show_says_that_there_is_no_such_digest(graphopt: CommandLine, tmp_path: Path, digest: str) -> None:
    outcome = graphopt("show", written(tmp_path, opportunities()), digest)
    assert outcome.code == Exit.BAD_INPUT
    assert outcome.err.startswith("graphopt: error: ")
    assert outcome.err.count("\n") == 1


def test_csv_has_a_row_for_each_opportunity() -> None:
    data = opportunities()
    data["opportunities"][0]["models"][0]["name"] = "=cmd()"
    rows = list(csv.DictReader(io.StringIO(table.csv_text(data))))
    entries = [*data["opportunities"], *data["ruled_out"]]
    assert [row["digest"] for row in rows] == [entry["digest"] for entry in entries]
    assert [float(row["share"]) for row in rows] == [entry["share"] for entry in entries]
    assert rows[0]["models"].startswith("'=cmd()")


def test_parquet_holds_the_same_rows(graphopt: CommandLine, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    data = opportunities()
    path = tmp_path / "opportunities.parquet"
    outcome = graphopt("report", written(tmp_path, data), "--format", "parquet", "-o", path)
    assert outcome.code == Exit.DONE, outcome.err
    assert parquet.read_table(path).to_pylist() == list(table.rows(data))
    assert graphopt("report", written(tmp_path, data), "--format", "parquet").code == Exit.USAGE


def test_no_difference_to_itself() -> None:
    found = difference.difference(opportunities(), opportunities())
    assert {row["change"] for row in found["patterns"]} == {"unchanged"}
    assert not found["regression"]


def test_difference_names_every_change(graphopt: CommandLine, tmp_path: Path) -> None:
    old, new = opportunities(), opportunities()
    first, second = old["opportunities"][:2]
    new["opportunities"][0]["share"] = first["share"] + 0.1
    del new["opportunities"][1]
    found = {row["digest"]: row for row in difference.difference(old, new)["patterns"]}
    assert found[first["digest"]]["change"] == "grown"
    assert found[first["digest"]]["share_difference"] == pytest.approx(0.1)
    assert found[second["digest"]]["change"] == ("gone" if second["share"] >= difference.NOTICEABLE else "unchanged")
    back = {row["digest"]: row for row in difference.difference(new, old, 0)["patterns"]}
    assert back[first["digest"]]["change"] == "shrunk"
    assert back[second["digest"]]["change"] == "added"
    paths = written(tmp_path, old, "old.json"), written(tmp_path, new, "new.json")
    assert graphopt("diff", *paths).code == Exit.DONE
    failing = graphopt("diff", *paths, "--fail-on", "regression", "--json")
    assert failing.code == Exit.NEGATIVE
    assert json.loads(failing.out) == json.loads(json.dumps(difference.difference(old, new)))
    report = graphopt("report", "-", stdin=failing.out.encode())
    assert "grown" in report.out
    assert graphopt("diff", *paths[::-1], "--noticeable", "100", "--fail-on", "regression").code == Exit.DONE


def test_diff_needs_opportunities(graphopt: CommandLine, tmp_path: Path) -> None:
    data = difference.difference(opportunities(), opportunities())
    path = written(tmp_path, data)
    outcome = graphopt("diff", path, path)
    assert outcome.code == Exit.BAD_INPUT
    assert "holds 'difference'" in outcome.err


def test_what_if_ranks_on_each_machine(graphopt: CommandLine, tmp_path: Path) -> None:
    onnx.save(hard_swish(), tmp_path / "model.onnx")
    machines = ("xeon-avx512", "xeon-e5-2680-v4")
    words = [word for name in machines for word in ("--machine", name)]
    outcome = graphopt("report", tmp_path / "model.onnx", *words, "--format", "json")
    assert outcome.code == Exit.DONE, outcome.err
    data = json.loads(outcome.out)
    assert [machine["name"] for machine in data["machines"]] == list(machines)
    for at, name in enumerate(machines):
        alone = json.loads(graphopt("mine", tmp_path, "--machine", name, "--json").out)["opportunities"]
        ranked = [p for p in data["patterns"] if p["ranks"][at] is not None]
        ranked.sort(key=lambda pattern: pattern["ranks"][at])
        assert [p["digest"] for p in ranked] == [entry["digest"] for entry in alone]
        assert [p["shares"][at] for p in ranked] == [entry["share"] for entry in alone]
    assert graphopt("report", "-", stdin=outcome.out.encode()).out.startswith(f"{len(data['patterns'])} pattern")


def test_what_if_marks_where_the_order_changes() -> None:
    first, second = opportunities(), opportunities()
    second["machine"] = "other"
    second["opportunities"].reverse()
    data = what_if.what_if([first, second])
    count = len(first["opportunities"])
    assert [pattern["ranks"] for pattern in data["patterns"]] == [[at + 1, count - at] for at in range(count)]
    text = terminal.render(what_if.document(data))
    assert f"({1 - count:+d})" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_pattern_without_lowerings_is_fusible_by_hand() -> None:
    entry = {"operators": ["Relu", "ConvTranspose", "made.Up", "Exp"], "verdict": "fusible"}
    assert fusible(entry) == "fusible by hand: no lowering for ConvTranspose, Up"
    assert fusible({"operators": ["Relu", "Exp"], "verdict": "fusible"}) == "fusible"
