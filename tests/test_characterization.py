"""The characterization: liveness, layers, intensity, projection, the paper's numbers and claims, the command."""

import csv
import io
import json
from dataclasses import replace
from math import prod
from pathlib import Path

import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import corpus, machine, operators
from graphopt.characterization.characterize import Characterization, batch_of, characterize, intensity
from graphopt.characterization.classes import OperatorClass, operator_classes
from graphopt.characterization.layers import Kind, Matrices, layers
from graphopt.characterization.liveness import liveness
from graphopt.characterization.parameters import fixed_tensors, parameter_elements
from graphopt.characterization.projection import Accelerator, placed, project, schedule, sweep
from graphopt.graph import Capture, Node, OperatorGraph, Shape, Tensor
from graphopt.observation import observe
from tests import networks
from tests.command_line import CommandLine


def captured(text: str, **shapes: Shape) -> Capture:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> {text}')
    seen = observe(model, shapes, name="g")
    return Capture(seen.graph, seen.shapes)


@pytest.fixture(scope="module")
def samples(sample_graphs: Path) -> tuple[Capture, ...]:
    return corpus.load(sample_graphs, view="raw").captures


@pytest.fixture(scope="module")
def fleet(samples: tuple[Capture, ...]) -> Characterization:
    return characterize(samples, machine.load(), view="raw")


# ------------------------------------------------------------------ liveness

KINDS = {"Relu": 1, "Add": 2, "Reshape": 1, "MatMul": 2}


@st.composite
def graphs(draw: st.DrawFn) -> Capture:
    """Random graphs of element-wise operators, views and others; sizes as drawn, whatever the operators would say."""
    names = ["in0", "in1"]
    sizes = {name: draw(st.integers(0, 5)) for name in names}
    nodes = []
    for index in range(draw(st.integers(1, 12))):
        op_type = draw(st.sampled_from(sorted(KINDS)))
        inputs = tuple(draw(st.sampled_from(names)) for _ in range(KINDS[op_type]))
        output = f"t{index}"
        sizes[output] = sizes[inputs[0]] if op_type != "MatMul" else draw(st.integers(0, 5))
        nodes.append(Node(f"n{index}", "", op_type, 17, inputs, (output,), {}))
        names.append(output)
    wanted = tuple(draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=2, unique=True)))
    tensors = {name: Tensor(name, "float32", 1) for name in names}
    graph = OperatorGraph("random", tuple(nodes), tensors, ("in0", "in1"), wanted)
    return Capture(graph, {name: (size,) for name, size in sizes.items()})


def simulated(capture: Capture, in_place: bool) -> int:
    """Execute with buffers that count their readers, and say how much was allocated at once at most."""
    graph = capture.graph
    uses = {name: len(graph.consumers.get(name, ())) + (name in graph.outputs) for name in graph.tensors}
    buffers = {name: [name, prod(capture.shapes[name])] for name in graph.inputs}  # tensor to its buffer
    most = 0
    for node in graph.nodes:
        output = node.outputs[0]
        if node.op_type == "Reshape":
            buffers[output] = buffers[node.inputs[0]]
        else:
            size = prod(capture.shapes[output])
            reused = None
            for name in node.inputs if in_place and node.op_type != "MatMul" else ():
                sharing = [other for other, buffer in buffers.items() if buffer is buffers[name]]
                left = sum(uses[other] for other in sharing) - node.inputs.count(name)
                aliased = sum(node.inputs.count(other) for other in sharing if other != name)
                same = prod(capture.shapes[name]) == size
                if same and left - aliased == 0 and buffers[name][0] not in graph.inputs:
                    reused = buffers[name]
                    break
            buffers[output] = reused or [output, size]
        held = {id(buffer): buffer[1] for name, buffer in buffers.items() if uses[name] or name == output}
        most = max(most, sum(held.values()))
        for name in node.inputs:
            uses[name] -= 1
        for name in [n for n in buffers if not uses[n]]:
            del buffers[name]
    return int(most)


@settings(max_examples=300, deadline=None)
@given(graphs(), st.booleans())
def test_liveness_is_what_an_execution_with_buffers_needs(capture: Capture, in_place: bool) -> None:
    assert liveness(capture, in_place=in_place).elements == simulated(capture, in_place)


def test_liveness_by_hand() -> None:
    chain = captured("g (float[8] x) => (float[8] y) { a = Exp(x) b = Relu(a) y = Add(b, x) }")
    # x, a and b while Relu runs; x, b and y while Add runs; in place only x and one more
    assert liveness(chain).elements == 24
    assert liveness(chain, in_place=True).elements == 16


