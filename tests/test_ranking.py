"""Ranking by marginal saving, the report of a corpus, and the opportunities file."""

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from math import fsum, isclose
from pathlib import Path

import pytest

from graphopt import machine, roofline
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, OperatorGraph
from graphopt.machine import Machine
from graphopt.mining import Pattern, Report, find_opportunities, mine, opportunities
from graphopt.mining.opportunity import Opportunity
from graphopt.mining.ranking import Ranking
from graphopt.mining.rules import MOST_RESULTS
from tests.convexity import is_convex
from tests.mining_captures import capture, random_fleet

HARDSWISH = """{name} (float[N,64,1000] x) => (float[N,64,1000] z)
    <float three = {{3.0}}, float zero = {{0.0}}, float six = {{6.0}}> {{
    a0 = Add(x, three)  b0 = Clip(a0, zero, six)  c0 = Mul(x, b0)  d0 = Div(c0, six)
    s = Softmax<axis=1>(d0)
    a1 = Add(s, three)  b1 = Clip(a1, zero, six)  c1 = Mul(s, b1)  z = Div(c1, six)
}}"""

TOWERS = """towers (int64[32,5] i0, int64[32,5] i1, int64[32,5] i2, float[32,48] m) => (float[32,48] y)
    <int64[1] one = {1}> {
    e0 = Gather(t0, i0)  r0 = ReduceSum<keepdims=0>(e0, one)
    e1 = Gather(t1, i1)  r1 = ReduceSum<keepdims=0>(e1, one)
    e2 = Gather(t2, i2)  r2 = ReduceSum<keepdims=0>(e2, one)
    c = Concat<axis=1>(r0, r1, r2)
    y = Mul(c, m)
}"""


@pytest.fixture(scope="module")
def xeon() -> Machine:
    return machine.load(machine.DEFAULT)


def hardswish(batch: int = 1, executions: int = 1, name: str = "swish") -> Capture:
    return capture(HARDSWISH.format(name=name), {"x": (batch, 64, 1000)}, executions, name)


def towers(executions: int = 1) -> Capture:
    tables = ", ".join(f"float[100,16] t{i}" for i in range(3))
    return capture(TOWERS.replace("float[32,48] m)", f"float[32,48] m, {tables})"), {}, executions, "towers")


def places(found: Report, captures: Sequence[Capture]) -> list[tuple[str, tuple[int, ...]]]:
    """Model and nodes of every shape example."""
    graphs = {one.graph.name: one.graph for one in captures}
    result = []
    for entry in found.opportunities:
        for shape in entry.shapes:
            names = [node.name for node in graphs[shape.model].nodes]
            result.append((shape.model, tuple(names.index(name) for name in shape.nodes)))
    return result


def test_repeated_chain_is_one_opportunity(xeon: Machine) -> None:
    captures = [hardswish(1, 10), hardswish(8, 3)]
    found = find_opportunities(captures, xeon, max_size=4)
    best = found.opportunities[0]
    assert best.operators == ("Add", "Clip", "Mul", "Div")
    assert (best.support, best.captures, best.occurrences, best.disjoint_occurrences) == (13, 2, 2, 2)
    assert best.executions == 26
    assert [(m.name, m.occurrences, m.executions) for m in best.models] == [("swish", 2, 13)]
    expected_before, expected_after = [], []
    for one in captures:
        for nodes in (range(4), range(5, 9)):
            times = [roofline.operator_seconds(one, node, xeon) for node in nodes]
            expected_before.append(fsum(times) * one.executions)
            expected_after.append(roofline.fused_seconds(one, list(nodes), xeon) * one.executions)
    assert isclose(best.seconds_before, fsum(expected_before))
    assert isclose(best.seconds_after, fsum(expected_after))
    assert isclose(best.saving_seconds, best.seconds_before - best.seconds_after)
    fleet = fsum(roofline.capture_seconds(one, xeon).seconds * one.executions for one in captures)
    assert isclose(found.seconds, fleet)
    assert isclose(best.share, best.saving_seconds / fleet)
    assert {shape.operands[0].shape for shape in best.shapes} == {(1, 64, 1000), (8, 64, 1000)}
    assert sum(shape.executions for shape in best.shapes) == best.executions
    assert best.bytes_after < best.bytes_before


def test_opportunities_are_disjoint_convex_and_sorted(xeon: Machine) -> None:
    captures = [hardswish(), towers(5)]
    found = find_opportunities(captures, xeon, k=None)
    graphs = {one.graph.name: one.graph for one in captures}
    taken = places(found, captures)
    for (model, nodes), (other_model, others) in itertools.combinations(taken, 2):
        assert model != other_model or not set(nodes) & set(others)
    assert all(is_convex(graphs[model], nodes) for model, nodes in taken)
    savings = [entry.saving_seconds for entry in found.opportunities]
    assert savings == sorted(savings, reverse=True)
    assert all(saving > 0 for saving in savings)
    assert len({entry.digest for entry in found.opportunities}) == len(found.opportunities)
    assert 0 < sum(entry.share for entry in found.opportunities) < 1


