"""Models that nobody would export: what cannot be used is refused in a line that names the file and the cause."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from graphopt.cli.environment import Exit
from tests.command_line import CommandLine

FLOAT = TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("vendor", 1)]
node = helper.make_node


def model(
    *nodes: NodeProto, weights: tuple[TensorProto, ...] = (), shape: tuple[int, ...] = (4,), data_type: int = FLOAT
) -> ModelProto:
    """Some nodes from ``x`` to ``y``, beside an operator that nobody knows: no runtime looks at the others."""
    graph = helper.make_graph(
        [*nodes, node("Magic", ["x"], ["magic"], domain="vendor")],
        "graph",
        [helper.make_tensor_value_info("x", data_type, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("y", "magic")],
        weights,
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


def adding(weight: TensorProto) -> ModelProto:
    """A model that adds a weight ``w``."""
    return model(node("Add", ["x", "w"], ["y"]), weights=(weight,))


def constant(**value: object) -> ModelProto:
    """The same with a Constant node."""
    return model(node("Constant", [], ["w"], **value), node("Add", ["x", "w"], ["y"]))


def sparse(*dims: int) -> ModelProto:
    """The same with a sparse weight."""
    made = model(node("Add", ["x", "w"], ["y"]))
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 2]))
    made.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=dims))
    return made


def dropped(*sizes: int, value: TensorProto | None = None) -> ModelProto:
    """The same with a weight that was dropped."""
    filled = {} if value is None else {"value": value}
    stands_for = node("ConstantOfShape", ["w__shape"], ["w"], **filled)
    shape = numpy_helper.from_array(np.array(sizes, np.int64), "w__shape")
    return model(stands_for, node("Add", ["x", "w"], ["y"]), weights=(shape,))


def body(inputs: int, outputs: int) -> GraphProto:
    """A body of nothing."""
    values = [helper.make_tensor_value_info(f"b{i}", FLOAT, [4]) for i in range(inputs)]
    results = [node("Neg", ["x"], [f"r{i}"]) for i in range(outputs)]
    named = [helper.make_tensor_value_info(f"r{i}", FLOAT, [4]) for i in range(outputs)]
    return helper.make_graph(results, "body", values, named)


def not_text() -> bytes:
    """A name that is not UTF-8."""
    return adding_ones("odd_name").SerializeToString().replace(b"odd_name", b"\xff\xfed_name")


def adding_ones(name: str) -> ModelProto:
    """A model of two operators, with this tensor between them."""
    return model(node("Neg", ["x"], [name]), node("Exp", [name], ["y"]))


def without_attribute_type() -> ModelProto:
    """An attribute that does not say what it is."""
    made = model(node("LeakyRelu", ["x"], ["y"]))
    made.graph.node[0].attribute.append(AttributeProto(name="alpha", f=0.5))
    return made


def many_twins() -> ModelProto:
    """Very many initializers, of which two have one name."""
    names = [*map(str, range(50_000)), "49999"]
    ones = tuple(TensorProto(name=name, data_type=FLOAT, float_data=[1]) for name in names)
    return model(node("Neg", ["x"], ["y"]), weights=ones)


def tensor(data_type: int, dims: tuple[int, ...], **data: object) -> TensorProto:
    """A weight as a file may have it."""
    return TensorProto(name="w", data_type=data_type, dims=dims, **data)  # type: ignore[arg-type]


LOOP = ["trips", "", "x"]
TRIPS = (numpy_helper.from_array(np.array(3), "trips"),)
HOSTILE: dict[str, tuple[Callable[[], ModelProto | bytes], str]] = {
    "name that is no text": (not_text, "is not UTF-8"),
    "twins among many": (many_twins, "two initializers are named '49999'"),
    "no element type": (lambda: adding(tensor(0, (4,), raw_data=b"")), "'w': unknown element type 0"),
    "unknown element type": (lambda: adding(tensor(999, (4,), raw_data=b"")), "'w': unknown element type 999"),
    "negative element type": (lambda: adding(tensor(-1, (4,))), "'w': unknown element type -1"),
    "no data": (lambda: adding(tensor(FLOAT, (4,))), "'w' holds 0 values; its shape needs 4"),
    "no bytes": (lambda: adding(tensor(TensorProto.FLOAT8E5M2, (3,))), "'w' holds 0 values; its shape needs 3"),
    "no half bytes": (lambda: adding(tensor(TensorProto.INT4, (3,))), "'w' holds 0 values; its shape needs 2"),
    "raw text": (lambda: adding(tensor(TensorProto.STRING, (3,), raw_data=b"abc")), "'w' holds 0 values"),
    "text that is none": (
        lambda: adding(tensor(TensorProto.STRING, (1,), string_data=[b"\xff"])),
        "'w' holds text that is not UTF-8",
    ),
    "constant text that is none": (lambda: constant(value_string=b"\xff"), "holds text that is not UTF-8"),
    "constant of no tensor": (lambda: constant(value=1.0), "attribute 'value' of Constant .* is of another type"),
    "constant without data": (lambda: constant(value=tensor(FLOAT, (4,))), "holds 0 values"),
    "enormous empty weight": (lambda: adding(tensor(FLOAT, (0, 2**62, 2**62))), "more elements than any memory"),
    "weight of many dimensions": (lambda: adding(tensor(FLOAT, (1,) * 70, float_data=[1])), "64 are the most"),
    "negative sparse weight": (lambda: sparse(-4), "negative dimension"),
    "enormous sparse weight": (lambda: sparse(2**40, 2**40), "more elements than any memory"),
    "enormous dropped weight": (lambda: dropped(2**50), "its dropped weights take"),
    "dropped weight without end": (lambda: dropped(2**62, 2**62), "'w' has more elements than any memory"),
    "negative dropped weight": (lambda: dropped(-4), "negative dimension"),
    "dropped text": (lambda: dropped(4, value=tensor(TensorProto.STRING, (1,), string_data=[b"x"])), "it holds text"),
    "enormous input": (lambda: model(node("Neg", ["x"], ["y"]), shape=(2**63 - 1,)), "'x': shape .* too large"),
    "enormous empty input": (lambda: model(node("Neg", ["x"], ["y"]), shape=(0, 2**62)), "'x': shape .* too large"),
    "input of many dimensions": (lambda: model(node("Neg", ["x"], ["y"]), shape=(1,) * 70), "'x': shape .* too large"),
    "attribute without type": (without_attribute_type, "attribute 'alpha' of LeakyRelu .* has no type"),
    "operator without operands": (lambda: model(node("Neg", [], ["y"])), "0 operands and 1 results"),
    "operator without results": (lambda: model(node("Neg", ["x"], []), node("Exp", ["x"], ["y"])), "1 and 1 are"),
    "loop without a body": (lambda: model(node("Loop", LOOP, ["y"]), weights=TRIPS), "has no body"),
    "loop of nothing": (
        lambda: model(node("Loop", LOOP, ["y"], body=body(0, 0)), weights=TRIPS),
        "and its body differ",
    ),
    "branch without branches": (lambda: model(node("If", ["x"], ["y"], then_branch=body(0, 1))), "has no else_branch"),
    "branch of nothing": (
        lambda: model(node("If", ["x"], ["y"], then_branch=body(0, 1), else_branch=body(0, 0))),
        "and its body differ",
    ),
    **{
        f"scan of {count} inputs": (
            lambda count=count: model(node("Scan", ["x"], ["y"], body=body(1, 1), num_scan_inputs=count)),  # type: ignore[misc]
            "and its body differ",
        )
        for count in (-1, 0, 2, 2**62)
    },
}


@pytest.fixture(scope="module", params=HOSTILE)
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A file and what is wrong with it."""
    make, cause = HOSTILE[request.param]
    made = make()
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    yield path, cause


