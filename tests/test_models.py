"""Reading, checking, observing models: graphopt.models and the files behind it."""

import os
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import files, models
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.graph import LARGEST_KEPT_CONSTANT

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 8] x) => (float[N, 4] y)
<float[8, 4] w = {0}> {
  a = MatMul(x, w)
  b = Relu(a)
  y = Sigmoid(b)
}
"""


def chain() -> ModelProto:
    model = parser.parse_model(CHAIN.replace("{0}", "{" + ",".join(["0.5"] * 32) + "}"))
    return model


def model_of(text: str) -> ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)


def saved(model: ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


# ------------------------------------------------------------------------------------------------------- files


def test_staged_replaces_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.txt"
    files.write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), files.staged(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    with files.staged(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["out.txt"]


def test_writing_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GraphoptError, match="file"):
        files.write_text(tmp_path / "file" / "x.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GraphoptError, match="folder: cannot write"):
        files.write_text(tmp_path / "folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# ----------------------------------------------------------------------------------------------------- loading


def test_load_reads_what_save_wrote(tmp_path: Path) -> None:
    models.save(chain(), tmp_path / "m.onnx")
    assert models.load(tmp_path / "m.onnx") == chain()


def test_weights_beside_the_file_are_read_back(tmp_path: Path) -> None:
    model = chain()
    big = numpy_helper.from_array(np.arange(4096, dtype=np.float32).reshape(8, 512), "w")
    model.graph.initializer[0].CopyFrom(big)
    models.save(model, tmp_path / "m.onnx", largest=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 1000
    back = models.load(tmp_path / "m.onnx")
    assert (numpy_helper.to_array(back.graph.initializer[0]) == numpy_helper.to_array(big)).all()
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "not an ONNX file"),
        (b"hello, this is a text file\n" * 20, "not an ONNX file"),
        (bytes(range(256)) * 4, "not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "not an ONNX file"),
        (b"\x08\x08", "no graph"),
        (b"\x20\0\0\0ORTM" + b"\0" * 50, "ORT-format"),
    ],
)
def test_what_is_not_a_model_is_said_to_be_none(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphoptError, match=cause) as error:
        models.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"none\.onnx: cannot read: No such file"):
        models.load(tmp_path / "none.onnx")
    with pytest.raises(GraphoptError, match="directory"):
        models.load(tmp_path)


def test_every_truncation_is_an_error_of_one_line(tmp_path: Path) -> None:
    content = chain().SerializeToString()
    path = tmp_path / "cut.onnx"
    causes = set()
    for end in range(1, len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(GraphoptError) as error:
            models.load(path)
        assert "\n" not in str(error.value)
        causes.add(str(error.value).removeprefix(f"{path}: ").split(":")[0])
    assert "truncated" in causes


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(chain().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(content))
    try:
        models.load(path)
    except GraphoptError as error:
        assert "\n" not in str(error)


def external(folder: Path, location: str, *, offset: int = 0, length: int | None = None) -> Path:
    """A model whose weight of 128 bytes is said to be at that place."""
    model = chain()
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset)}
    if length is not None:
        entries["length"] = str(length)
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return saved(model, folder)


def test_external_data(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin", offset=64)
    with pytest.raises(GraphoptError, match=r"external data 'w.bin' of tensor 'w' is missing"):
        models.load(path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 100)
    with pytest.raises(GraphoptError, match="too short: 192 bytes are needed, 100 are there"):
        models.load(path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 64 + np.arange(32, dtype=np.float32).tobytes())
    (tensor,) = models.load(path).graph.initializer
    assert numpy_helper.to_array(tensor).tolist() == np.arange(32).reshape(8, 4).tolist()


@pytest.mark.parametrize(
    "location", ["../w.bin", "sub/../../w.bin", "{folder}/w.bin", "", "..\\w.bin", "link.bin", "sub"]
)
def test_external_data_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(b"\0" * 1000)
    (folder / "link.bin").symlink_to("../w.bin")
    with pytest.raises(GraphoptError, match="external data"):
        models.load(external(folder, location.replace("{folder}", str(tmp_path))))


@pytest.mark.parametrize(("offset", "length"), [(-1, 128), (0, 64), (0, 2**62), (0, -5)])
def test_external_data_of_the_wrong_size(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 1000)
    with pytest.raises(GraphoptError, match=r"external data 'w\.bin'"):
        models.load(external(tmp_path, "w.bin", offset=offset, length=length))


def test_a_huge_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 1000)
    path = external(tmp_path, "w.bin")
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**40, 2**40])
    with pytest.raises(GraphoptError, match="too short"):
        models.load(saved(model, tmp_path))


def test_cycles_are_named(tmp_path: Path) -> None:
    model = model_of("g (float[4] x) => (float[4] y) { a = Add(x, c)  b = Relu(a)  c = Neg(b)  y = Abs(c) }")
    with pytest.raises(GraphoptError, match=r"cycle of 3 nodes: .*Add.*->"):
        models.load(saved(model, tmp_path))


def test_cycles_through_a_body_are_found() -> None:
    model = model_of(
        """g (bool c, float[4] x) => (float[4] y) {
          a = Add(x, y)
          y = If(c) <then_branch = t () => (float[4] r) { r = Neg(a) },
                     else_branch = e () => (float[4] s) { s = Abs(x) }>
        }"""
    )
    with pytest.raises(GraphoptError, match="cycle"):
        models.check(model)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("y = Add(x, nowhere)", "'nowhere', which nothing produces"),
        ("a = Relu(x) a = Abs(x) y = Neg(a)", "'a' has two producers"),
        ("x = Relu(x) y = Abs(x)", "'x' has two producers"),
        ("a = Relu(x)", "output 'y' of the graph is produced by nothing"),
    ],
)
def test_what_cannot_be_a_graph(body: str, cause: str) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) {' + body.replace(") ", ") \n") + "}"
    )
    with pytest.raises(GraphoptError, match=cause):
        models.check(model)


def test_a_tensor_that_holds_too_little() -> None:
    model = chain()
    model.graph.initializer[0].dims[0] = 9
    with pytest.raises(GraphoptError, match="its shape needs 36"):
        models.check(model)


# ------------------------------------------------------------------------------------------- operator graphs


def test_constants_are_tensors_not_nodes() -> None:
    model = model_of(
        """g (float[4] x) => (float[4] y) {
          a = Constant <value_float = 2.5> ()
          b = Constant <value_ints = [1, 2]> ()
          c = Constant <value = float[4] {1, 2, 3, 4}> ()
          d = Add(x, a)
          e = Mul(d, c)
          s = ReduceSum <keepdims = 1> (e, b)
          y = Add(e, s)
        }"""
    )
    graph = models.to_graph(model, "g")
    assert [node.op_type for node in graph.nodes] == ["Add", "Mul", "ReduceSum", "Add"]
    assert graph.tensors["a"].constant
    assert graph.tensors["a"].value == np.float32(2.5)
    assert graph.tensors["b"].value.tolist() == [1, 2]  # type: ignore[union-attr]
    assert (graph.tensors["b"].dtype, graph.tensors["b"].rank, graph.tensors["b"].shape) == ("int64", 1, (2,))
    assert graph.tensors["c"].shape == (4,)
    assert graph.tensors["d"].dtype == "float32"
    assert graph.nodes[2].attributes == {"keepdims": 1}
    assert graph.nodes[2].version == 17
    assert graph.inputs == ("x",)


def test_large_constants_are_only_described() -> None:
    model = chain()
    size = LARGEST_KEPT_CONSTANT // 8 + 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, size), np.float32), "w"))
    tensor = models.to_graph(model, "g").tensors["w"]
    assert (tensor.value, tensor.shape, tensor.rank, tensor.dtype) == (None, (8, size), 2, "float32")


def test_nodes_are_sorted_and_named() -> None:
    model = model_of("g (float[4] x) => (float[4] y) { y = Add(b, a)  a = Relu(x)  b = Neg(x)  c = Neg(a) }")
    model.graph.node[2].name = model.graph.node[3].name = "twin"
    model.graph.node[1].name = "Add_0"
    graph = models.to_graph(model, "g")
    assert [(node.name, node.outputs[0]) for node in graph.nodes] == [
        ("Add_0", "a"),
        ("twin", "b"),
        ("Add_0_", "y"),
        ("Neg_3", "c"),
    ]


def test_bodies_capture_outer_tensors_at_any_depth() -> None:
    model = model_of(
        """g (bool c, float[4] x, float[4] z) => (float[4] y) {
          a = Relu(x)
          b = Neg(x)
          y = If(c) <
            then_branch = t () => (float[4] r) {
              r = If(c) <then_branch = t2 () => (float[4] q) { q = Add(a, z) },
                         else_branch = e2 () => (float[4] p) { p = Identity(x) }>
            },
            else_branch = e () => (float[4] s) { u = Abs(b) s = Neg(u) }>
        }""".replace(") s = Neg", ")\n s = Neg")
    )
    node = models.to_graph(model, "g").nodes[-1]
    assert node.op_type == "If"
    assert node.attributes == {"then_branch": None, "else_branch": None}
    assert node.captured == ("c", "a", "z", "x", "b") or set(node.captured) == {"c", "a", "z", "x", "b"}


def test_function_calls_become_their_bodies() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "graphopt.fused" : 1]>
        g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> {
          a = Relu(x)
          y = graphopt.fused.f_1(a, w)
        }
        <domain: "graphopt.fused", opset_import: ["" : 17]>
        f_1 (p, q) => (r) { s = Mul(p, q)  r = Sigmoid(s) }"""
    )
    models.check(model)
    observed = models.observe(model, {"x": (4,)})
    assert [node.op_type for node in observed.graph.nodes] == ["Relu", "Mul", "Sigmoid"]
    assert observed.graph.tensors["w"].constant
    assert not observed.unknown