def test_equal_branches_are_counted_each() -> None:
    found = find_opportunities([towers(100)], machine.load("xeon-e5-2680-v4"), max_size=2)
    lookups = next(entry for entry in found.opportunities if "Gather" in entry.operators)
    assert lookups.operators == ("Gather", "ReduceSum")
    assert (lookups.occurrences, lookups.disjoint_occurrences, lookups.executions) == (3, 3, 300)
    assert sum(shape.executions for shape in lookups.shapes) == 300


def test_equal_operators_are_valued_by_where_their_operands_lie(xeon: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of some equal lookups reads the table from further away than the others."""
    names = [f"y{i}" for i in range(4)]
    bags = " ".join(f"e{name} = Gather(t, i) {name} = ReduceSum<keepdims=0>(e{name}, one)" for name in names)
    results = ", ".join(f"float[64,128] {name}" for name in names)
    text = f"g (float[20000,128] t, int64[64,20] i) => ({results}) <int64[1] one = {{1}}> {{ {bags} }}"
    seen: list[tuple[Ranking, list[Pattern]]] = []
    best = Ranking.best

    def remembered(self: Ranking, patterns: Iterable[Pattern], *asked: object) -> list[Opportunity]:
        seen.append((self, list(patterns)))
        return best(self, seen[-1][1], *asked)

    monkeypatch.setattr(Ranking, "best", remembered)
    (found,) = find_opportunities([capture(text)], xeon, k=None, max_size=2, engine="serial").opportunities
    ranking, patterns = seen[0]
    valued = [one for pattern in patterns for one in ranking.candidates(pattern, {}) if pattern.digest == found.digest]
    assert len({round(one.saving * 1e9) for one in valued}) > 1
    assert fsum(one.saving for one in valued) == pytest.approx(found.saving_seconds)


def test_shorter_lists_are_the_beginning_of_longer_ones(xeon: Machine) -> None:
    captures = [hardswish(), towers()]
    whole = find_opportunities(captures, xeon, k=None)
    for k in range(1, len(whole.opportunities) + 1):
        assert find_opportunities(captures, xeon, k=k).opportunities == whole.opportunities[:k]


def test_order_and_jobs_give_the_same_bytes(xeon: Machine) -> None:
    captures = [hardswish(1, 3), hardswish(8), towers(2), hardswish(2, 7, "other")]
    expected = opportunities.text(find_opportunities(captures, xeon, ruled_out=True, engine="serial"))
    for seed, jobs in ((1, 1), (2, 2), (3, 3)):
        shuffled = list(captures)
        random.Random(seed).shuffle(shuffled)
        report = find_opportunities(shuffled, xeon, ruled_out=True, jobs=jobs, engine="processes")
        assert opportunities.text(report) == expected


def test_ruled_out_patterns_are_listed_with_their_worth(xeon: Machine) -> None:
    names = [f"y{i}" for i in range(MOST_RESULTS + 1)]
    declared = ", ".join(f"float[64,64] {name}" for name in names)
    text = f"g (float[{64 * len(names)},64] x) => ({declared}) {{ a = Relu(x)  {', '.join(names)} = Split<axis=0>(a) }}"
    captures = [capture(text)]
    plain = find_opportunities(captures, xeon)
    assert plain.ruled_out == ()
    assert plain.opportunities == ()
    asked = find_opportunities(captures, xeon, ruled_out=True)
    assert asked.opportunities == plain.opportunities
    worst = asked.ruled_out[0]
    assert (worst.verdict, worst.rule) == ("ruled out", "too-many-results")
    assert worst.operators == ("Relu", "Split")
    assert worst.saving_seconds > 0


def test_operators_that_rules_stop_are_counted(xeon: Machine) -> None:
    text = """g (float[1000] x) => (float[1000] y) <int64 axis = {0}> {
        a = Neg(x)  b = Relu(a)  c = CumSum(b, axis)  d = Neg(c)  y = Relu(d)
    }"""
    found = find_opportunities([capture(text, executions=4)], xeon)
    (stopped,) = found.stopped
    assert (stopped.rule, stopped.operators) == ("sequential", 1)
    assert stopped.seconds > 0
    assert [entry.operators for entry in found.opportunities] == [("Neg", "Relu")]
    assert found.opportunities[0].disjoint_occurrences == 2


def test_convexity_is_judged_in_the_whole_graph(xeon: Machine) -> None:
    """Add reads Neg also through a CumSum, so the two cannot be one kernel."""
    text = """g (float[1000] x) => (float[1000] y) <int64 axis = {0}> {
        a = Neg(x)  c = CumSum(a, axis)  y = Add(a, c)
    }"""
    assert find_opportunities([capture(text)], xeon).opportunities == ()


def test_patterns_that_are_refused(xeon: Machine) -> None:
    def no_clip(graph: OperatorGraph, nodes: Sequence[int]) -> str | None:
        return "no Clip today" if any(graph.nodes[node].op_type == "Clip" for node in nodes) else None

    found = find_opportunities([hardswish()], xeon, refuse=no_clip, ruled_out=True)
    assert found.opportunities
    assert all("Clip" not in entry.operators for entry in found.opportunities)
    assert ("refused", "no Clip today") in {(entry.rule, entry.reason) for entry in found.ruled_out}


def test_contractions_do_not_hide_lighter_patterns(xeon: Machine) -> None:
    """A pattern of element-wise operators stays beside the larger one that needs a contraction kernel."""
    text = """g (float[64,64] x, float[64,64] w) => (float[64,64] y) { a = MatMul(x, w)  b = Neg(a)  y = Relu(b) }"""

    def light(graph: OperatorGraph, nodes: Sequence[int]) -> str | None:
        return "too heavy" if any(graph.nodes[node].op_type == "MatMul" for node in nodes) else None

    found = find_opportunities([capture(text)], xeon, refuse=light)
    assert [entry.operators for entry in found.opportunities] == [("Neg", "Relu")]


def test_budget_is_reported(xeon: Machine) -> None:
    assert find_opportunities([hardswish()], xeon, budget=3).incomplete == ("swish",)
    assert find_opportunities([hardswish()], xeon).incomplete == ()


def test_minimum_support(xeon: Machine) -> None:
    captures = [hardswish(1, 99), towers(1)]
    found = find_opportunities(captures, xeon, min_support=0.02)
    assert found.min_support == 2
    assert {model.name for entry in found.opportunities for model in entry.models} == {"swish"}


@pytest.mark.parametrize("bad", [{"k": 0}, {"max_size": 1}, {"min_support": -1}, {"jobs": 0, "engine": "processes"}])
def test_arguments_that_make_no_sense(xeon: Machine, bad: dict) -> None:
    with pytest.raises(GraphoptError):
        find_opportunities([hardswish()], xeon, **bad)


def test_nothing_to_mine(xeon: Machine) -> None:
    with pytest.raises(GraphoptError, match="no captures"):
        find_opportunities([], xeon)


def test_unknown_times_are_counted(xeon: Machine) -> None:
    known = hardswish()
    blind = Capture(known.graph, {name: shape for name, shape in known.shapes.items() if name != "b0"}, 1)
    found = find_opportunities([blind], xeon)
    assert found.operators_unknown == 2  # the Clip that writes it and the Mul that reads it
    assert found.opportunities[0].disjoint_occurrences == 1


# The file


def test_file_holds_all(xeon: Machine, tmp_path: Path) -> None:
    report = find_opportunities([hardswish(2, 5), towers()], xeon, ruled_out=True)
    path = tmp_path / "found.json"
    opportunities.write(report, path)
    first = path.read_bytes()
    assert opportunities.read(path) == report
    opportunities.write(opportunities.read(path), path)
    assert path.read_bytes() == first
    data = json.loads(first)
    assert (data["schema_version"], data["kind"]) == (1, "opportunities")
    assert data["opportunities"][0]["size"] == len(data["opportunities"][0]["labels"])
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "'kind' is missing"),
        (b'{"kind": "plan", "schema_version": 1}', "'plan'"),
        (b'{"kind": "opportunities", "schema_version": 2}', "schema_version is 2"),
        (b'{"kind": "opportunities", "schema_version": 1}', "'machine' is missing"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(GraphoptError, match=message) as error:
        opportunities.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_values_of_another_form(xeon: Machine, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    whole = find_opportunities([hardswish()], xeon).to_dict()
    for key, value in (("edges", [[1, 2]]), ("labels", [1]), ("support", "many"), ("models", [3]), ("shapes", None)):
        broken = json.loads(json.dumps(whole))
        broken["opportunities"][0][key] = value
        path.write_text(json.dumps(broken))
        with pytest.raises(GraphoptError, match="not an opportunities file"):
            opportunities.read(path)


def test_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="cannot read"):
        opportunities.read(tmp_path / "none.json")


def test_no_occurrence_saves_more_than_the_gains_of_its_operators(xeon: Machine) -> None:
    for one in [*random_fleet(random.Random(1), 10), hardswish(), towers()]:
        gains = roofline.operator_gains(one, xeon)
        times = roofline.operator_times(one, xeon)
        for pattern in mine([one], max_size=5, closed=False, engine="serial"):
            for _, nodes in pattern.found():
                saving = fsum(times[node] for node in nodes) - roofline.fused_seconds(one, nodes, xeon)
                assert saving <= fsum(gains[node] for node in nodes) * (1 + 1e-12)
