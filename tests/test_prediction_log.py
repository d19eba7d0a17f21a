"""The log of predictions and what is learnt from it."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import machine, models, prediction_log, roofline
from graphopt.calibrate.learning import learn, mean_error
from graphopt.cli.environment import Exit
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, Node, OperatorGraph, Tensor
from graphopt.machine import Quantity
from graphopt.passes.apply import apply
from graphopt.prediction_log import Record
from graphopt.runtime.deployment import bench_files
from tests.command_line import CommandLine


def pattern(operators: Sequence[str], *shape: int) -> Capture:
    """A chain of operators of one operand, the first of which adds a constant."""
    names = [f"t{i}" for i in range(len(operators) + 2)]
    nodes = [Node("add", "", "Add", 17, (names[0], "c"), (names[1],), {})]
    nodes += [
        Node(op, "", op, 17, (names[i],), (names[i + 1],), {"axis": -1, "axes": (0, 1)})
        for i, op in enumerate(operators, 1)
    ]
    tensors = {name: Tensor(name, "float32", len(shape)) for name in names}
    tensors["c"] = Tensor("c", "float32", 1, True, np.asarray([0.5, 1.5], np.float32), (2,))
    graph = OperatorGraph("pattern", tuple(nodes), tensors, (names[0],), (names[-1],))
    return Capture(graph, dict.fromkeys(names, shape))


def record(capture: Capture, measured: tuple[float, float] = (2e-5, 1e-5)) -> Record:
    return Record(capture, "m", 1, "bench", (1e-5, 5e-6), measured)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    target = tmp_path / "state" / "predictions.jsonl"
    monkeypatch.setenv("GRAPHOPT_LOG", str(target))
    return target


def test_what_is_appended_is_read_again(log: Path) -> None:
    one, two = record(pattern(["Exp"], 4, 2)), record(pattern(["Relu", "Tanh"], 8, 2), (3e-5, 2e-5))
    prediction_log.append([one])
    prediction_log.append([two])
    found = prediction_log.read(log)
    assert [entry.measured for entry in found] == [one.measured, two.measured]
    for entry, original in zip(found, (one, two), strict=True):
        assert entry.predicted == original.predicted
        assert [node.operator for node in entry.capture.graph.nodes] == [
            node.operator for node in original.capture.graph.nodes
        ]
        assert entry.capture.graph.nodes[1].attributes["axes"] == (0, 1)
        value = entry.capture.graph.tensors["c"].value
        assert value is not None
        assert value.tolist() == [0.5, 1.5]
        times = [roofline.operator_times(each.capture, machine.load()) for each in (entry, original)]
        assert times[0] == times[1]


def test_the_log_stands_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRAPHOPT_LOG")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert prediction_log.path() == tmp_path / "graphopt" / "predictions.jsonl"
    monkeypatch.setenv("GRAPHOPT_LOG", "off")
    assert prediction_log.path() is None
    prediction_log.append([record(pattern(["Exp"], 4, 2))])
    assert list(tmp_path.iterdir()) == []


def _append(count: int) -> None:
    for _ in range(count):
        prediction_log.append([record(pattern(["Exp", "Tanh"] * 10, 4, 2))] * 3)


def test_writers_at_once_leave_whole_lines(log: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(20,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(prediction_log.read(log)) == 4 * 20 * 3


def test_a_full_or_closed_log_is_left_alone(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction_log.append([record(pattern(["Exp"], 4, 2))])
    monkeypatch.setattr(prediction_log, "LARGEST", log.stat().st_size + 10)
    prediction_log.append([record(pattern(["Exp"], 4, 2))])
    assert len(prediction_log.read(log)) == 1
    monkeypatch.setenv("GRAPHOPT_LOG", str(log / "no" / "folder"))
    prediction_log.append([record(pattern(["Exp"], 4, 2))])


@pytest.mark.parametrize("line", ["{", "{}", '{"schema_version": 2, "kind": "prediction"}', "[1]"])
def test_a_broken_log_is_one_line(log: Path, line: str) -> None:
    prediction_log.append([record(pattern(["Exp"], 4, 2))])
    with log.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(GraphoptError, match="line 2"):
        prediction_log.read(log)
    with pytest.raises(GraphoptError, match="cannot read"):
        prediction_log.read(log.with_name("none"))


MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[256, 64] x) => (float[256, 64] z)
{
    a = Exp(x)
    y = Add(a, x)
    z = Tanh(y)
}
"""


