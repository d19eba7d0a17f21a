"""``apply`` from end to end, with real kernels in real onnxruntime."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import kernels, machine, models
from graphopt.capture import capture_model
from graphopt.errors import GraphoptError
from graphopt.mining import opportunities
from graphopt.mining.find import find_opportunities
from graphopt.passes import accept, measure
from graphopt.passes.apply import apply
from graphopt.passes.plan import Plan
from graphopt.passes.seconds import Seconds
from graphopt.runtime.session import open_session
from graphopt.weights import drop_weights

ROOT = Path(__file__).resolve().parent.parent
IMAGE = {"x": (1, 16, 24, 24)}

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BENCH_SECONDS", 0.1)
    monkeypatch.setattr(measure, "MOST_PROFILE_SECONDS", 0.2)


def hard_swish_net() -> onnx.ModelProto:
    """Convolutions with a hard-swish written out in between, as exporters do, and a free batch."""
    rng = np.random.default_rng(0)
    nodes, constants = [], {"three": np.float32(3), "low": np.float32(0), "high": np.float32(6), "six": np.float32(6)}
    value = "x"
    for block in range(3):
        constants[f"w{block}"] = (rng.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32)
        constants[f"b{block}"] = rng.standard_normal(16).astype(np.float32)
        c, a, s, m, d = (f"{kind}{block}" for kind in ("conv", "add", "clip", "mul", "div"))
        nodes += [
            helper.make_node("Conv", [value, f"w{block}", f"b{block}"], [c], name=c, pads=[1, 1, 1, 1]),
            helper.make_node("Add", [c, "three"], [a], name=a),
            helper.make_node("Clip", [a, "low", "high"], [s], name=s),
            helper.make_node("Mul", [c, s], [m], name=m),
            helper.make_node("Div", [m, "six"], [d], name=d),
        ]
        value = d
    nodes.append(helper.make_node("Identity", [value], ["y"], name="end"))
    shape = ["batch", 16, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "hard_swish_net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(hard_swish_net(), path)
    return path


def feeds(batch: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch).standard_normal((batch, 16, 24, 24)).astype(np.float32)}


def numbers(path: Path, batch: int = 1) -> np.ndarray:
    return np.asarray(open_session(path, optimization="none").run(None, feeds(batch))[0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(plan: Plan, output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_suffix(".plan.json").read_text())
    assert found == plan.to_dict()
    assert found["schema_version"] == 1
    return found


@needs_compiler
@pytest.mark.usefixtures("all_levels")
def test_fused_model_gives_the_same_numbers_with_and_without_kernels(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE, accept="all")
    assert names(output.parent) == ["fused.c", "fused.onnx", "fused.plan.json", "fused.so"]
    assert plan.fused and plan.kernels == "fused.so"
    assert plan.nodes_after < plan.nodes_unfused
    assert plan.verdict in ("equal", "close")
    document = written(plan, output)
    assert sum(len(entry["occurrences"]) for entry in document["fused"] if len(entry["operators"]) > 1) >= 3
    stored = onnx.load(output)
    metadata = {entry.key: entry.value for entry in stored.metadata_props}
    assert metadata["graphopt.kernels"] == "fused.so" and metadata["graphopt.view"] == "executed"
    assert {f.name for f in stored.functions} == {entry.name for entry in plan.fused}
    for batch in (1, 3):
        expected = numbers(model, batch)
        with_kernels = graphopt.load(output).run(None, feeds(batch))[0]
        np.testing.assert_allclose(with_kernels, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(numbers(output, batch), expected, rtol=1e-4, atol=1e-5)
        everything = open_session(output, optimization="all", kernels=output.with_suffix(".so"))
        np.testing.assert_allclose(everything.run(None, feeds(batch))[0], expected, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("view", ["executed", "portable", "raw"])
def test_views(model: Path, tmp_path: Path, view: str) -> None:
    output = tmp_path / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE, accept="predicted", view=view)
    assert plan.view == view
    np.testing.assert_allclose(graphopt.load(output).run(None, feeds())[0], numbers(model), rtol=1e-4, atol=1e-5)


@needs_compiler
def test_measured_plan_has_times(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE)
    comparison = plan.comparison("stock")
    assert comparison is not None
    assert comparison.low <= comparison.ratio <= comparison.high
    for entry in plan.fused:
        assert entry.measured is not None and entry.measured.after < entry.measured.before
        assert entry.measured.interval is not None and len(entry.measured.turns) % measure.REPEATS == 0
    for left in plan.not_fused:
        assert left.reason
    np.testing.assert_allclose(graphopt.load(output).run(None, feeds())[0], numbers(model), rtol=1e-4, atol=1e-5)
    written(plan, output)


@needs_compiler
def test_several_shapes_with_executions(model: Path, tmp_path: Path) -> None:
    shapes = [{"x": (1, 16, 24, 24)}, {"x": (2, 16, 8, 12)}]
    plan = apply(model, tmp_path / "fused.onnx", shapes=shapes, executions=[3, 1], accept="predicted")
    assert [executions for _, executions in plan.captured] == [3, 1]
    with pytest.raises(GraphoptError, match="executions"):
        apply(model, tmp_path / "fused.onnx", shapes=shapes, executions=[3])


@needs_compiler
def test_what_loses_in_measurement_is_dropped(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(variants: Any, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        seconds = [np.full(3, 1.0 if kernels is None else 9.0) for _, kernels in variants]
        return [{node.name: s for node in m.graph.node} for (m, _), s in zip(variants, seconds, strict=True)]

    monkeypatch.setattr(measure, "node_turns", pretend)
    output = tmp_path / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE)
    assert not plan.fused and plan.kernels is None
    lost = [entry for entry in plan.not_fused if entry.reason == "lost in measurement"]
    assert lost and all(entry.measured and entry.identity for entry in lost)
    assert "fused.so" not in names(tmp_path) and "fused.c" not in names(tmp_path)
    np.testing.assert_allclose(numbers(output), numbers(model), rtol=1e-4, atol=1e-5)


@needs_compiler
def test_turns_are_taken_again_while_noise_leaves_a_kernel_undecided(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is busy at first: the turns of one call differ by a factor, those of later calls do not."""
    made: list[int] = []

    def pretend(variants: Any, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        made.append(1)
        before, after = ([1.0, 1.0, 3.0], [2.0, 3.0, 1.9]) if len(made) == 1 else ([1.0] * 3, [0.1] * 3)
        seconds = [np.array(before if kernels is None else after) for _, kernels in variants]
        return [{node.name: s for node in m.graph.node} for (m, _), s in zip(variants, seconds, strict=True)]

    monkeypatch.setattr(accept, "isolated", lambda work, *arguments: work())
    monkeypatch.setattr(measure, "node_turns", pretend)
    monkeypatch.setattr(accept.Acceptance, "_fast_alone", lambda self, fusions, library: list(fusions))
    monkeypatch.setattr(accept.Acceptance, "_pays", lambda self, verdicts: True)
    plan = apply(model, tmp_path / "fused.onnx", shapes=IMAGE)
    assert 2 <= len(made) <= 1 + accept.MOST_REPEATS
    assert plan.fused and not any(entry.reason == "lost in measurement" for entry in plan.not_fused)
    assert all(entry.measured and len(entry.measured.turns) == measure.REPEATS * len(made) for entry in plan.fused)


@needs_compiler
def test_what_can_cost_little_of_a_run_is_measured_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undecided kernels, and others in place of those that lose: both would be measured again if runs were short."""
    made: list[int] = []

    def pretend(variants: Any, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        made.append(1)
        seconds = [np.array([1.0, 1.0, 3.0] if kernels is None else [12.0, 12.0, 8.0]) for _, kernels in variants]
        return [{node.name: s for node in m.graph.node} for (m, _), s in zip(variants, seconds, strict=True)]

    monkeypatch.setattr(accept, "isolated", lambda work, *arguments: work())
    monkeypatch.setattr(accept, "run_seconds", lambda *arguments: 1e6)
    monkeypatch.setattr(measure, "node_turns", pretend)
    plan = apply(model, tmp_path / "fused.onnx", shapes=IMAGE)
    assert len(made) == 1 and not plan.fused
    reasons = {entry.reason for entry in plan.not_fused}
    assert {"lost in measurement", "takes too little of a run to be tried"} <= reasons


def test_the_stake_is_the_worse_of_two_mistakes() -> None:
    seconds = Seconds(2.0, 2.0, ((2.0, 2.5), (2.0, 1.25), (2.0, 2.0)))
    assert seconds.interval is not None
    low, high = seconds.interval
    assert low < 1 < high
    lost, missed = 2.0 / low - 2.0, 2.0 - 2.0 / high
    assert accept.at_stake(seconds) == pytest.approx(max(lost, missed)) and lost > missed


def test_narrow_intervals_and_those_beyond_the_least_gain_are_decided() -> None:
    def seconds(*ratios: float) -> Seconds:
        return Seconds.of([np.array(ratios)], np.ones(len(ratios)))

    assert accept.is_undecided(seconds(0.7, 1.0, 1.5), 1.03)
    assert not accept.is_undecided(seconds(1.029, 1.03, 1.031), 1.03)
    assert not accept.is_undecided(seconds(1.9, 2.0, 2.1), 1.03)
    assert not accept.is_undecided(seconds(1.0), 1.03)


@needs_compiler
def test_a_kernel_with_other_numbers_is_dropped_and_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = kernels.build_library

    def wrong(fused: Any, folder: Path, name: str, **options: Any) -> Path:
        broken = []
        for operator in fused:
            nodes = tuple(replace(n, op_type="Sub") if n.op_type == "Add" else n for n in operator.body.nodes)
            broken.append(replace(operator, body=replace(operator.body, nodes=nodes)))
        return original(broken, folder, name, **options)

    monkeypatch.setattr(kernels, "build_library", wrong)
    output = tmp_path / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE, accept="all")
    wrongs = [entry for entry in plan.not_fused if entry.reason.startswith("not the same model")]
    assert wrongs and "Add" in wrongs[0].operators
    assert all("Add" not in entry.operators for entry in plan.fused)
    np.testing.assert_allclose(graphopt.load(output).run(None, feeds())[0], numbers(model), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("accept", ["all", "measured"])
def test_a_kernel_that_crashes_is_dropped_and_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accept: Any
) -> None:
    original = kernels.emit_library

    def crashing(*arguments: Any) -> Any:
        source = original(*arguments)
        crash = "    *(volatile int *)0 = 1;\n    VECTORISED\n"
        texts = [(n, t.replace("    VECTORISED\n", crash) if "Clip" in n else t) for n, t in source.kernels]
        return replace(source, kernels=tuple(texts))

    monkeypatch.setattr(kernels, "emit_library", crashing)
    output = tmp_path / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE, accept=accept)
    crashed = [entry for entry in plan.not_fused if "crashed (SIG" in entry.reason]
    assert crashed and all("Clip" in entry.operators for entry in crashed)
    assert all("Clip" not in entry.operators for entry in plan.fused)
    np.testing.assert_allclose(graphopt.load(output).run(None, feeds())[0], numbers(model), rtol=1e-4, atol=1e-5)


def test_without_a_compiler_the_model_is_still_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/compiler")
    output = tmp_path / "fused.onnx"
    plan = apply(model, output, shapes=IMAGE)
    assert not plan.fused
    assert len([note for note in plan.notes if "compiler" in note]) == 1
    assert names(tmp_path) == ["fused.onnx", "fused.plan.json", "model.onnx"]
    np.testing.assert_allclose(numbers(output), numbers(model), rtol=1e-4, atol=1e-5)


def test_clean_ups_alone(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "clean.onnx"
    plan = apply(model, output, shapes=IMAGE, passes="remove-no-ops,remove-dead-nodes")
    assert plan.view == "raw" and not plan.fused and not plan.not_fused
    assert len(onnx.load(output).graph.node) == len(onnx.load(model).graph.node) - 1
    np.testing.assert_array_equal(numbers(output), numbers(model))


@needs_compiler
def test_opportunities_decide_what_is_fused(model: Path, tmp_path: Path) -> None:
    captured = capture_model(models.load(model), "model", IMAGE)
    report = find_opportunities([captured], machine.load(), k=1, max_size=8, jobs=1)
    file = tmp_path / "opportunities.json"
    opportunities.write(report, file)
    plan = apply(model, tmp_path / "fused.onnx", opportunities=file, shapes=IMAGE, accept="predicted")
    (wanted,) = report.opportunities
    # the pattern holds a convolution, which has no kernel: the part around it that has one is fused, and nothing else
    assert plan.fused
    for entry in plan.fused:
        left = Counter(name.rpartition(".")[2] for name in wanted.operators)
        left.subtract(name.rpartition(".")[2] for name in entry.operators)
        assert min(left.values()) >= 0


@needs_compiler
def test_dropped_weights_are_stood_in_for(tmp_path: Path) -> None:
    path = tmp_path / "light.onnx"
    onnx.save(drop_weights(hard_swish_net()), path)
    plan = apply(path, tmp_path / "fused.onnx", shapes=IMAGE, accept="predicted")
    assert any("weights" in note for note in plan.notes)
    open_session(tmp_path / "fused.onnx", optimization="none").run(None, feeds())


# ---------------------------------------------------------------------------------------- bad input, interruptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accept": "maybe"}, "accept 'maybe'"),
        ({"machine": "abacus"}, "abacus"),
        ({"passes": "fuze"}, "fuze"),
        ({"passes": "fuse,fuse"}, "once"),
        ({"view": "cooked"}, "cooked"),
        ({"shapes": {"x": (1, 5, 24, 24)}}, "x"),
        ({"shapes": {"image": (1, 16, 24, 24)}}, "image"),
        ({"opportunities": Path("nowhere.json")}, "nowhere.json"),
    ],
)
def test_bad_options_write_nothing(model: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    before = names(tmp_path)
    with pytest.raises(GraphoptError) as error:
        apply(model, tmp_path / "fused.onnx", **{"shapes": IMAGE, **options})
    assert words in str(error.value) and "\n" not in str(error.value)
    assert names(tmp_path) == before


def test_bad_files_write_nothing(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    bad = tmp_path / "bad.onnx"
    for damaged in (b"", b"PK\x03\x04 not a model", content[: len(content) // 2]):
        bad.write_bytes(damaged)
        with pytest.raises(GraphoptError, match=r"bad\.onnx"):
            apply(bad, tmp_path / "fused.onnx")
    with pytest.raises(GraphoptError, match="missing"):
        apply(tmp_path / "missing.onnx", tmp_path / "fused.onnx")
    with pytest.raises(GraphoptError, match="the model itself"):
        apply(model, model)
    with pytest.raises(GraphoptError, match="folder"):
        apply(model, tmp_path)
    assert model.read_bytes() == content
    assert names(tmp_path) == ["bad.onnx", "model.onnx"]


class Interrupted(KeyboardInterrupt):
    """Stands for Ctrl-C."""


@needs_compiler
@pytest.mark.parametrize("step", ["reading", "cleaning", "choosing", "building", "measuring", "timing"])
def test_interruption_leaves_the_old_files(model: Path, tmp_path: Path, step: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("fused.onnx", "fused.so", "fused.c", "fused.plan.json"):
        (folder / name).write_text(f"old {name}")

    def interrupt(text: str) -> None:
        if text.startswith(step):
            raise Interrupted

    with pytest.raises(Interrupted):
        apply(model, folder / "fused.onnx", shapes=IMAGE, progress=interrupt)
    assert names(folder) == ["fused.c", "fused.onnx", "fused.plan.json", "fused.so"]
    assert all(path.read_text() == f"old {path.name}" for path in folder.iterdir())


@needs_compiler
def test_a_signal_leaves_all_old_or_all_new(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from graphopt.passes.apply import apply
        sys.stdout.write("started\\n"); sys.stdout.flush()
        apply(Path({str(model)!r}), Path({str(folder / "fused.onnx")!r}), shapes={IMAGE!r}, accept="all",
              progress=lambda text: print(text, flush=True))
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for delay in ("building", "done"):
        shutil.rmtree(folder, ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(delay):
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=120)
        found = names(folder) if folder.exists() else []
        assert found in ([], ["fused.c", "fused.onnx", "fused.plan.json", "fused.so"])
        if found:
            graphopt.load(folder / "fused.onnx").run(None, feeds())


@needs_compiler
def test_a_later_run_without_fusions_removes_the_old_library(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "fused.onnx"
    apply(model, output, shapes=IMAGE, accept="all")
    assert "fused.so" in names(tmp_path)
    apply(model, output, shapes=IMAGE, passes="remove-no-ops")
    assert names(tmp_path) == ["fused.onnx", "fused.plan.json", "model.onnx"]


def test_files_of_others_are_not_removed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "fused.c").write_text("int main(void) { return 0; }")
    (tmp_path / "fused.so").write_text("somebody's")
    apply(model, tmp_path / "fused.onnx", shapes=IMAGE, passes="remove-no-ops")
    assert {"fused.c", "fused.so"} <= set(names(tmp_path))
