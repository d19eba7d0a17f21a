"""The table of operators: that it is complete, that its rows fit the operators' definitions, and what labels say."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import defs

from graphopt import operators
from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.operators.base import FusionClass, Operator

MS = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"

# What onnxruntime's optimiser put into the graphs of 79 real models.
OPTIMISED = """
    Attention BiasGelu DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedConv FusedGemm
    FusedMatMul Gelu GroupQueryAttention MultiHeadAttention QGemm QLinearSoftmax QuickGelu RotaryEmbedding
    SkipLayerNormalization SkipSimplifiedLayerNormalization
""".split()  # noqa: SIM905
IN_BLOCKED_LAYOUT = """
    AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample
""".split()  # noqa: SIM905


def schemas(row: Operator) -> list[defs.OpSchema]:
    """All versions of an operator's definition; empty for onnxruntime's own operators."""
    return [s for s in defs.get_all_schemas_with_history() if s.name == row.op_type and s.domain == row.domain]


STANDARD = sorted({s.name for s in defs.get_all_schemas_with_history() if s.domain == ""})


@pytest.mark.parametrize("name", STANDARD)
def test_every_operator_of_the_standard_is_known(name: str) -> None:
    assert name in operators.table()


@pytest.mark.parametrize("name", [f"{MS}.{n}" for n in OPTIMISED] + [f"{BLOCKED}.{n}" for n in IN_BLOCKED_LAYOUT])
def test_every_operator_of_the_optimiser_is_known(name: str) -> None:
    assert name in operators.table()


def test_every_current_operator_of_the_standard_has_a_row() -> None:
    current = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    assert current - set(operators.table()) == set()


# Programs of other devices that happen to be registered for the CPU too.
FOREIGN = {f"{MS}.EPContext", f"{MS}.Snpe"}


def test_every_operator_that_onnxruntime_computes_on_a_cpu_has_a_row() -> None:
    """Those of its own domains; a newer onnxruntime than these tests know may have more."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    if not hasattr(runtime, "get_all_opkernel_def"):
        pytest.skip("this build of onnxruntime does not list its kernels")
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) > (1, 31):
        pytest.skip("a newer onnxruntime")
    kernels = runtime.get_all_opkernel_def()
    own = {
        f"{kernel.domain}.{kernel.op_name}"
        for kernel in kernels
        if kernel.provider == "CPUExecutionProvider" and kernel.domain in (MS, BLOCKED)
    }
    assert own
    assert own - set(operators.table()) - FOREIGN == set()


def test_keys_are_full_names() -> None:
    for key, row in operators.table().items():
        assert key == (f"{row.domain}.{row.op_type}" if row.domain else row.op_type)


@pytest.mark.parametrize("key", sorted(operators.table()))
def test_a_row_fits_the_definition(key: str) -> None:
    row = operators.table()[key]
    assert set(row.labelled) <= set(row.structural)
    assert len(set(row.attributes)) == len(row.attributes)
    assert row.rate_class
    versions = schemas(row)
    if not versions:
        return
    known = {name for s in versions for name in s.attributes}
    assert set(row.attributes) <= known, f"no version of {key} has these attributes"
    most = max(s.max_input for s in versions)
    assert all(0 <= slot < most for slot in row.structural)
    assert all(v in {s.since_version for s in versions} for v in row.changed)


def test_only_symmetric_operators_are_commutative() -> None:
    names = {key for key, row in operators.table().items() if row.commutative}
    symmetric = {"Add", "Mul", "Max", "Min", "Sum", "Mean", "Equal", "And", "Or", "Xor"}
    assert names <= symmetric | {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}


@pytest.mark.parametrize(
    "name", ["If", "Loop", "Scan", "NonZero", "TopK", "Unique", "RandomNormal", "NonMaxSuppression"]
)
def test_what_cannot_be_a_kernel_is_opaque(name: str) -> None:
    assert operators.table()[name].fusion_class is FusionClass.OPAQUE


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "CumSum"])
def test_recurrences_are_sequential(name: str) -> None:
    assert operators.table()[name].fusion_class is FusionClass.SEQUENTIAL