def test_apply_and_bench_log_what_they_measure(log: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    original, fused = tmp_path / "chain.onnx", tmp_path / "fused.onnx"
    models.save(onnx.parser.parse_model(MODEL), original)
    assert apply(original, fused, accept="all").fused
    assert not log.exists()  # nothing was measured
    bench_files(original, fused, seconds=0.05)
    (benched,) = prediction_log.read(log)
    assert benched.origin == "bench"
    assert [node.op_type for node in benched.capture.graph.nodes] == ["Exp", "Add", "Tanh"]
    assert benched.capture.shape(benched.capture.graph.inputs[0]) == (256, 64)
    assert min(*benched.predicted, *benched.measured) > 0
    apply(original, fused, accept="measured")
    applied = [entry for entry in prediction_log.read(log) if entry.origin == "apply"]
    assert applied
    assert all(len(entry.capture.graph.nodes) > 1 and min(entry.measured) > 0 for entry in applied)
    done = graphopt("calibrate", "--from-log", "-o", tmp_path / "learnt.toml")
    assert done.code == Exit.DONE, done.err
    assert machine.load(tmp_path / "learnt.toml").name == "learnt"


def test_rates_that_are_wrong_are_learnt() -> None:
    """Times come from a machine on which Exp is three times slower and Tanh, in a kernel, twice as fast."""
    start = machine.load()
    truth = replace(
        start,
        rates={**start.rates, "exp": replace(start.rates["exp"], value=start.rates["exp"].value / 3)},
        kernel_rates={**start.kernel_rates, "tanh": replace(start.kernel_rates["tanh"], value=6e9)},
    )
    records = []
    for operators in (["Exp"], ["Tanh"], ["Exp", "Tanh"], ["Relu", "Exp"], ["Relu", "Sqrt"], ["Sqrt", "Tanh"]):
        for shape in ((64, 1024), (512, 128)):
            one = pattern(operators, *shape)
            apart = sum(seconds or 0.0 for seconds in roofline.operator_times(one, truth))
            fused = roofline.fused_seconds(one, range(len(one.graph.nodes)), truth)
            assert fused is not None
            records.append(record(one, (apart, fused)))
    learnt = learn(start, records, "log")
    assert learnt.records == len(records)
    assert learnt.error_before > 0.15
    assert learnt.error_after < learnt.error_before / 4
    assert learnt.machine.rates["exp"].value == pytest.approx(truth.rates["exp"].value, rel=0.25)
    assert learnt.machine.rates["sqrt"].value == pytest.approx(start.rates["sqrt"].value, rel=0.25)
    assert learnt.machine.kernel_rates["tanh"].value == pytest.approx(6e9, rel=0.25)
    assert "learnt from" in learnt.machine.rates["exp"].source
    assert learnt.machine.rates["log"] == start.rates["log"]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_learnt_holds_for_patterns_that_were_not_logged(seed: int) -> None:
    """Rates off by up to two times, times by up to a tenth; nothing of the hold-out is learnt from."""
    rng = np.random.default_rng(seed)
    start, operators = machine.load(), ["Exp", "Tanh", "Sqrt", "Erf", "Sigmoid", "Log"]
    keys = [name.lower() for name in operators]
    truth = replace(
        start,
        rates=start.rates | {key: _scaled(start.rates[key], rng.uniform(0.5, 2)) for key in keys},
        kernel_rates=start.kernel_rates | {key: _scaled(start.kernel_rates[key], rng.uniform(0.5, 2)) for key in keys},
    )
    chains = [list(chain) for count in (2, 3) for chain in permutations(operators, count)]
    chosen = [chains[i] for i in rng.permutation(len(chains))[:36]]
    sets = []
    for part, shapes in ((chosen[:24], ((256, 300), (2000, 96))), (chosen[24:], ((600, 128), (64, 900)))):
        records = []
        for chain in part:
            one = pattern(chain, *shapes[rng.integers(2)])
            apart = sum(seconds or 0.0 for seconds in roofline.operator_times(one, truth))
            fused = roofline.fused_seconds(one, range(len(one.graph.nodes)), truth) or 0.0
            first, second = rng.uniform(0.9, 1.1, 2)
            records.append(record(one, (apart * first, fused * second)))
        sets.append(records)
    learnt = learn(start, sets[0], "log").machine
    before, after = mean_error(start, sets[1]), mean_error(learnt, sets[1])
    assert before > 0.15
    assert after < 0.1
    assert after < before / 2


def _scaled(rate: Quantity, factor: float) -> Quantity:
    return replace(rate, value=rate.value * factor)


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(GraphoptError, match="log: none of its 0 records"):
        learn(machine.load(), [], "log")
    short = replace(record(pattern(["Exp"], 4, 2), (1e-6, 1e-6)), origin="apply")
    with pytest.raises(GraphoptError, match="none of its 1 records"):
        learn(machine.load(), [short], "log")