@pytest.mark.parametrize(
    "words",
    [
        ["apply", "{model}", "--view", "raw", "-o", "{model}.new"],
        ["mine", "{model}", "--view", "raw"],
        ["profile", "{model}", "--view", "raw"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_cannot_be_used_is_refused(words: list[str], hostile: tuple[Path, str], graphopt: CommandLine) -> None:
    path, cause = hostile
    outcome = graphopt(*(word.format(model=path) for word in words))
    assert outcome.code == Exit.BAD_INPUT
    assert outcome.out == ""
    assert re.fullmatch(rf"graphopt: error: [^\n]*{re.escape(str(path))}[^\n]*\n", outcome.err), outcome.err
    assert re.search(cause, outcome.err), outcome.err
    assert "cannot be used:" not in outcome.err  # what nobody thought of
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "malformed",
    [
        node("MultiHeadAttention", ["x"], [], domain="com.microsoft", num_heads=2),
        node("FusedMatMul", ["x", "x"], [], domain="com.microsoft", transA=float("inf")),
        node("CropAndResize", [], [], domain="com.microsoft"),
        node("ReduceSum", ["x", "x", "x"], ["z"], axes=[2**62], keepdims="no"),
    ],
    ids=lambda malformed: malformed.op_type,
)
def test_nodes_that_are_not_their_operators_cost_nothing_known(
    malformed: NodeProto, tmp_path: Path, graphopt: CommandLine
) -> None:
    """No runtime takes them; where it does not look, as it does not know another operator, mining goes on."""
    path = tmp_path / "malformed.onnx"
    path.write_bytes(model(node("Neg", ["x"], ["n"]), node("Exp", ["n"], ["y"]), malformed).SerializeToString())
    outcome = graphopt("mine", path, "--view", "raw", "--json")
    assert outcome.code == Exit.DONE, outcome.err
    assert "cannot be used" not in outcome.err