# ------------------------------------------------------------------ labels


def graph_of(op_type: str, *inputs: Tensor, domain: str = "", version: int = 17, **attributes: object) -> OperatorGraph:
    """A graph of one operator with one float32 result of its first operand's rank."""
    rank = inputs[0].rank if inputs else None
    node = Node("n", domain, op_type, version, tuple(t.name for t in inputs), ("y",), attributes)  # type: ignore[arg-type]
    tensors = {t.name: t for t in (*inputs, Tensor("y", "float32", rank)) if t.name}
    return OperatorGraph("g", (node,), tensors, tuple(t.name for t in inputs if not t.constant and t.name), ("y",))


def x(rank: int = 2, name: str = "x") -> Tensor:
    return Tensor(name, "float32", rank)


def constant(name: str, *values: int) -> Tensor:
    return Tensor(name, "int64", 1, constant=True, value=np.asarray(values, np.int64), shape=(len(values),))


def label(*arguments: object, **more: object) -> str:
    return operators.label(graph_of(*arguments, **more), 0)  # type: ignore[arg-type]


def test_a_label_names_attributes_dtypes_and_ranks() -> None:
    assert label("Transpose", x(3), perm=(0, 2, 1)) == "Transpose{perm=0,2,1}(float32[3])->float32[3]"


def test_a_label_holds_the_axes_of_a_reduction() -> None:
    one = label("ReduceMean", x(3), constant("axes", -1), keepdims=1)
    other = label("ReduceMean", x(3), constant("axes", 1), keepdims=1)
    assert one != other
    assert "#1=-1" in one


def test_a_label_marks_computed_axes() -> None:
    assert "#1=?" in label("ReduceMean", x(3), Tensor("axes", "int64", 1), keepdims=1)


def test_a_label_leaves_out_what_does_not_change_the_computation() -> None:
    plain = label("BatchNormalization", x(4), epsilon=1e-5)
    assert label("BatchNormalization", x(4), epsilon=1e-5, momentum=0.9) == plain
    assert label("BatchNormalization", x(4), epsilon=1e-3) != plain


def test_a_label_tells_meanings_of_opsets_apart() -> None:
    assert label("Softmax", x(), version=11, axis=1) != label("Softmax", x(), version=13, axis=1)
    assert label("Softmax", x(), version=13, axis=1) == label("Softmax", x(), version=21, axis=1)
    assert label("Relu", x(), version=6) == label("Relu", x(), version=14)


def test_a_convolution_label_holds_its_window_and_activation() -> None:
    one = label("Conv", x(4), x(4, "w"), domain=BLOCKED, kernel_shape=(3, 3), strides=(1, 1), group=1)
    for change in ({"strides": (2, 2)}, {"group": 8}, {"activation": "Relu"}, {"kernel_shape": (1, 1)}):
        arguments = {"kernel_shape": (3, 3), "strides": (1, 1), "group": 1} | change
        assert label("Conv", x(4), x(4, "w"), domain=BLOCKED, **arguments) != one


def test_commutative_operands_share_a_slot() -> None:
    graph = graph_of("Add", x(), x(name="z"))
    assert operators.commutative_slot(graph.nodes[0], 1) == 0
    assert operators.commutative_slot(graph_of("Sub", x(), x(name="z")).nodes[0], 1) == 1


def test_an_unknown_operator_has_a_label_and_no_cost() -> None:
    graph = graph_of("NoSuchOperator", x(), b=2, a=1)
    assert operators.find(graph.nodes[0]) is None
    assert operators.label(graph, 0) == "NoSuchOperator{a=1,b=2}(float32[2])->float32[2]"


def test_the_installed_onnx_is_new_enough_for_these_tests() -> None:
    assert onnx.defs.onnx_opset_version() >= 20
