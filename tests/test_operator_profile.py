"""``graphopt profile``: every operator of a run beside its prediction."""

import json
from pathlib import Path

import onnx
import pytest

from graphopt import machine, models
from graphopt.cli.environment import Exit
from graphopt.errors import GraphoptError
from graphopt.runtime.operator_profile import CaptureProfile, OperatorTime, profile_files
from tests.command_line import CommandLine

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[n, 64] x) => (float[n, 32] z)
<float[64, 32] w = {%s}>
{
    y = MatMul(x, w)
    z = Relu(y)
}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A matrix product and an activation."""
    values = ", ".join(str(i % 7 / 7) for i in range(64 * 32))
    path = tmp_path / "small.onnx"
    models.save(onnx.parser.parse_model(MODEL % values), path)
    return path


def test_each_operator_stands_with_its_cost_prediction_and_time(small: Path) -> None:
    found = profile_files(small, machine.load(), shapes={"x": (128, 64)}, view="raw", seconds=0.05)
    (capture,) = found.captures
    product, activation = capture.operators
    assert (product.operator, activation.operator) == ("MatMul", "Relu")
    assert product.flops == 2 * 128 * 64 * 32
    assert product.bytes == 4 * (128 * 64 + 64 * 32 + 128 * 32)
    assert activation.bytes == 2 * 4 * 128 * 32
    assert capture.measured > 0
    assert capture.runs >= 3
    for row in capture.operators:
        assert row.predicted is not None
        assert row.measured >= 0
        assert [shape for _, _, shape in row.shapes][-1] == (128, 32)
    call = machine.load().per_call
    assert call is not None
    predicted = sum(row.predicted or 0.0 for row in capture.operators) + call.value
    assert capture.predicted == pytest.approx(predicted)


def test_the_fraction_of_the_roofline_is_ideal_over_measured() -> None:
    row = OperatorTime("n", "Relu", (), 10, 20, 1e-6, 2e-6, 4e-6)
    assert row.fraction_of_roofline == pytest.approx(0.25)
    assert row.to_dict()["bytes_per_second"] == pytest.approx(20 / 4e-6)
    assert OperatorTime("n", "If", (), 0, 0, None, None, 4e-6).fraction_of_roofline is None


def test_a_corpus_is_profiled_at_its_captured_shapes(small: Path) -> None:
    listing = "schema_version = 1\n"
    for size, count in ((4, 10), (16, 3)):
        listing += f'[[capture]]\nmodel = "small.onnx"\nexecutions = {count}\n[capture.shapes]\nx = [{size}, 64]\n'
    small.with_name("captures.toml").write_text(listing, encoding="utf-8")
    found = profile_files(small.parent, machine.load(), seconds=0.02)
    assert [(one.inputs["x"], one.executions) for one in found.captures] == [((4, 64), 10), ((16, 64), 3)]
    assert all(isinstance(one, CaptureProfile) and one.operators for one in found.captures)


def test_a_broken_model_of_a_corpus_is_a_problem_and_alone_an_error(small: Path) -> None:
    broken = small.with_name("broken.onnx")
    broken.write_bytes(b"no model")
    found = profile_files(small.parent, machine.load(), seconds=0.02)
    assert len(found.captures) == 1
    assert [line for line in found.problems if "broken.onnx" in line] == list(found.problems)
    with pytest.raises(GraphoptError, match="broken"):
        profile_files(broken, machine.load())


def test_the_command_prints_tables_or_json_and_writes_a_file(graphopt: CommandLine, small: Path) -> None:
    shown = graphopt("profile", small, "--shape", "x=32x64", "--seconds", "0.02", "--view", "raw")
    assert shown.code == Exit.DONE
    assert "MatMul" in shown.out
    assert "deviate most" in shown.out
    target = small.with_name("profile.json")
    printed = graphopt("profile", small, "--shape", "x=32x64", "--seconds", "0.02", "--json", "-o", target)
    data = json.loads(printed.out)
    assert data == json.loads(target.read_text(encoding="utf-8"))
    assert (data["schema_version"], data["kind"]) == (1, "profile")
    for row in data["captures"][0]["operators"]:
        assert row["predicted_seconds"] > 0
        assert 0 <= (row["fraction_of_roofline"] or 0) <= 1
    assert graphopt("profile", small.with_name("none.onnx")).code == Exit.BAD_INPUT
