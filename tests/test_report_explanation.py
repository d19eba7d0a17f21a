"""``graphopt explain``: every candidate region of a model with its verdict."""

import json
from pathlib import Path

import onnx
import pytest

from graphopt.cli.environment import Exit
from graphopt.kernels import find_compiler
from tests.command_line import CommandLine
from tests.test_cli_models import hard_swish

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory, graphopt: CommandLine) -> Path:
    """A fused model with its plan beside it, and the original as model.onnx."""
    folder = tmp_path_factory.mktemp("explained")
    onnx.save(hard_swish(), folder / "model.onnx")
    outcome = graphopt("apply", folder / "model.onnx", "--accept", "all", "-o", folder / "fused.onnx")
    assert outcome.code == Exit.DONE, outcome.err
    return folder / "fused.onnx"


def test_a_plan_is_explained_whole_and_by_node(fused: Path, graphopt: CommandLine) -> None:
    plan = json.loads(fused.with_suffix(".plan.json").read_text())
    whole = json.loads(graphopt("explain", fused, "--json").out)
    assert [region["nodes"] for region in whole["regions"] if region["fused"]] == [
        entry["occurrences"] for entry in plan["fused"]
    ]
    assert len(whole["regions"]) == len(plan["fused"]) + len(plan["not_fused"])
    node = plan["fused"][0]["occurrences"][0][0]
    found = json.loads(graphopt("explain", fused.with_suffix(".plan.json"), node, "--json").out)
    assert found["regions"][0]["fused"]
    assert all(any(node in nodes for nodes in region["nodes"]) for region in found["regions"])
    assert all(plan["fused"][0]["name"] in region["overlaps"] for region in found["regions"] if not region["fused"])
    by_name = graphopt("explain", fused, plan["fused"][0]["identity"][:8])
    assert by_name.code == Exit.DONE
    assert plan["fused"][0]["name"] in "".join(by_name.out.split())


def test_a_model_without_a_plan_is_fused_first_and_left_alone(fused: Path, graphopt: CommandLine) -> None:
    original = fused.with_name("model.onnx")
    before = sorted(fused.parent.iterdir())
    outcome = graphopt("explain", original, "--json")
    assert outcome.code == Exit.DONE, outcome.err
    assert json.loads(outcome.out)["model"] == "model.onnx"
    assert sorted(fused.parent.iterdir()) == before
    assert graphopt("report", "-", stdin=outcome.out.encode()).code == Exit.DONE


def test_an_unknown_node_is_an_error(fused: Path, graphopt: CommandLine) -> None:
    outcome = graphopt("explain", fused, "no-such-node")
    assert outcome.code == Exit.BAD_INPUT
    assert "no-such-node" in outcome.err


def test_what_no_opportunity_covers_is_below_support(fused: Path, graphopt: CommandLine, tmp_path: Path) -> None:
    model = onnx.load(fused.with_name("model.onnx"))
    onnx.save(model, tmp_path / "model.onnx")
    mined = tmp_path / "opportunities.json"
    assert graphopt("mine", tmp_path, "-o", mined).code == Exit.DONE
    whole = json.loads(graphopt("explain", tmp_path / "model.onnx", "--opportunities", mined, "--json").out)
    assert not any(region["reason"].startswith("below support") for region in whole["regions"])
    opportunities = json.loads(mined.read_text())
    mined.write_text(json.dumps({**opportunities, "opportunities": []}))
    none = json.loads(graphopt("explain", tmp_path / "model.onnx", "--opportunities", mined, "--json").out)
    (region,) = (region for region in none["regions"] if region["reason"].startswith("below support"))
    assert not region["fused"] and region["predicted_saving_seconds"] > 0
    assert len(region["operators"]) > 1
    plan = fused.with_suffix(".plan.json")
    assert graphopt("explain", plan, "--opportunities", mined).code == Exit.USAGE