# ------------------------------------------------------------------ layers


def test_layers_by_hand() -> None:
    capture = captured(
        """g (float[2,3,8,8] x, float[6,3,1,1] w0, int64[5,4] ids) => (float[n] y, float[m] p) {
            w = Constant <value = float[4,3,1,1] {1,1,1,1,1,1,1,1,1,1,1,1}> ()
            c = Conv(x, w)
            d = Constant <value = float[4,1,1,1] {1,1,1,1}> ()
            g = Conv <group = 4> (c, d)
            f = Flatten(g)
            k = ConstantOfShape <value = float[1] {1.0}> (shape)
            y = Gemm <transB = 1> (f, k)
            table = Constant <value = float[3,2] {1,2,3,4,5,6}> ()
            rows = Gather(table, ids)
            p = ReduceSum <keepdims = 0> (rows, axis)
        }""".replace("=> (float[n] y", "=> (float[2,10] y")
        .replace("float[m] p", "float[5,2] p")
        .replace("float[6,3,1,1] w0, ", "")
        .replace("{\n            w =", "<int64[2] shape = {10, 256}, int64[1] axis = {1}> {\n            w =")
    )
    conv, depthwise, fc, embedding = layers(capture)
    assert (conv.kind, conv.weights, conv.activations, conv.operations) == (
        Kind.CONVOLUTION,
        12,
        2 * 64 * 3 + 2 * 64 * 4,
        2 * 3 * 512,
    )
    assert conv.matrices == (Matrices(128, 3, 4),)
    assert (depthwise.kind, depthwise.matrices) == (Kind.GROUP_CONVOLUTION, (Matrices(128, 1, 1, 4),))
    assert (fc.kind, fc.matrices, fc.weights) == (Kind.FC, (Matrices(2, 256, 10),), 2560)
    # 20 rows of 2 are gathered and summed in groups of 4
    assert (embedding.kind, embedding.weights, embedding.operations, embedding.activations) == (
        Kind.EMBEDDING,
        40,
        40,
        20 + 10,
    )
    assert "k" in fixed_tensors(capture.graph)  # computed, but from constants alone
    classes = dict(zip([node.op_type for node in capture.graph.nodes], operator_classes(capture), strict=True))
    assert classes["ReduceSum"] is classes["Gather"] is OperatorClass.EMBEDDING
    assert classes["Flatten"] is OperatorClass.MANIPULATION


def test_a_recurrent_layer_reads_its_weights_at_every_step() -> None:
    capture = captured(
        """g (float[5,2,3] x) => (float[5,1,2,4] y) <int64[3] ws = {1, 16, 3}, int64[3] rs = {1, 16, 4}> {
            w = ConstantOfShape(ws)
            r = ConstantOfShape(rs)
            y = LSTM <hidden_size = 4> (x, w, r)
        }"""
    )
    (layer,) = layers(capture)
    assert (layer.kind, layer.weights) == (Kind.RECURRENT, 5 * (48 + 64))
    assert layer.matrices == (Matrices(10, 3, 16), Matrices(2, 4, 16, 5))
    assert batch_of(capture, [layer]) == 2


def test_matrices_hold_the_multiply_adds_of_their_layer(samples: tuple[Capture, ...]) -> None:
    """Independent of the costs: what is left of a layer's operations is its bias, activation and pointwise part."""
    checked = set()
    for capture in samples:
        for layer in layers(capture):
            if layer.kind is Kind.EMBEDDING:
                continue
            products = sum(2 * m.m * m.k * m.n * m.count for m in layer.matrices)
            left = layer.operations - products
            result = prod(capture.shape(capture.graph.nodes[layer.node].outputs[0]) or (1,))
            assert 0 <= left <= 17 * result, capture.graph.nodes[layer.node]
            checked.add(layer.kind)
    assert len(checked) == 4


# ------------------------------------------------------------------ the paper's table 1


def of(model: onnx.ModelProto) -> Capture:
    seen = observe(model, {}, name="network")
    return Capture(seen.graph, seen.shapes)


