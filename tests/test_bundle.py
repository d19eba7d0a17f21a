"""The kernel writer's loop: extract a pattern, change its C, check it, use it in a model."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.cli.environment import Exit
from graphopt.kernels import find_compiler
from tests.command_line import CommandLine

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


def swish() -> onnx.ModelProto:
    """x * clip(x + 3, 0, 6) / 6."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        swish (float[N, 32] x) => (float[N, 32] y)
        <float three = {3.0}, float zero = {0.0}, float six = {6.0}> {
            a = Add(x, three)  c = Clip(a, zero, six)  m = Mul(x, c)  y = Div(m, six)
        }"""
    )


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory, graphopt: CommandLine) -> tuple[Path, str]:
    """A folder with model.onnx, opportunities.json and the bundle of its best element-wise pattern; and its digest."""
    folder = tmp_path_factory.mktemp("loop")
    onnx.save(swish(), folder / "model.onnx")
    (folder / "captures.toml").write_text(
        'schema_version = 1\n[[capture]]\nmodel = "model.onnx"\nexecutions = 5\n[capture.shapes]\n"x" = [512, 32]\n'
    )
    outcome = graphopt("mine", folder, "-o", folder / "opportunities.json", "--json", "--view", "raw")
    assert outcome.code == Exit.DONE, outcome.err
    entries = json.loads(outcome.out)["opportunities"]
    digest = entries[0]["digest"]
    assert entries[0]["size"] == 4
    words = ("extract", folder / "opportunities.json", digest[:10], "--corpus", folder, "--view", "raw")
    outcome = graphopt(*words, "-o", folder / "bundle")
    assert outcome.code == Exit.DONE, outcome.err
    return folder, digest


@pytest.fixture
def bundle(mined: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the bundle."""
    return Path(shutil.copytree(mined[0] / "bundle", tmp_path / "bundle"))


def test_a_bundle_has_all_that_a_kernel_writer_needs(bundle: Path, mined: tuple[Path, str]) -> None:
    pattern = onnx.load(bundle / "pattern.onnx")
    onnx.checker.check_model(pattern, full_check=True)
    session_inputs = dict(np.load(bundle / "inputs.npz"))
    assert {value.name for value in pattern.graph.input} == set(session_inputs)
    assert [array.shape for array in session_inputs.values()] == [(512, 32)]
    x = next(iter(session_inputs.values()))
    expected = next(iter(np.load(bundle / "expected.npz").values()))
    np.testing.assert_allclose(expected, x * np.clip(x + 3, 0, 6) / 6, rtol=1e-5, atol=1e-6)
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["digest"] == mined[1]
    assert f"{about['name']}_kernel" in (bundle / "kernel.c").read_text()
    assert mined[1][:12] in (bundle / "README.md").read_text()


def test_the_generated_kernel_passes_its_check(bundle: Path, graphopt: CommandLine) -> None:
    outcome = graphopt("check", bundle, "--seconds", "0.2")
    assert outcome.code == Exit.DONE, outcome.err
    assert outcome.out.startswith("Verdict: ")


def changed(bundle: Path, old: str, new: str) -> None:
    path = bundle / "kernel.c"
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))


def test_a_changed_kernel_is_used_and_a_wrong_one_is_not(
    bundle: Path, mined: tuple[Path, str], graphopt: CommandLine, tmp_path: Path
) -> None:
    folder, digest = mined
    name = json.loads((bundle / "bundle.json").read_text())["name"]
    words = ("apply", folder / "model.onnx", "--view", "raw", "--accept", "all", "--shape", "x=512x32")
    words = (*words, "--opportunities", folder / "opportunities.json", "--kernel", f"{digest[:8]}={bundle}")
    changed(bundle, "/* ", "/* written by hand\n * ")
    assert graphopt("check", bundle, "--seconds", "0.2").code == Exit.DONE
    outcome = graphopt(*words, "-o", tmp_path / "fused.onnx")
    assert outcome.code == Exit.DONE, outcome.err
    assert f"{name}: the hand-written kernel is in place" in " ".join(outcome.out.split())
    assert "written by hand" in (tmp_path / "fused.c").read_text()
    assert graphopt("verify", folder / "model.onnx", tmp_path / "fused.onnx").code == Exit.DONE

    changed(bundle, " * x0;", " + x0;")
    outcome = graphopt("check", bundle)
    assert outcome.code == Exit.NEGATIVE
    assert "different" in outcome.out
    outcome = graphopt(*words, "-o", tmp_path / "other.onnx")
    assert outcome.code == Exit.DONE, outcome.err
    assert "was tried and did not stay" in " ".join(outcome.out.split())


def test_the_page_shows_the_generated_c(mined: tuple[Path, str], graphopt: CommandLine, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    words = ("report", mined[0] / "opportunities.json", "--format", "html", "-o", page)
    assert graphopt(*words).code == Exit.DONE
    assert "Generated C" not in page.read_text("utf-8")
    outcome = graphopt(*words, "--corpus", mined[0])
    assert outcome.code == Exit.DONE, outcome.err
    assert "Generated C" in page.read_text("utf-8")
    assert "make_plan" in page.read_text("utf-8")


def test_what_is_wrong_with_a_bundle_is_said_in_a_line(
    bundle: Path, mined: tuple[Path, str], graphopt: CommandLine, tmp_path: Path
) -> None:
    folder, digest = mined
    again = ("extract", folder / "opportunities.json", digest, "--corpus", folder, "--view", "raw", "-o", bundle)
    for outcome, words in (
        (graphopt(*again), "holds a bundle already"),
        (graphopt("check", folder), "bundle.json: cannot read"),
        (graphopt("apply", folder / "model.onnx", "--kernel", f"0000={bundle}"), "is the bundle of pattern"),
    ):
        assert outcome.code == Exit.BAD_INPUT
        assert words in outcome.err
        assert outcome.err.count("\n") == 1
    assert graphopt("apply", folder / "model.onnx", "--kernel", "bundle").code == Exit.USAGE
    (bundle / "kernel.c").write_text("int main(void) { return 0; }\n")
    assert "does not define" in graphopt("check", bundle).err
    changed_name = json.loads((bundle / "bundle.json").read_text())["name"]
    (bundle / "kernel.c").write_text(f"{changed_name}_kernel is not C\n")
    outcome = graphopt("check", bundle)
    assert outcome.code == Exit.BAD_INPUT
    assert "kernel.c" in outcome.err