def test_initializers_that_are_inputs_are_constants() -> None:
    model = chain()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 4]))
    observed = models.observe(model, {"x": (3, 8)})
    assert observed.graph.inputs == ("x",)
    assert observed.graph.tensors["w"].constant
    assert observed.shapes["y"] == (3, 4)


# ------------------------------------------------------------------------------------------------- observing


def test_shapes_that_depend_on_values_are_observed() -> None:
    model = model_of(
        """g (float[N] x) => (int64[M] y) {
          half = Constant <value_float = 0.5> ()
          big = Greater(x, half)
          found = NonZero(big)
          y = Squeeze(found)
          n = Size(x)
        }"""
    )
    seen = models.observe(model, {"x": (1000,)})
    assert seen.shapes["n"] == ()
    assert 400 < seen.shapes["y"][0] < 600
    assert (seen.graph.tensors["n"].rank, seen.graph.tensors["big"].dtype) == (0, "bool")
    assert seen.unknown == ()
    assert models.observe(model, {"x": (1000,)}).shapes == seen.shapes
    assert models.observe(model, {"x": (1000,)}, ranges={"x": (0.6, 1)}).shapes["y"] == (1000,)


def test_declared_shapes_that_are_wrong_are_not_believed() -> None:
    model = chain()
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [7, 99]))
    seen = models.observe(model, {"x": (3, 8)})
    assert (seen.shapes["a"], seen.failure) == ((3, 4), "")