def test_resnet_50_as_in_the_paper() -> None:
    """Table 1: 25 M parameters, 2 M live activations, intensity 303 (least 100) and 164 (least 25)."""
    capture = of(networks.resnet((3, 4, 6, 3), stride_first=True))
    found = intensity(layers(capture))
    convolutions = intensity(layer for layer in layers(capture) if layer.kind is not Kind.FC)
    assert found is not None and convolutions is not None
    assert parameter_elements(capture) / 1e6 == pytest.approx(25, rel=0.03)
    assert found.weights == pytest.approx(303, rel=0.005)
    assert found.whole == pytest.approx(164, rel=0.02)
    assert convolutions.least_weights == pytest.approx(100, rel=0.03)
    # No convolution of this network comes down to 25: docs/characterization.md.
    assert convolutions.least_whole == pytest.approx(55, rel=0.01)
    assert liveness(capture, in_place=True).elements == 802_816 * 2 + 200_704  # a block's input, 3 x 3 and last result
    assert liveness(capture).elements == 3 * 802_816  # both summands and their sum


def test_resnext_101_as_in_the_paper() -> None:
    """Table 1: 43 M parameters, 2.4 M live activations, intensity 380 (least 100) and 188 (least 28)."""
    capture = of(networks.resnet((3, 4, 23, 3), groups=32, width=128))
    found = intensity(layer for layer in layers(capture) if layer.kind is not Kind.FC)
    assert found is not None
    assert parameter_elements(capture) / 1e6 == pytest.approx(43, rel=0.03)
    assert liveness(capture).elements / 1e6 == pytest.approx(2.4, rel=0.01)
    assert found.weights == pytest.approx(380, rel=0.005)
    assert found.least_weights == pytest.approx(100, rel=0.03)
    assert found.whole == pytest.approx(188, rel=0.015)
    assert found.least_whole == pytest.approx(28, rel=0.02)


def test_ranges_of_recommendation_and_translation(fleet: Characterization) -> None:
    """Table 1: FCs 20 to 200 and embeddings 1 to 2; seq2seq 2 to 20."""
    for model in fleet.models:
        if model.name in ("dlrm", "dcn_v2", "wide_and_deep") and (model.batch or 0) <= 100:
            assert 20 <= model.intensity["FC"].weights <= 200
        if model.name in ("dlrm", "dcn_v2"):
            assert 1 <= model.intensity["embedding"].weights <= 2
        if model.name.startswith("seq2seq"):
            assert 2 <= round(model.intensity["recurrent"].weights) <= 20
    least = {
        m.name: m.intensity["group convolution"].least_whole for m in fleet.models if "group convolution" in m.intensity
    }
    assert least["faster_rcnn_shuffle"] == pytest.approx(4, rel=0.06)
    assert least["resnext3d_101"] == pytest.approx(6, rel=0.06)


# ------------------------------------------------------------------ the paper's figure 3


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(0, 30), st.sampled_from([1.0, 4.0]))
def test_a_placement_never_exceeds_the_capacity(capture: Capture, capacity: int, fast: float) -> None:
    plan = schedule(capture)
    device = Accelerator(10.0, 1.0, fast, capacity)
    chosen = placed(plan, device)
    for at in range(len(capture.graph.nodes)):
        live = sum(plan.storages[n].elements for n in chosen if plan.storages[n].birth <= at <= plan.storages[n].death)
        assert live <= capacity
    found = project(plan, device)
    moved = [a.elements for step in plan.steps for a in step.accesses]
    assert found.seconds >= found.operations / 10.0 - 1e-9
    assert found.seconds <= found.operations / 10.0 + sum(moved) + 1e-9
    assert found.seconds == pytest.approx(sum(found.bound.values()))
    everything = project(plan, replace(device, capacity=10**9))
    assert everything.bound["off-chip"] == 0
    nothing = project(plan, replace(device, capacity=0))
    assert nothing.bound["on-chip"] == 0
    assert everything.seconds <= nothing.seconds + 1e-9


def test_a_projection_by_hand() -> None:
    capture = captured(
        """g (float[4,100] x) => (float[4,10] z) <int64[2] shape = {100, 10}> {
            w = ConstantOfShape(shape)
            y = MatMul(x, w)
            z = Relu(y)
        }"""
    )
    plan = schedule(capture)
    # one step of 8000 + 40 operations: x 400, w 1000, z 40; the product stays inside
    assert [(step.operations, sum(a.elements for a in step.accesses)) for step in plan.steps] == [(8040, 1440)]
    assert project(plan, Accelerator(1e6, 1e3, 1e4, 0)).seconds == pytest.approx(1.44)
    # room for z and x, which are read or written once per byte as w is, but stand first
    half = project(plan, Accelerator(1e6, 1e3, 1e4, 440))
    assert half.seconds == pytest.approx(1.0)
    assert project(plan, Accelerator(1e6, 1e3, 1e4, 2000)).seconds == pytest.approx(0.144)
    assert project(plan, Accelerator(1e6, 1e3, 1e9, 2000)).seconds == pytest.approx(8040 / 1e6)
    assert project(plan, Accelerator(1e6, 1e3, 1e9, 2000)).resident == 1000


