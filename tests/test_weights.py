"""Models without weights: dropping, recognising and filling in."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt import models, weights
from graphopt.digests import digest
from graphopt.errors import GraphoptError


def model_with(**tensors: np.ndarray) -> ModelProto:
    """A model that hands each of its constants on to an output, through an operator where the name says so."""
    nodes, outputs, initializers = [], [], []
    for name, value in tensors.items():
        operator = name.split("_")[0] if name[0].isupper() else "Identity"
        nodes.append(helper.make_node(operator, [name], [f"out_{name}"]))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        outputs.append(helper.make_tensor_value_info(f"out_{name}", kind, value.shape))
        initializers.append(numpy_helper.from_array(value, name))
    graph = helper.make_graph(nodes, "g", [], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


FLOATS = np.linspace(0.0, 1.0, 300, dtype=np.float32).reshape(3, 100)


def test_dropped_weights_come_back_with_their_name_type_and_shape() -> None:
    original = model_with(
        big=FLOATS,
        half=FLOATS.astype(np.float16),
        quantized=np.zeros((20, 20), np.int8),
        unsigned=np.zeros(400, np.uint8),
        indices=np.arange(1000),
        small=np.arange(256, dtype=np.float32),
    )
    light = weights.drop_weights(original)
    onnx.checker.check_model(light, full_check=True)
    assert weights.has_dropped_weights(light)
    assert not weights.has_dropped_weights(original)
    assert sorted(values(light)) == [
        "big__shape",
        "half__shape",
        "indices",
        "quantized__shape",
        "small",
        "unsigned__shape",
    ]
    stand_in = next(node for node in light.graph.node if node.output[0] == "big")
    assert (stand_in.op_type, list(stand_in.input)) == ("ConstantOfShape", ["big__shape"])
    assert [(entry.key, entry.value) for entry in stand_in.metadata_props] == [("graphopt.weight", "dropped")]
    filled = values(weights.fill_weights(light))
    assert filled.keys() == values(original).keys()
    for name, value in values(original).items():
        assert (filled[name].dtype, filled[name].shape) == (value.dtype, value.shape)
    assert (filled["indices"] == np.arange(1000)).all()
    assert (filled["small"] == np.arange(256)).all()
    assert filled["quantized"].min() == -20
    assert filled["unsigned"].min() >= 108
    assert digest(light) == digest(original) == digest(weights.fill_weights(light))


def test_nothing_to_drop_or_fill_changes_nothing() -> None:
    small = model_with(w=np.zeros(4, np.float32))
    assert weights.drop_weights(small) == small
    assert weights.fill_weights(small) is small


def test_filling_is_repeatable_and_differs_by_tensor_and_seed() -> None:
    light = weights.drop_weights(model_with(a=FLOATS, b=FLOATS))
    first, again, other = (values(weights.fill_weights(light, seed)) for seed in (0, 0, 1))
    assert (first["a"] == again["a"]).all()
    assert (first["a"] != first["b"]).any()
    assert (first["a"] != other["a"]).any()
    alone = values(weights.fill_weights(weights.drop_weights(model_with(b=FLOATS))))
    assert (alone["b"] == first["b"]).all()


def test_rows_of_a_large_weight_differ() -> None:
    big = np.zeros((1024, 1024), np.float32)
    filled = values(weights.fill_weights(weights.drop_weights(model_with(w=big))))["w"]
    assert len(np.unique(filled, axis=0)) == len(np.unique(filled, axis=1)) == 1024
    assert filled.std() == pytest.approx(1024**-0.5, rel=0.02)
    assert abs(filled.mean()) < 1e-3


def test_weights_that_must_be_positive_are() -> None:
    original = model_with(Sqrt_a=FLOATS, Log_b=FLOATS)
    graph = original.graph
    statistics = np.ones(300, np.float32)
    for name in ("scale", "bias", "mean", "var", "raw"):
        graph.initializer.append(numpy_helper.from_array(statistics, name))
    graph.initializer.append(numpy_helper.from_array(np.array(1e-5, np.float32), "eps"))
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 300, 2]))
    graph.node.extend(
        [
            helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["n"]),
            helper.make_node("Add", ["raw", "eps"], ["shifted"]),
            helper.make_node("Unsqueeze", ["shifted", "axis"], ["column"]),
            helper.make_node("Sqrt", ["column"], ["root"]),
            helper.make_node("Div", ["n", "root"], ["y"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    filled = values(weights.fill_weights(weights.drop_weights(original)))
    for name in ("Sqrt_a", "Log_b", "scale", "var", "raw"):
        assert filled[name].min() >= 0.5, name
    for name in ("bias", "mean"):
        assert filled[name].min() < 0, name


def test_initializers_that_are_inputs_are_so_again() -> None:
    original = model_with(first=FLOATS, second=FLOATS)
    for position, name in ((0, "first"), (1, "x"), (2, "second")):
        original.graph.input.insert(position, helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 100]))
    light = weights.drop_weights(original)
    onnx.checker.check_model(light)
    assert [value.name for value in light.graph.input] == ["x"]
    filled = weights.fill_weights(light)
    assert [value.name for value in filled.graph.input] == ["first", "x", "second"]
    assert digest(light) == digest(filled) == digest(original)
    without = ModelProto()
    without.CopyFrom(original)
    del without.graph.input[:]
    without.graph.input.append(original.graph.input[1])
    assert digest(without) != digest(original)


def test_constant_nodes_and_bodies_are_dropped_and_filled_too() -> None:
    inner = helper.make_graph(
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(FLOATS)),
            helper.make_node("Sqrt", ["k"], ["r"]),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, [3, 100])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["outer"], ["s"])],
        "else",
        [],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, [3, 100])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["outer"], value=numpy_helper.from_array(FLOATS)),
            helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
        ],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 100])],
    )
    original = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    light = weights.drop_weights(original)
    assert light.ByteSize() < original.ByteSize() / 2
    assert digest(light) == digest(original)
    filled = weights.fill_weights(light)
    session = onnxruntime.InferenceSession(filled.SerializeToString(), providers=["CPUExecutionProvider"])
    for choice in (True, False):
        (result,) = session.run(None, {"c": np.array(choice)})
        assert np.isfinite(result).all()
        assert result.std() > 0.01


@pytest.mark.parametrize("kind", ["int4", "uint4", "int16", "uint16", "float8_e4m3fn", "float64", "bfloat16"])
def test_weights_of_every_type_are_dropped_and_filled(kind: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    original = model_with(w=np.zeros((3, 101), np.int8).astype(dtype))
    light = weights.drop_weights(original)
    assert list(values(light)) == ["w__shape"]
    assert digest(light) == digest(original)
    filled = values(weights.fill_weights(light))["w"]
    assert (filled.dtype, filled.shape) == (dtype, (3, 101))
    assert len(np.unique(filled.astype(np.float64))) > 5


def test_sparse_weights_and_those_of_functions_are_dropped() -> None:
    secret = np.arange(300, dtype=np.float32) + 12345
    indices = numpy_helper.from_array(np.arange(300), "secret_indices")
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(secret, "sparse"), indices, [30, 20])
    held = helper.make_sparse_tensor(numpy_helper.from_array(secret, ""), indices, [600])
    function = helper.make_function(
        "local",
        "Hidden",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["k"], value_floats=secret.tolist()),
            helper.make_node("Add", ["a", "k"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Constant", [], ["held"], sparse_value=held),
        helper.make_node("Identity", ["sparse"], ["s"]),
        helper.make_node("Identity", ["held"], ["h"]),
        helper.make_node("Hidden", ["x"], ["y"], domain="local"),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("s", "h", "y")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [300])], outputs)
    graph.sparse_initializer.append(sparse)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    original = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])
    light = weights.drop_weights(original)
    assert secret[:4].tobytes() in original.SerializeToString()
    assert secret[:2].tobytes() not in light.SerializeToString()
    assert digest(light) == digest(original)
    session = onnxruntime.InferenceSession(weights.fill_weights(light).SerializeToString())
    assert [r.shape for r in session.run(None, {"x": np.ones(300, np.float32)})] == [(30, 20), (600,), (300,)]


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    original = model_with(big=FLOATS, small=np.arange(4, dtype=np.float32), numbers=np.arange(500))
    models.save(original, tmp_path / "m.onnx", largest=0)
    onnx_file = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert {t.name for t in onnx_file.graph.initializer if t.data_location == TensorProto.EXTERNAL} == {
        "big",
        "numbers",
    }
    light = weights.load_without_weights(tmp_path / "m.onnx")
    assert digest(light) == digest(original)
    assert sorted(values(light)) == ["big__shape", "numbers", "small"]
    assert (values(light)["numbers"] == np.arange(500)).all()
    (tmp_path / "m.onnx.data").write_bytes(b"short")
    with pytest.raises(GraphoptError, match=r"m\.onnx: external data .* too short"):
        weights.load_without_weights(tmp_path / "m.onnx")


def test_other_spellings_of_dropped_weights_are_recognised() -> None:
    for suffix in ("__shape", "__SHAPE"):
        model = weights.drop_weights(model_with(w=FLOATS))
        node = next(node for node in model.graph.node if node.op_type == "ConstantOfShape")
        del node.metadata_props[:]
        node.input[0] = model.graph.initializer[0].name = f"w{suffix}"
        assert weights.has_dropped_weights(model)
        assert values(weights.fill_weights(model))["w"].shape == (3, 100)


def test_a_computed_shape_is_no_dropped_weight() -> None:
    model = model_with(w=np.zeros(4, np.float32))
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 100]), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["zeros"]))
    assert not weights.has_dropped_weights(model)


def test_old_operator_sets_cannot_drop() -> None:
    model = model_with(w=FLOATS)
    model.opset_import[0].version = 8
    with pytest.raises(GraphoptError, match="operator set 8"):
        weights.drop_weights(model)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=3).map(tuple),
    st.sampled_from(
        [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8]
    ),
    st.booleans(),
)
def test_any_shape_and_type(shape: tuple[int, ...], data_type: int, positive: bool) -> None:
    raw = weights.random_weight("w", shape, data_type, positive=positive)
    tensor = TensorProto(name="w", data_type=data_type, dims=shape, raw_data=raw)
    value = numpy_helper.to_array(tensor).astype(np.float64)
    assert value.shape == shape
    assert np.isfinite(value).all()
    if positive and data_type != TensorProto.INT8:
        assert (value > 0).all()


def test_sample_graphs_run_when_filled(sample_graphs: Path) -> None:
    """No NaN comes out of random weights: the smallest samples, at tiny shapes."""
    for name in ("mobilenet_v3_large", "seq2seq_gru"):
        path = sample_graphs / f"{name}.onnx"
        if not path.is_file():
            continue
        model = weights.fill_weights(models.load(path))
        shapes = {
            name: tuple(1 if axis == 0 else size for axis, size in enumerate(shape))
            for name, shape in models.default_shapes(model).items()
        }
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for result in session.run(None, models.seeded_inputs(model, shapes)):
            assert np.isfinite(result).all()