def test_sequences_have_no_shape_and_are_not_counted() -> None:
    model = model_of(
        """g (float[6] x) => (float[3] y) {
          s = SplitToSequence(x, two)
          y = SequenceAt(s, zero)
          two = Constant <value_int = 3> ()
          zero = Constant <value_int = 0> ()
        }"""
    )
    seen = models.observe(model, {"x": (6,)})
    assert seen.graph.tensors["s"].dtype == ""
    assert (seen.shapes["y"], seen.unknown, seen.failure) == ((3,), (), "")


def test_a_model_that_cannot_run_is_inferred_and_what_is_unknown_is_counted() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "vendor" : 1]>
        g (float[2, 3] x) => (float[?, ?] y) { a = Relu(x)  b = vendor.Magic(a)  y = Transpose(b)  z = Shape(a) }"""
    )
    seen = models.observe(model, {"x": (2, 3)})
    assert seen.shapes["a"] == (2, 3)
    assert set(seen.unknown) == {"b", "y"}
    assert "Magic" in seen.failure


def test_int8_and_microsoft_operators_have_types() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[2, 8] x) => (float[2, 4] y) <float[4] bias = {1, 2, 3, 4}> {
          q, scale, zero = DynamicQuantizeLinear(x)
          g = com.microsoft.QuickGelu(x)
          w = Constant <value = int8[8, 4] {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> ()
          one = Constant <value_float = 0.5> ()
          y = com.microsoft.DynamicQuantizeMatMul(g, w, one)
        }"""
    )
    seen = models.observe(model, {"x": (2, 8)})
    assert seen.failure == ""
    types = {name: (t.dtype, t.rank) for name, t in seen.graph.tensors.items()}
    assert (types["q"], types["scale"], types["g"], types["y"]) == (
        ("uint8", 2),
        ("float32", 0),
        ("float32", 2),
        ("float32", 2),
    )


@pytest.mark.parametrize(
    ("shapes", "cause"),
    [
        ({}, "'x': no shape is given"),
        ({"x": (1, 8), "z": (1,)}, "'z': the model has no such input; it has x"),
        ({"x": (8,)}, "'x': shape 8 has rank 1; the model says Nx8, rank 2"),
        ({"x": (1, 9)}, "'x': shape 1x9 has 9 in axis 1; the model says Nx8"),
        ({"x": (-1, 8)}, "negative"),
    ],
)
def test_shapes_that_contradict_the_model_are_named(shapes: dict[str, tuple[int, ...]], cause: str) -> None:
    with pytest.raises(GraphoptError, match=cause):
        models.observe(chain(), shapes)


