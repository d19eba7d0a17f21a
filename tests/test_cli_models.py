"""The commands that read models: capture, run, verify, bench, and what they say to bad input."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.cli.environment import Exit
from tests.command_line import CommandLine


def hard_swish(name: str = "hard_swish", factor: float = 1 / 6) -> onnx.ModelProto:
    """x * clip(x + 3, 0, 6) / 6 behind a matrix product, over a free batch."""
    weights = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    constants = {"weights": weights, "three": 3.0, "low": 0.0, "high": 6.0, "sixth": factor}
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["h"]),
        helper.make_node("Add", ["h", "three"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["c"]),
        helper.make_node("Mul", ["h", "c"], ["m"]),
        helper.make_node("Mul", ["m", "sixth"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "hard_swish.onnx"
    onnx.save(hard_swish(), path)
    return path


def test_capture_stores_what_mine_can_read(model: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    corpus = tmp_path / "fleet"
    first = graphopt("capture", model, "--corpus", corpus, "--shape", "x=8x16", "--executions", "5")
    assert first.code == Exit.DONE, first.err
    stored = Path(first.out.strip())
    assert stored.parent == corpus
    assert graphopt("capture", model, "--corpus", corpus, "--shape", "x=1x16").code == Exit.DONE
    listing = (corpus / "captures.toml").read_text()
    assert re.search(r"executions = 5\n\[capture.shapes\]\n\S*x\S* = \[8, 16\]", listing)
    assert listing.count("[[capture]]") == 2
    assert len(list(corpus.glob("*.onnx"))) == 1


def test_capture_reads_stdin(model: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    words = ("capture", "-", "--corpus", tmp_path / "fleet", "--shape", "x=8x16", "--name", "from_stdin")
    outcome = graphopt(*words, stdin=model.read_bytes())
    assert outcome.code == Exit.DONE, outcome.err
    assert "from_stdin" in outcome.out


def test_stdin_is_read_once(model: Path, graphopt: CommandLine) -> None:
    assert graphopt("verify", "-", "-", stdin=model.read_bytes()).code == Exit.USAGE


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_run_says_what_came_out(runtime: str, model: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    target = tmp_path / "outputs.npz"
    words = ("run", model, "--shape", "x=4x16", "--runtime", runtime, "-o", target)
    outcome = graphopt(*words, "--json")
    assert outcome.code == Exit.DONE, outcome.err
    data = json.loads(outcome.out)
    assert data["kind"] == "run"
    assert data["outputs"]["y"]["shape"] == [4, 32]
    with np.load(target) as arrays:
        assert float(arrays["y"].min()) == pytest.approx(data["outputs"]["y"]["minimum"])
    table = graphopt(*words)
    assert "4×32" in table.out
    assert max(map(len, table.out.splitlines())) <= 80


def test_run_uses_the_range_it_is_given(model: Path, graphopt: CommandLine) -> None:
    data = json.loads(graphopt("run", model, "--range", "x=0", "--json").out)
    assert data["outputs"]["y"]["minimum"] == data["outputs"]["y"]["maximum"] == 0.0


def test_verify_has_a_verdict(model: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(hard_swish(factor=1 / 5), other)
    same = graphopt("verify", model, model, "--batch", "3")
    assert same.code == Exit.DONE, same.err
    assert same.out.startswith("Verdict: equal\n")
    assert "batch 3" in same.out
    different = graphopt("verify", model, other, "--json")
    assert different.code == Exit.NEGATIVE
    data = json.loads(different.out)
    assert (data["kind"], data["verdict"], data["passed"]) == ("verification", "different", False)
    drawn = graphopt("verify", model, other)
    assert drawn.out.startswith("Verdict: different\n")
    assert "elements beyond the tolerance" in " ".join(drawn.out.split())


def test_bench_compares_with_all_optimisations_and_with_none(model: Path, graphopt: CommandLine) -> None:
    words = ("bench", model, model, "--shape", "x=4x16", "--seconds", "0.05")
    data = json.loads(graphopt(*words, "--json").out)
    assert data["kind"] == "benchmark"
    assert len(data["timings"]) == 3
    assert [ratio["low"] <= ratio["ratio"] <= ratio["high"] for ratio in data["ratios"]] == [True, True]
    assert {"median_seconds", "mean_seconds", "min_seconds", "max_seconds", "stdev_seconds"} <= set(data["timings"][0])
    drawn = graphopt(*words)
    assert drawn.code == Exit.DONE
    assert "95 % interval" in drawn.out
    assert max(map(len, drawn.out.splitlines())) <= 80


def not_onnx(path: Path) -> None:
    path.write_bytes(b"this is no model\n" * 40)


def truncated(path: Path) -> None:
    onnx.save(hard_swish(), path)
    path.write_bytes(path.read_bytes()[:1500])


def missing_external_data(path: Path) -> None:
    onnx.save(hard_swish(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


def cyclic(path: Path) -> None:
    model = hard_swish()
    model.graph.node[1].input[1] = "m"
    path.write_bytes(model.SerializeToString())


def expanding(path: Path) -> None:
    """Thirty functions, each of which calls the one before it twice: 2^30 operators."""
    node, opsets = helper.make_node, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "f0", ["x"], ["y"], [node("Relu", ["x"], ["y"])], opsets)]
    for number in range(1, 31):
        calls = [node(f"f{number - 1}", [a], [b], domain="own") for a, b in (("x", "t"), ("t", "y"))]
        functions.append(helper.make_function("own", f"f{number}", ["x"], ["y"], calls, opsets))
    tensors = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([node("f30", ["x"], ["y"], domain="own")], "g", tensors[:1], tensors[1:])
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, functions=functions).SerializeToString())


def calling_itself(path: Path) -> None:
    node, opsets = helper.make_node, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", name, ["x"], ["y"], [node(other, ["x"], ["y"], domain="own")], opsets)
        for name, other in (("f", "g"), ("g", "f"))
    ]
    tensors = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([node("f", ["x"], ["y"], domain="own")], "g", tensors[:1], tensors[1:])
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, functions=functions).SerializeToString())


def absent(path: Path) -> None:
    pass


def a_folder(path: Path) -> None:
    path.mkdir()


BROKEN = (not_onnx, truncated, missing_external_data, cyclic, expanding, calling_itself, absent, a_folder)
CAUSES = {
    not_onnx: "not an ONNX file",
    truncated: "truncated",
    missing_external_data: "weights.bin",
    cyclic: "cycle",
    expanding: "stands for more than",
    calling_itself: "calls itself",
    absent: "No such file",
    a_folder: "directory",
}


@pytest.mark.parametrize("break_it", BROKEN)
@pytest.mark.parametrize(
    "words",
    [
        ["capture", "{bad}", "--corpus", "{folder}/new/corpus"],
        ["apply", "{bad}", "-o", "{folder}/new/fused.onnx"],
        ["run", "{bad}", "-o", "{folder}/new/outputs.npz"],
        ["verify", "{bad}", "{good}"],
        ["verify", "{good}", "{bad}"],
        ["bench", "{bad}", "{good}"],
        ["bench", "{good}", "{bad}"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_bad_models(break_it: object, words: list[str], model: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    bad = folder / "bad.onnx"
    break_it(bad)  # type: ignore[operator]
    before = sorted(tmp_path.rglob("*"))
    outcome = graphopt(*(word.format(bad=bad, good=model, folder=tmp_path) for word in words))
    assert outcome.code == Exit.BAD_INPUT
    assert outcome.out == ""
    assert re.fullmatch(rf"graphopt: error: [^\n]*{re.escape(str(bad))}[^\n]*\n", outcome.err), outcome.err
    assert CAUSES[break_it] in outcome.err  # type: ignore[index]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shape", ["x=4x17", "x=4", "nonsense=4x16", "x=4x16x1"])
@pytest.mark.parametrize(
    "words",
    [
        ["capture", "{model}", "--corpus", "{folder}/new"],
        ["apply", "{model}", "-o", "{folder}/new/fused.onnx"],
        ["run", "{model}", "-o", "{folder}/new/outputs.npz"],
        ["verify", "{model}", "{model}"],
        ["bench", "{model}", "{model}"],
    ],
    ids=lambda words: words[0],
)
def test_shapes_that_contradict_the_model(
    shape: str, words: list[str], model: Path, tmp_path: Path, graphopt: CommandLine
) -> None:
    outcome = graphopt(*(word.format(model=model, folder=tmp_path) for word in words), "--shape", shape)
    assert outcome.code == Exit.BAD_INPUT
    assert outcome.out == ""
    name = shape.partition("=")[0]
    assert re.fullmatch(rf"graphopt: error: [^\n]*'{name}'[^\n]*\n", outcome.err), outcome.err
    assert sorted(tmp_path.iterdir()) == [model]
