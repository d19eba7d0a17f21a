"""Fusion inside of If, Loop and Scan bodies: the same model, with kernels and without."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import graphopt
from graphopt import kernels
from graphopt.model_files import every_graph
from graphopt.model_graphs import with_unique_names
from graphopt.passes.apply import apply
from graphopt.passes.base import LOCAL_DOMAIN, Context, Observed
from graphopt.passes.fuse import Fuse, Fusions, observe
from graphopt.runtime.profile import node_turns
from graphopt.runtime.session import open_session
from tests import random_bodies
from tests.loops import FEEDS, STEP, W, loop, model, recurrent, value

OBSERVED = Observed(random_bodies.INPUTS, ranges={"trips": (2, 3), "condition": (1, 2)})


def fused(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Fusions]:
    result = Fuse().run(model, Context((OBSERVED,), keep_losing=True))
    assert isinstance(result.details, Fusions)
    return result.model, result.details


@given(st.lists(random_bodies.models(), min_size=6, max_size=6), st.booleans(), st.integers(0, 3))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_numbers_stay(
    tmp_path_factory: pytest.TempPathFactory, models: list[onnx.ModelProto], condition: bool, trips: int
) -> None:
    feeds = random_bodies.feeds(condition, trips)
    rewritten = [fused(model) for model in models]
    operators = {
        fusion.name: kernels.FusedOperator(fusion.name, fusion.body, fusion.shapes)
        for _, details in rewritten
        for fusion in details.made
    }
    library = None
    if operators:
        library = kernels.build_library([operators[n] for n in sorted(operators)], tmp_path_factory.mktemp("k"), "k")
    for before, (after, details) in zip(models, rewritten, strict=True):
        calls = [node for graph in every_graph(after.graph) for node in graph.node if node.domain == LOCAL_DOMAIN]
        assert len(calls) == sum(len(fusion.occurrences) for fusion in details.made)
        expected = open_session(before, optimization="none").run(None, feeds)
        for level, kernel_library in (("none", None), ("all", None), ("none", library), ("all", library)):
            found = open_session(after, optimization=level, kernels=kernel_library).run(None, feeds)
            for left, right in zip(expected, found, strict=True):
                np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-5)


def expected_state(trips: int) -> np.ndarray:
    state = np.zeros((2, 2), np.float32)
    for _ in range(trips):
        state = np.sin(state @ W + FEEDS["x"])
    return state


def fusions(made: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, Fusions]:
    result = Fuse().run(made, Context((Observed({"x": (2, 2), "c": ()}),), keep_losing=True, **options))
    assert isinstance(result.details, Fusions)
    return result.model, result.details


def test_a_call_in_a_body_has_its_constants_there(tmp_path: Path) -> None:
    after, details = fusions(recurrent())
    (fusion,) = details.made
    assert [node.op_type for node in fusion.body.nodes] == ["MatMul", "Add", "Sin"]
    assert sorted(tensor.name for tensor in after.graph.initializer) == ["n", "s0"]
    body = after.graph.node[0].attribute[0].g
    (call,) = [node for node in body.node if node.domain == LOCAL_DOMAIN]
    assert set(call.input) == {"s_y", "x", body.initializer[0].name}
    library = kernels.build_library([kernels.FusedOperator(fusion.name, fusion.body, fusion.shapes)], tmp_path, "k")
    for used in (library, None):
        (found,) = open_session(after, optimization="none", kernels=used).run(None, FEEDS)
        np.testing.assert_allclose(found, expected_state(4), rtol=1e-6)


def test_what_runs_more_often_counts_for_more() -> None:
    seconds = [fusions(recurrent(trips))[1].made[0].before for trips in (2, 6)]
    assert seconds[1] == pytest.approx(3 * seconds[0])


def test_trips_of_nested_loops_multiply() -> None:
    inner = loop("m", "s_y", "z", [helper.make_node("Neg", ["s_z"], ["t_z"], name="neg")])
    outer = loop("n", "x", "y", [inner, helper.make_node("Relu", ["z"], ["t_y"], name="relu")])
    made = model([outer], {"m": np.array(3), "n": np.array(5)}, ["y"])
    (capture,) = observe(made, Context((Observed({"x": (2, 2), "c": ()}),)))
    runs = {node.name: capture.runs(index) for index, node in enumerate(capture.graph.nodes)}
    assert runs == {"going_y": 5, "going_z": 15, "neg": 15, "loop_z": 5, "relu": 5, "loop_y": 1}
    places = [node.name for node in capture.graph.nodes]
    assert places.index("neg") < places.index("loop_z") < places.index("loop_y")


@pytest.mark.parametrize("condition", [True, False])
def test_the_branch_that_ran_is_fused(condition: bool) -> None:
    branches = {
        name: helper.make_graph(
            [helper.make_node("Exp", ["x"], [f"e_{name}"]), helper.make_node(kind, [f"e_{name}"], [f"r_{name}"])],
            name,
            [],
            [value(f"r_{name}")],
        )
        for name, kind in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    made = model([helper.make_node("If", ["k"], ["y"], name="if", **branches)], {"k": np.array(condition)}, ["y"])
    after, details = fusions(made)
    (fusion,) = details.made
    assert [node.op_type for node in fusion.body.nodes] == ["Exp", "Neg" if condition else "Abs"]
    ran = {attribute.name: attribute.g for attribute in after.graph.node[0].attribute}
    assert [len(ran[name].node) for name in ("then_branch", "else_branch")] == ([1, 2] if condition else [2, 1])


def test_operators_of_different_bodies_are_not_fused() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"], name="exp"), helper.make_node("Neg", ["e"], ["f"], name="neg")]
    nodes.append(loop("n", "f", "y", STEP))
    _, details = fusions(model(nodes, {"n": np.array(2), "w": W}, ["y"]))
    found = sorted([node.op_type for node in fusion.body.nodes] for fusion in details.made)
    assert found == [["Exp", "Neg"], ["MatMul", "Add", "Sin"]]


def test_names_in_bodies_become_their_own() -> None:
    """Branches that share names, and one that hides a name of the graph around it."""
    then = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["a"], name="n"), helper.make_node("Exp", ["a"], ["b"])], "t", [], [value("b")]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["p"], ["a"], name="n"), helper.make_node("Add", ["a", "w"], ["b"])],
        "e",
        [],
        [value("b")],
        [numpy_helper.from_array(W, "w")],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["p"], name="n"),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Sub", ["y", "w2"], ["z"]),
    ]
    made = model(nodes, {"w2": W}, ["z"])
    named = with_unique_names(made)
    graphs = list(every_graph(named.graph))
    names = [node.name for graph in graphs for node in graph.node]
    tensors = [name for graph in graphs for node in graph.node for name in node.output]
    assert all(names) and len(set(names)) == len(names) == 7
    assert len(set(tensors)) == len(tensors)
    assert with_unique_names(named) is named
    for condition in (True, False):
        given = {**FEEDS, "c": np.array(condition)}
        before, after = (open_session(m, optimization="none").run(None, given)[0] for m in (made, named))
        np.testing.assert_array_equal(before, after)


def test_times_of_nodes_in_bodies_can_be_asked_for() -> None:
    (found,) = node_turns([(recurrent(), None)], FEEDS, turns=2, runs=3, inside=["sum", "sine", "none"])
    assert sorted(found) == ["loop_y", "sine", "sum"]
    assert all((seconds > 0).all() for seconds in found.values())


def test_apply_from_end_to_end(tmp_path: Path) -> None:
    onnx.save(recurrent(), tmp_path / "model.onnx")
    plan = apply(tmp_path / "model.onnx", tmp_path / "fused.onnx", accept="all")
    assert len(plan.fused) == 1 and plan.fused[0].operators[-1] == "Sin"
    assert plan.nodes_after == 1 + 2  # the condition and the kernel
    for session in (graphopt.load(tmp_path / "fused.onnx"), open_session(tmp_path / "fused.onnx")):
        np.testing.assert_allclose(session.run(None, FEEDS)[0], expected_state(4), rtol=1e-6)


def test_apply_says_what_it_left(tmp_path: Path) -> None:
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [], [value(name)])
        for name, kind in (("then", "Exp"), ("else", "Neg"))
    }
    onnx.save(model([helper.make_node("If", ["c"], ["y"], **branches)], {}, ["y"]), tmp_path / "model.onnx")
    plan = apply(tmp_path / "model.onnx", tmp_path / "fused.onnx", accept="all")
    assert any(note.startswith("1 of 2 bodies of If, Loop and Scan stay as they are") for note in plan.notes)