def test_shapes_that_the_operators_cannot_take_contradict_the_model() -> None:
    model = model_of("g (float[A] x, float[B] z) => (float[C] y) { y = Add(x, z) }")
    assert models.observe(model, {"x": (5,), "z": (1,)}).shapes["y"] == (5,)
    with pytest.raises(GraphoptError, match="x=5, z=4 contradict the model"):
        models.observe(model, {"x": (5,), "z": (4,)})


def test_default_shapes() -> None:
    model = model_of(
        """g (float[batch, 3, h, w] image, int64[batch, length] ids, float[batch, length, 64] states,
              float[n, c, d, e, f] volume, float sr, float[2, 5] fixed) => (float[2, 5] y) { y = Relu(fixed) }"""
    )
    assert models.default_shapes(model) == {
        "image": (1, 3, 224, 224),
        "ids": (1, 16),
        "states": (1, 16, 64),
        "volume": (1, 3, 16, 16, 16),
        "sr": (),
        "fixed": (2, 5),
    }
    given = models.default_shapes(model, {"ids": (4, 7)})
    assert (given["image"], given["states"]) == ((4, 3, 224, 224), (4, 7, 64))


@pytest.mark.parametrize("shape", [[10**6, 10**6, 1000], [2**62, 2**62]])
def test_inputs_of_a_broken_shape_are_not_made_up(shape: list[int]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    with pytest.raises(GraphoptError, match="is too large for any array"):
        models.seeded_inputs(helper.make_model(graph), {})


def test_seeded_inputs_follow_their_rules() -> None:
    model = model_of(
        """g (float[N] x, int64[N] ids, int64[N] attention_mask, bool[N] flag, int64[N] token_type_ids, int64 sr,
              float fmin, float16[N] h) => (float[N] y) { y = Relu(x) }"""
    )
    shapes = dict.fromkeys(("x", "ids", "attention_mask", "flag", "token_type_ids", "h"), (500,))
    values = models.seeded_inputs(model, shapes, ranges={"sr": (16000, 16001), "fmin": (46.875, 46.875)})
    assert values["x"].dtype == np.float32
    assert 0 <= values["x"].min() < 0.1 < 0.9 < values["x"].max() < 1
    assert (values["ids"].min(), values["ids"].max()) == (1, 19)
    assert values["attention_mask"].tolist() == [1] * 500
    assert values["flag"].all()
    assert not values["token_type_ids"].any()
    assert (int(values["sr"]), float(values["fmin"])) == (16000, 46.875)
    assert (values["h"].dtype.name, values["sr"].dtype.name) == ("float16", "int64")
    again = models.seeded_inputs(model, shapes, ranges={"x": (-2, 2)}, seed=0)
    assert (again["ids"] == values["ids"]).all()
    assert again["x"].min() < -1.9
    assert (models.seeded_inputs(model, shapes, seed=1)["ids"] != values["ids"]).any()
    with pytest.raises(GraphoptError, match="range of 'q'"):
        models.seeded_inputs(model, shapes, ranges={"q": (0, 1)})


def test_indices_stay_within_their_table() -> None:
    model = model_of(
        """g (int32[N, 3] ids) => (float[N, 3, 2] y) <float[5, 2] table = {1,2,3,4,5,6,7,8,9,10}> {
          wide = Cast <to = 7> (ids)
          y = Gather(table, wide)
        }"""
    )
    assert models.seeded_inputs(model, {"ids": (100, 3)})["ids"].max() == 4
    assert models.observe(model, {"ids": (100, 3)}).shapes["y"] == (100, 3, 2)


# --------------------------------------------------------------------------------------------------- digests


def test_digest_sees_every_change_of_structure() -> None:
    base = """g (float[N, 8] x) => (float[N, 8] y) {
        k = Constant <value_floats = [1.0, 2.0]> ()
        a = Sub(x, x)
        b = Softmax <axis = 1> (a)
        c = Relu(x)
        y = Sub(b, c)
    }"""
    changes = [
        ("axis = 1", "axis = 0"),
        ("Sub(b, c)", "Sub(c, b)"),
        ("Relu", "Neg"),
        ("Sub(x, x)", "Sub(x, c)"),
        ("float[N, 8] x", "float[4, 8] x"),
        ("float[N, 8] x", "double[N, 8] x"),
    ]
    known = {digest(model_of(base))}
    for old, new in changes:
        found = digest(model_of(base.replace(old, new, 1)))
        assert found not in known, new
        known.add(found)
    constant = base.replace("Relu(x)", "Mul(x, one)").replace("k = Constant <value_floats = [1.0, 2.0]> ()", "{k}")
    values = {
        digest(model_of(constant.replace("{k}", f"one = Constant <value_float = {v}> ()"))) for v in ("1.0", "2.0")
    }
    assert len(values) == 2


def test_sample_graphs_are_checked_and_run(sample_graphs: Path) -> None:
    for path in sorted(sample_graphs.glob("*.onnx")):
        model = models.load(path)
        graph = models.to_graph(model, path.stem)
        assert len({node.name for node in graph.nodes}) == len(graph.nodes)
        position = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
        assert all(
            position.get(n, -1) < i for i, node in enumerate(graph.nodes) for n in (*node.inputs, *node.captured)
        )
        assert all(tensor.dtype for tensor in graph.tensors.values())


def test_observation_is_what_the_runtime_computes() -> None:
    """The shapes that are inferred, and those of a run, are those of the arrays that come out."""
    model = model_of(
        """g (float[N, C, H, W] x) => (float[N, K, P, Q] y) <float[4, 3, 3, 3] w = {0}> {
          a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
          s = Shape(a)
          one = Constant <value_ints = [1]> ()
          n = Gather(s, zero)
          zero = Constant <value_ints = [0]> ()
          minus = Constant <value_ints = [-1]> ()
          t = Concat <axis = 0> (n, minus)
          f = Reshape(a, t)
          m = ReduceMean <axes = [1], keepdims = 0> (f)
          y = MaxPool <kernel_shape = [2, 2]> (a)
        }""".replace("{0}", "{" + ",".join(["0.1"] * 108) + "}")
    )
    shapes = {"x": (2, 3, 11, 13)}
    observer = models.Observer(model)
    inferred, run = observer.observe(shapes), observer.observe(shapes, run=True)
    assert inferred.shapes == run.shapes
    for value in [o for node in model.graph.node for o in node.output]:
        model.graph.output.add(name=value)
    del model.graph.output[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, models.seeded_inputs(model, shapes))
    for output, result in zip(session.get_outputs(), results, strict=True):
        if output.name in run.shapes:
            assert run.shapes[output.name] == result.shape


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path)
    path.chmod(0)
    with pytest.raises(GraphoptError, match="Permission denied"):
        models.load(path)


