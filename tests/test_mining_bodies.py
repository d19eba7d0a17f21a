"""Mining inside of If, Loop and Scan: each body is a graph of its own, which ran as often as its trips say."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import fsum
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import helper

from graphopt import corpus, machine, roofline
from graphopt.capture import Execution, capture_executions, capture_model
from graphopt.cli.environment import Exit
from graphopt.graph import Capture, Shape
from graphopt.kernels import find_compiler
from graphopt.mining import Opportunity, Report, find_opportunities
from graphopt.model_graphs import with_unique_names
from graphopt.passes.base import Context, Observed, WantedPattern
from graphopt.passes.fuse import Fuse, Fusions, observe
from graphopt.report.realised import realised
from tests import random_bodies
from tests.command_line import CommandLine
from tests.loops import STEP, loop, model, recurrent

SHAPES: Mapping[str, Shape] = {"x": (2, 2), "c": ()}


def captured(made: onnx.ModelProto, executions: int = 1, name: str = "cell") -> Capture:
    return capture_model(made, name, SHAPES, executions, view="raw")


def mined(*captures: Capture, **options: object) -> Report:
    return find_opportunities(captures, machine.load(), k=None, engine="serial", **options)  # type: ignore[arg-type]


def of(report: Report, *operators: str) -> Opportunity:
    """The opportunity of these operators."""
    (found,) = (one for one in report.opportunities if sorted(one.operators) == sorted(operators))
    return found


def nested(inner: int, outer: int) -> onnx.ModelProto:
    """A Loop in a Loop; the inner one reads the input of the model, the outer one adds a chain of its own."""
    step = [
        helper.make_node("Add", ["s_z", "x"], ["a"], name="add"),
        helper.make_node("Exp", ["a"], ["t_z"], name="exp"),
    ]
    chain = [
        loop("m", "s_y", "z", step),
        helper.make_node("Relu", ["z"], ["r"], name="relu"),
        helper.make_node("Neg", ["r"], ["t_y"], name="neg"),
    ]
    return model([loop("n", "x", "y", chain)], {"m": np.array(inner), "n": np.array(outer)}, ["y"])


def test_a_pattern_in_a_loop_ran_as_often_as_the_body() -> None:
    report = mined(captured(recurrent(4), 7))
    found = of(report, "MatMul", "Add", "Sin")
    assert (found.executions, found.support, found.captures, found.disjoint_occurrences) == (28, 28, 1, 1)
    (place,), (example,) = found.models, found.shapes
    assert (place.name, place.occurrences, place.executions) == ("cell/loop_y:body", 1, 28)
    assert (example.model, set(example.nodes)) == ("cell/loop_y:body", {"product", "sum", "sine"})
    assert (report.captures, report.executions, report.graphs) == (1, 7, 2)
    assert report.operators == 1 + len(STEP) + 1


def test_what_a_body_reads_from_outside_are_operands() -> None:
    (example,) = of(mined(captured(recurrent())), "MatMul", "Add", "Sin").shapes
    # the state, the weights (a constant outside), the input of the model
    assert sorted((one.shape, one.constant) for one in example.operands) == [
        ((2, 2), False),
        ((2, 2), False),
        ((2, 2), True),
    ]


def test_trips_of_nested_loops_multiply() -> None:
    report = mined(captured(nested(3, 5), 2), captured(recurrent(4), name="other"))
    inner, outer = of(report, "Add", "Exp"), of(report, "Relu", "Neg")
    assert [(one.models[0].name, one.executions) for one in (inner, outer)] == [
        ("cell/loop_y:body/loop_z:body", 2 * 5 * 3),
        ("cell/loop_y:body", 2 * 5),
    ]
    assert report.executions == 3


def test_a_scan_and_the_branch_that_ran() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[7,2,2] x) => (float[7,2,2] y) <bool yes = {1}> {
        y = Scan (x) <num_scan_inputs = 1, body = step (float[2,2] s) => (float[2,2] t) {
            t = If (yes) <
                then_branch = one () => (float[2,2] a) { e = Exp(s) a = Neg(e) },
                else_branch = two () => (float[2,2] b) { f = Exp(s) b = Abs(f) }
            >
        }>
    }"""
    report = mined(capture_model(onnx.parser.parse_model(text), "g", {}, 3, view="raw"))
    found = of(report, "Exp", "Neg")
    assert (found.models[0].name, found.executions) == ("g/Scan_0:body/If_0:then_branch", 21)
    assert len(report.opportunities) == 1


def test_a_body_that_did_not_run_or_is_unknown_is_left_out() -> None:
    assert mined(captured(recurrent(0))).opportunities == ()
    unknown = replace(captured(recurrent()), bodies={})
    report = mined(unknown)
    assert (report.opportunities, report.operators, report.operators_unknown) == ((), 1, 1)