def speed(fleet: Characterization, name: str, batch: int, megabytes: int, fast: float) -> float:
    model = next(m for m in fleet.models if m.name == name and m.batch == batch)
    return next(
        found.speed
        for device, found in model.projections
        if device.capacity == megabytes * 10**6 and device.on_chip_bandwidth == fast
    )


def test_shufflenet_and_resnext3d_depend_on_on_chip_bandwidth(fleet: Characterization) -> None:
    gains = {
        name: speed(fleet, name, 1, 128, 10e12) / speed(fleet, name, 1, 128, 1e12)
        for name in ("faster_rcnn_shuffle", "resnext3d_101", "resnet50", "resnext101_32x4d")
    }
    assert gains["faster_rcnn_shuffle"] > 1.5
    assert gains["resnext3d_101"] > 1.2
    assert max(gains["resnet50"], gains["resnext101_32x4d"]) < 1.1


def test_small_batch_fcs_need_their_parameters_on_the_chip(fleet: Characterization) -> None:
    small = speed(fleet, "wide_and_deep", 32, 0, 1e12)
    assert speed(fleet, "wide_and_deep", 32, 8, 1e12) > 8 * small  # its FCs hold 2 M parameters
    # 109 M parameters: most of them stay outside of 32 MB
    off_chip = speed(fleet, "bert_base", 1, 32, 10e12)
    assert off_chip < 40e12
    assert speed(fleet, "bert_base", 1, 128, 10e12) > 2.5 * off_chip


def test_all_points_of_figure_3() -> None:
    points = sweep(schedule(captured("g (float[8] x) => (float[8] y) { y = Relu(x) }")))
    assert len(points) == 28
    assert {device.on_chip_bandwidth for device, _ in points} == {1e12, 10e12}
    assert max(device.capacity for device, _ in points) == 128 * 10**6


# ------------------------------------------------------------------ figure 4


def test_shares_add_up_and_follow_executions() -> None:
    capture = captured(
        """g (float[64,64] x) => (float[64,64] y) <int64[2] shape = {64, 64}> {
            w = ConstantOfShape(shape)
            a = MatMul(x, w)
            y = Transpose(a)
        }"""
    )
    found = characterize([capture], machine.load(), view="raw")
    assert sum(found.shares().values()) == pytest.approx(1)
    assert set(found.shares()) == {OperatorClass.FC, OperatorClass.MANIPULATION}
    measured = [{node.name: 2.0 if node.op_type == "MatMul" else 1.0 for node in capture.graph.nodes}]
    known = characterize([capture], machine.load(), view="raw", measured=measured)
    assert known.shares(measured=True)[OperatorClass.FC] == pytest.approx(2 / 4)
    assert found.to_dict()["time"]["measured"] is None


def test_every_operator_of_the_samples_has_a_class(fleet: Characterization) -> None:
    assert fleet.shares()[OperatorClass.FC] > 0.2
    assert fleet.shares().get(OperatorClass.OTHER, 0) < 0.01
    assert all(model.unknown_operators == 0 for model in fleet.models)