def test_a_window_larger_than_its_input_leaves_shapes_unknown() -> None:
    model = model_of("small (float[1, 1, N] x, float[4, 1, 512] w) => (float[1, 4, M] y) { y = Conv(x, w) }")
    seen = models.observe(model, {"x": (1, 1, 16), "w": (4, 1, 512)})
    assert seen.failure
    assert "y" in seen.unknown


def test_shapes_of_later_runs_follow_from_the_first(sample_graphs: Path) -> None:
    """What substitution says of shapes that ran is what the runtime infers, where it says anything."""
    substituted = 0
    for path in sorted(sample_graphs.glob("*.onnx"))[::3]:
        model = models.load(path)
        observer = models.Observer(model)
        default = models.default_shapes(model)
        symbols = {dim for i in observer.inputs for dim in i.dims or () if isinstance(dim, str)}
        for factor in (1, 3):
            shapes = {
                i.name: tuple(
                    size * factor if dim in symbols or dim is None else size
                    for dim, size in zip(i.dims or (), default[i.name], strict=True)
                )
                for i in observer.inputs
            }
            try:
                expected = models.Observer(model).observe(shapes)
            except GraphoptError:
                continue
            with mock.patch.object(observer, "_infer", wraps=observer._infer) as inferred:
                assert observer.observe(shapes, ran=True).shapes == expected.shapes
            substituted += not inferred.called
    assert substituted >= 2


def test_an_axis_without_a_name_and_symbols_with_two_sizes() -> None:
    model = model_of(
        "g (float[N, 4] x, float[N, 4] s, float[?] u) => (float[?, ?] y) { a = Add(x, s)  b = Neg(u)  y = Relu(a) }"
    )
    observer = models.Observer(model)
    for n, m, u in ((2, 2, 3), (5, 5, 7), (1, 6, 2), (6, 1, 2), (2, 2, 2)):
        shapes = {"x": (n, 4), "s": (m, 4), "u": (u,)}
        found = observer.observe(shapes, ran=True).shapes
        assert (found["y"], found["b"]) == ((max(n, m), 4), (u,))
