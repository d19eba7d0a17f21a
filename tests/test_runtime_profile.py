"""Node times: joined by name, bodies apart, nothing left behind."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import kernels
from graphopt.errors import GraphoptError
from graphopt.runtime.profile import node_turns, profile
from tests.runtime_models import fused_model, model, other_library, tensor

X = {"x": np.ones((2, 3), np.float32)}


def branching() -> onnx.ModelProto:
    """A model with an If whose branch has a node with the same name as one of the main graph."""
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["a"], name="same")], "then", [], [tensor("a")])
    otherwise = helper.make_graph([helper.make_node("Neg", ["x"], ["b"], name="neg")], "else", [], [tensor("b")])
    nodes = [
        helper.make_node("Abs", ["x"], ["p"], name="same"),
        helper.make_node("If", ["c"], ["q"], name="if", then_branch=then, else_branch=otherwise),
        helper.make_node("Add", ["p", "q"], ["y"], name="add"),
    ]
    return model(nodes, [tensor("x"), tensor("c", (), TensorProto.BOOL)], [tensor("y")])


def test_every_node_has_a_time(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="relu"), helper.make_node("Neg", ["a"], ["y"])]
    made = model(nodes, [tensor("x")], [tensor("y")])
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    for given in (made, path):
        first, again = node_turns([(given, None)] * 2, X, turns=3, runs=5)
        assert sorted(first) == sorted(again) == ["Neg_1", "relu"]
        assert all(seconds.shape == (3,) for seconds in (*first.values(), *again.values()))
        assert all(seconds.min() > 0 and seconds.max() < 1 for seconds in (*first.values(), *again.values()))


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_are_kept_apart(condition: bool) -> None:
    found = profile(branching(), {**X, "c": np.array(condition)}, runs=4)
    assert sorted(found.nodes) == ["add", "if", "same"]
    assert list(found.bodies) == ["same" if condition else "neg"]
    assert found.others == {}
    assert found.runs == 4
    (alone,) = node_turns([(branching(), None)], {**X, "c": np.array(condition)}, turns=1, runs=4)
    assert sorted(alone) == ["add", "if", "same"]
    assert found.total > 0


def test_loops_sum_over_iterations_and_nest() -> None:
    inner = helper.make_graph([helper.make_node("Relu", ["s"], ["a"], name="deep")], "then", [], [tensor("a")])
    other = helper.make_graph([helper.make_node("Neg", ["s"], ["b"], name="never")], "else", [], [tensor("b")])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["going"], name="going"),
            helper.make_node("If", ["go"], ["t"], name="inner", then_branch=inner, else_branch=other),
        ],
        "body",
        [tensor("i", (), TensorProto.INT64), tensor("go", (), TensorProto.BOOL), tensor("s")],
        [tensor("going", (), TensorProto.BOOL), tensor("t")],
    )
    made = model(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], name="loop", body=body)],
        [tensor("x")],
        [tensor("y", None)],
        weights={"trips": np.array(5)},
    )
    found = profile(made, X, runs=3)
    assert list(found.nodes) == ["loop"]
    assert sorted(found.bodies) == ["deep", "going", "inner"]
    (timed,) = node_turns([(made, None)], X, turns=2, runs=3, inside=["deep"])
    assert sorted(timed) == ["deep", "loop"]
    assert (timed["deep"] < timed["loop"]).all()
    assert found.bodies["deep"] >= 5 * 0.5e-6


def test_fused_operators_without_and_with_kernels(tmp_path: Path) -> None:
    without = profile(fused_model(), X, runs=2)
    assert list(without.nodes) == ["relu"]
    assert len(without.others) == 2
    if kernels.find_compiler() is not None:
        found = profile(fused_model(), X, runs=2, kernels=other_library(tmp_path))
        assert sorted(found.nodes) == ["fused", "relu"]
        assert found.others == {}


def test_no_file_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    node_turns([(fused_model(), None)], X, turns=1, runs=1)
    with pytest.raises(GraphoptError, match="does not run"):
        node_turns([(fused_model(), None)], {"x": np.ones((2, 4), np.float32)}, turns=1, runs=1)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    twice = model(
        [helper.make_node("Relu", ["x"], ["a"], name="n"), helper.make_node("Relu", ["a"], ["y"], name="n")],
        [tensor("x")],
        [tensor("y")],
    )
    with pytest.raises(GraphoptError, match="two nodes are called n"):
        node_turns([(twice, None)], X, turns=1, runs=1)
    with pytest.raises(GraphoptError, match="no values for the inputs x"):
        node_turns([(fused_model(), None)], {}, turns=1, runs=1)
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"\xff" * 30)
    for path in (noise, tmp_path / "none.onnx"):
        with pytest.raises(GraphoptError, match=r"\.onnx: "):
            node_turns([(path, None)], X, turns=1, runs=1)