def test_a_mined_saving_is_what_fusing_is_predicted_to_gain() -> None:
    for made in (recurrent(6), nested(3, 5)):
        for found in mined(captured(made)).opportunities:
            wanted = WantedPattern(found.digest, found.labels, found.edges)
            result = Fuse().run(made, Context((Observed(SHAPES),), opportunities=(wanted,)))
            assert isinstance(result.details, Fusions)
            (fusion,) = result.details.made
            assert fusion.before == pytest.approx(found.seconds_before)
            assert fusion.before - fusion.after == pytest.approx(found.saving_seconds)


def test_the_time_of_the_fleet_counts_bodies_once() -> None:
    capture = captured(nested(3, 5), 2)
    device = machine.load()
    report = mined(capture)
    known = roofline.capture_seconds(capture, device)
    assert known.unknown == 0
    assert report.seconds == pytest.approx(2 * known.seconds)
    assert fsum(share.seconds for share in report.classes) == pytest.approx(report.seconds)
    (control,) = (one for one in report.stopped if one.rule == "control-flow")
    assert control.seconds == pytest.approx(2 * (1 + 5) * device.node_seconds)
    assert sum(one.share for one in report.opportunities) < 1


def test_a_least_support_is_a_share_of_the_executions_of_models() -> None:
    body = captured(recurrent(4), 2)
    report = mined(body, min_support=1.0)
    assert report.min_support == 2
    assert of(report, "MatMul", "Add", "Sin").support == 8
    assert mined(body, min_support=9).opportunities == ()


@given(random_bodies.models())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_executions_agree_with_those_that_fusion_counts(made: onnx.ModelProto) -> None:
    """Operators of bodies by type, as often as they ran: apart, and laid into one graph."""
    named = with_unique_names(made)
    ranges = {"trips": (2.0, 3.0), "condition": (1.0, 2.0)}
    (found,) = capture_executions(named, "g", [Execution(random_bodies.INPUTS, 3, ranges)], "raw")
    apart: Counter[str] = Counter()
    for part in found.capture.and_bodies():
        for node in part.graph.nodes:
            apart[node.name] += part.executions
    (whole,) = observe(named, Context((Observed(random_bodies.INPUTS, 3, ranges),)))
    together = {node.name: 3 * whole.runs(index) for index, node in enumerate(whole.graph.nodes)}
    assert apart == Counter({name: runs for name, runs in together.items() if runs})
    report = mined(found.capture)
    separate = mined(*(replace(part, bodies={}) for part in found.capture.and_bodies()))
    assert [(one.digest, one.executions, one.saving_seconds) for one in report.opportunities] == [
        (one.digest, one.executions, one.saving_seconds) for one in separate.opportunities
    ]


def test_what_was_measured_in_a_body_is_found_again() -> None:
    data = mined(captured(recurrent())).to_dict()
    best = data["opportunities"][0]
    fused = {
        "occurrences": [best["shapes"][0]["nodes"]],
        "measured_seconds": {"before": 2.0, "after": 1.0, "interval": None},
    }
    found = realised(data, [{"model": "cell.onnx", "fused": [fused], "not_fused": []}])
    assert found[best["digest"]].before == 2.0


def test_what_folding_takes_away_is_not_mined(tmp_path: Path) -> None:
    """Weights that a caller could replace, or that a loop hands on: the same patterns as where `apply` looks."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2,2] x, float[2,2] w, float[2,2] v) => (float[2,2] z)
        <float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {5, 6, 7, 8}, int64 n = {4}> {
        y, same = Loop (n, , x, w) <body = one (int64 i, bool c, float[2,2] s, float[2,2] u) =>
            (bool on, float[2,2] t, float[2,2] kept) {
                on = Identity(c)  large = Abs(u)  p = MatMul(s, large)  t = Tanh(p)  kept = Identity(u)
            }>
        sum = Add(w, v)  z = Mul(y, sum)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    kinds = {}
    for folded in (False, True):
        loaded = corpus.load(tmp_path, fold_constants=folded)
        kinds[folded] = {
            node.op_type for capture in loaded.captures for part in capture.and_bodies() for node in part.graph.nodes
        }
    assert {"Abs", "Add"} <= kinds[False]
    assert not {"Abs", "Add"} & kinds[True] and {"Tanh", "MatMul", "Mul"} <= kinds[True]


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
def test_a_pattern_in_a_body_can_be_extracted(tmp_path: Path, graphopt: CommandLine) -> None:
    onnx.save(nested(3, 5), tmp_path / "model.onnx")
    opportunities, bag = tmp_path / "opportunities.json", tmp_path / "bag"
    assert graphopt("mine", tmp_path, "-o", opportunities).code == Exit.DONE
    entries = json.loads(opportunities.read_text())["opportunities"]
    entry = next(entry for entry in entries if "Exp" in entry["operators"])
    outcome = graphopt("extract", opportunities, entry["digest"], "--corpus", tmp_path, "-o", bag)
    assert outcome.code == Exit.DONE, outcome.err
    assert sorted(node.op_type for node in onnx.load(bag / "pattern.onnx").graph.node) == sorted(entry["operators"])
    assert json.loads((bag / "bundle.json").read_text())["model"] == "model/loop_y:body/loop_z:body"