def test_unknown_operators_have_no_class_of_their_own() -> None:
    graph = OperatorGraph("g", (Node("n", "", "NoSuch", 1, ("x",), ("y",), {}),), {}, ("x",), ("y",))
    tensors = {name: Tensor(name, "float32", 1) for name in ("x", "y")}
    capture = Capture(replace(graph, tensors=tensors), {"x": (4,), "y": (4,)})
    assert operator_classes(capture) == [OperatorClass.OTHER]
    found = characterize([capture], machine.load(), view="raw")
    assert found.models[0].unknown_operators == 1
    assert operators.find(graph.nodes[0]) is None
    assert layers(capture) == []


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[4,8] x) => (float[4,16] y) <int64[2] shape = {8, 16}> {
            w = ConstantOfShape(shape)
            a = MatMul(x, w)
            y = Relu(a)
        }"""
    )
    path = tmp_path_factory.mktemp("fleet")
    onnx.save(model, path / "tiny|=1.onnx")
    return path


def test_the_command_writes_json(graphopt: CommandLine, folder: Path, tmp_path: Path) -> None:
    outcome = graphopt("characterize", folder, "--view", "raw", "--format", "json", "-q")
    assert outcome.code == 0
    data = json.loads(outcome.out)
    assert (data["kind"], data["schema_version"], data["view"]) == ("characterization", 1, "raw")
    (model,) = data["models"]
    assert (model["name"], model["batch"], model["live_activations"]) == ("tiny|=1", 4, 128)
    assert model["intensity"]["FC"]["weights_average"] == pytest.approx(8)
    assert len(model["projection"]) == 28
    assert data["shapes"] == [{"kind": "FC", "m": 4, "k": 8, "n": 16, "count": 1, "layers": 1, "executions": 1}]
    again = graphopt("characterize", folder, "--view", "raw", "--format", "json", "-q")
    assert again.out == outcome.out
    stored = tmp_path / "found.json"
    stored.write_text(outcome.out)
    assert "tiny|=1" in graphopt("report", stored).out


@pytest.mark.parametrize("section", ["models", "time", "shapes", "projection"])
def test_the_command_writes_csv(graphopt: CommandLine, folder: Path, section: str) -> None:
    outcome = graphopt("characterize", folder, "--view", "raw", "--format", "csv", "--section", section, "-q")
    assert outcome.code == 0
    rows = list(csv.reader(io.StringIO(outcome.out)))
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1


def test_the_command_writes_tables_and_pages(graphopt: CommandLine, folder: Path) -> None:
    table = graphopt("characterize", folder, "--view", "raw", "-q")
    assert table.code == 0
    assert "tiny|=1" in table.out
    markdown = graphopt("characterize", folder, "--view", "raw", "--format", "markdown", "-q").out
    assert "tiny\\|=1" in markdown
    page = graphopt("characterize", folder, "--view", "raw", "--format", "html", "--section", "time", "-q").out
    assert page.startswith("<!doctype html>")
    assert "Time by operator class" in page
    assert "Projected" not in page


def test_a_profile_adds_measured_times(graphopt: CommandLine, folder: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    assert graphopt("profile", folder, "--view", "raw", "--seconds", "0", "-o", profile, "-q").code == 0
    words = ("characterize", folder, "--view", "raw", "--format", "json", "-q", "--profile")
    outcome = graphopt(*words, profile)
    assert outcome.code == 0, outcome.err
    data = json.loads(outcome.out)
    times = {
        row["node"]: row["measured_seconds"] for row in json.loads(profile.read_text())["captures"][0]["operators"]
    }
    assert sum(data["models"][0]["measured"].values()) == pytest.approx(sum(times.values()))
    assert sum(data["time"]["measured"].values()) == pytest.approx(1)
    assert "measured" in graphopt("characterize", folder, "--view", "raw", "-q", "--profile", profile).out
    for change, cause in (
        ({"view": "executed"}, "it is of the executed view, not of the raw one"),
        ({"captures": []}, "it holds none of the corpus's captures"),
        ({"captures": [{"model": "m"}]}, "not a whole profile: 'inputs' is missing"),
        ({"captures": 3}, "not a valid profile"),
        ({"kind": "run"}, "holds 'run', where 'profile' is needed"),
    ):
        profile.write_text(json.dumps({**json.loads(profile.read_text()), **change}))
        outcome = graphopt(*words, profile)
        assert (outcome.code, outcome.out) == (3, "")
        assert cause in outcome.err
        assert str(profile) in outcome.err
        profile.write_text(json.dumps({"schema_version": 1, "kind": "profile", "view": "raw", "captures": []}))


def test_figures_are_drawn_and_the_same_each_time(graphopt: CommandLine, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        outcome = graphopt("characterize", folder, "--view", "raw", "--figures", tmp_path / name, "-q")
        assert outcome.code == 0
    for name in ("operators.svg", "shapes.svg", "projection.svg"):
        drawn = (tmp_path / "one" / name).read_bytes()
        assert drawn == (tmp_path / "two" / name).read_bytes()
        assert b"<svg" in drawn


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--format", "json", "--section", "time"], 2),
        (["--format", "csv", "--section", "time", "--section", "shapes"], 2),
        (["--machine", "none-such"], 3),
    ],
)
def test_wrong_words(graphopt: CommandLine, folder: Path, words: list[str], code: int) -> None:
    outcome = graphopt("characterize", folder, "--view", "raw", *words)
    assert (outcome.code, outcome.out) == (code, "")
    assert "Traceback" not in outcome.err
