"""Captures and the corpus: storing, reading back, adding up, and corpora that are broken."""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import captures_file, corpus, models, weights
from graphopt.capture import Execution, capture_model
from graphopt.captures_file import Entry
from graphopt.corpus_storing import Weights, add_executions
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.model_inputs import Range

ROOT = Path(__file__).parent.parent


def mlp(name: str = "g", operator: str = "Relu") -> ModelProto:
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        {name} (float[N, 32] x) => (float[N, 16] y) {{ a = MatMul(x, w)  b = {operator}(a)  y = Add(b, c) }}"""
    )
    generator = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(generator.random((32, 16), np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(generator.random(16, np.float32), "c"))
    return model


def renamed(model: ModelProto, prefix: str) -> ModelProto:
    """The model with a prefix before each of its names."""
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = prefix + value.name
    for node in graph.node:
        node.input[:] = [prefix + name for name in node.input]
        node.output[:] = [prefix + name for name in node.output]
    return model


def write(model: ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def add(
    place: Path | str,
    model: Path | ModelProto,
    shapes: Mapping[str, Shape],
    executions: int = 1,
    ranges: Mapping[str, Range] | None = None,
    **rest: Any,
) -> Path:
    """Store one capture in a folder."""
    return Path(add_executions(place, model, [Execution(shapes, executions, ranges or {})], **rest))


def summary(found: corpus.Corpus) -> list[tuple[str, int, list[tuple[str, tuple[int, ...]]]]]:
    return [(c.source, c.executions, sorted(c.shapes.items())) for c in found.captures]


# ---------------------------------------------------------------------------------------------------- captures


def test_capture_model() -> None:
    capture = capture_model(weights.drop_weights(mlp()), "mlp", {"x": (4, 32)}, executions=7, view="raw")
    assert (capture.graph.name, capture.executions) == ("mlp", 7)
    assert capture.input_shapes() == {"x": (4, 32)}
    assert capture.shape("y") == (4, 16)
    assert capture.shape("w") == (32, 16)
    assert capture.graph.tensors["w"].constant


def test_a_capture_holds_no_large_arrays() -> None:
    model = mlp()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((32, 100_000), np.float32), "w"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(100_000, np.float32), "c"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert len(pickle.dumps(capture_model(model, "m", {"x": (1, 32)}))) < 10_000


# -------------------------------------------------------------------------------------------------------- add


@pytest.mark.parametrize("kind", ["keep", "drop"])
def test_add_stores_once_and_adds_up(tmp_path: Path, kind: Weights) -> None:
    source = write(mlp(), tmp_path / "my model.onnx")
    folder = tmp_path / "new" / "corpus"
    first = add(folder, source, {"x": (4, 32)}, executions=3, weights=kind)
    assert first.name.startswith("my_model-")
    assert add(folder, source, {"x": (4, 32)}, executions=4, weights=kind) == first
    add(folder, source, {"x": (8, 32)}, weights=kind)
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == ["captures.toml", first.name]
    assert weights.has_dropped_weights(models.load(first)) == (kind == "drop")
    loaded = corpus.load(folder)
    assert [(c.executions, c.input_shapes()) for c in loaded.captures] == [(7, {"x": (4, 32)}), (1, {"x": (8, 32)})]
    assert loaded.captures[0].graph is loaded.captures[1].graph
    assert loaded.problems == ()


def test_add_with_a_view_stores_that_view(tmp_path: Path) -> None:
    target = add(tmp_path / "c", mlp(), {"x": (4, 32)}, name="m", view="executed", ranges={"x": (0, 2)})
    (entry,) = captures_file.read(tmp_path / "c" / "captures.toml")
    assert entry == Entry(target.name, {"x": (4, 32)}, 1, {"x": (0, 2)}, "executed")
    (capture,) = corpus.load(tmp_path / "c").captures
    assert capture.shape("y") == (4, 16)


def test_weights_can_be_added_later(tmp_path: Path) -> None:
    target = add(tmp_path, mlp(), {"x": (4, 32)}, name="m", weights="drop")
    assert add(tmp_path, mlp(), {"x": (4, 32)}, name="m", weights="keep") == target
    assert not weights.has_dropped_weights(models.load(target))


def test_a_redacted_capture_holds_no_names(tmp_path: Path) -> None:
    source = write(renamed(mlp("secret"), "secret_"), tmp_path / "secret.onnx")
    shapes, ranges = {"secret_x": (4, 32)}, {"secret_x": (0.0, 2.0)}
    target = add(tmp_path / "c", source, shapes, ranges=ranges, redacted=True)
    assert target.name.startswith("model-")
    assert b"secret" not in target.read_bytes() + (tmp_path / "c" / "captures.toml").read_bytes()
    (capture,) = corpus.load(tmp_path / "c").captures
    assert capture.input_shapes() == {"t0": (4, 32)}
    with pytest.raises(GraphoptError, match="'other': the model has no such input; it has secret_x"):
        add(tmp_path / "c", source, {"other": (4, 32)}, redacted=True)


def test_one_file_serves_models_with_other_names(tmp_path: Path) -> None:
    for model, name in ((mlp(), "x"), (renamed(mlp(), "other_"), "other_x")):
        target = add(tmp_path, model, {name: (4, 32)}, name="m", ranges={name: (0, 1)})
    assert captures_file.read(tmp_path / "captures.toml") == (Entry(target.name, {"x": (4, 32)}, 2, {"x": (0, 1)}),)


def test_what_cannot_be_stored_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    source = write(mlp(), tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match=r"m\.onnx: input 'x': shape 4x31"):
        add(folder, source, {"x": (4, 31)})
    with pytest.raises(GraphoptError, match="executions"):
        add(folder, source, {"x": (4, 32)}, executions=0)
    with pytest.raises(GraphoptError, match="not an ONNX file"):
        add(folder, ROOT / "pyproject.toml", {})
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(GraphoptError, match="file"):
        add(tmp_path / "file", source, {"x": (4, 32)})


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes add to one corpus; every execution is counted."""
    source = write(weights.drop_weights(mlp()), tmp_path / "m.onnx")
    code = (
        "import sys; from pathlib import Path; from tests.test_corpus import add\n"
        "for i in range(5): add(Path(sys.argv[1]), Path(sys.argv[2]), {'x': (1 + i % 2, 32)}, executions=10)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "corpus"), str(source)]
    writers = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    entries = captures_file.read(tmp_path / "corpus" / "captures.toml")
    assert sorted((entry.shapes["x"], entry.executions) for entry in entries) == [((1, 32), 120), ((2, 32), 80)]


def test_a_model_larger_than_memory_is_captured(tmp_path: Path) -> None:
    """3 GB of weights in a sparse file: a process of its own captures the model in less than 500 MB."""
    side = 2**14
    nodes, initializers = [], []
    for index in range(3):
        weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[side, side])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "m.data"), ("offset", index * 4 * side**2), ("length", 4 * side**2)):
            weight.external_data.add(key=key, value=str(value))
        initializers.append(weight)
        nodes.append(helper.make_node("MatMul", [f"x{index}", weight.name], [f"x{index + 1}"]))
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", side]) for name in ("x0", "x3")]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], initializers)
    write(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with (tmp_path / "m.data").open("wb") as stream:
        stream.truncate(3 * 4 * side**2)
    code = (
        "import sys; from graphopt.cli import main\ncode = main(sys.argv[1:])\n"
        "print(code, open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    words = ["capture", str(tmp_path / "m.onnx"), "--corpus", str(tmp_path / "corpus"), "--shape", f"x0=4x{side}"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    exit_code, kilobytes = map(int, done.stdout.split()[-2:])
    assert exit_code == 0
    assert kilobytes < 500_000
    (entry,) = captures_file.read(tmp_path / "corpus" / "captures.toml")
    assert weights.has_dropped_weights(models.load(tmp_path / "corpus" / entry.model))


# ------------------------------------------------------------------------------------------------------- load


def test_a_folder_of_models_is_a_corpus(tmp_path: Path) -> None:
    write(mlp(), tmp_path / "a.onnx")
    write(mlp(operator="Tanh"), tmp_path / "sub" / "b.onnx")
    write(mlp(operator="Neg"), tmp_path / ".hidden.onnx")
    calls: list[tuple[int, int, str]] = []
    found = corpus.load(tmp_path, view="raw", progress=lambda *call: calls.append(call))
    assert [c.graph.name for c in found.captures] == ["a", "b"]
    assert found.captures[0].input_shapes() == {"x": (1, 32)}
    assert sorted(call[2] for call in calls) == ["a", "b"]
    assert [call[:2] for call in calls] == [(1, 2), (2, 2)]
    (alone,) = corpus.load(tmp_path / "a.onnx", view="raw").captures
    assert alone.shapes == found.captures[0].shapes


def test_the_result_does_not_depend_on_jobs(tmp_path: Path) -> None:
    for name, operator in (("c", "Relu"), ("a", "Tanh"), ("b", "Neg")):
        write(mlp(operator=operator), tmp_path / f"{name}.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    one, two = corpus.load(tmp_path, jobs=1), corpus.load(tmp_path, jobs=3)
    assert summary(one) == summary(two)
    assert one.problems == two.problems
    assert [c.graph.nodes for c in one.captures] == [c.graph.nodes for c in two.captures]
    assert list(one.problems) == [f"{tmp_path / 'broken.onnx'}: not an ONNX file"]


def test_models_of_the_same_structure_add_up(tmp_path: Path) -> None:
    write(mlp(), tmp_path / "a.onnx")
    write(weights.drop_weights(mlp("other")), tmp_path / "b.onnx")
    entries = [
        Entry("a.onnx", {"x": (4, 32)}, 3),
        Entry("b.onnx", {"x": (4, 32)}, 5),
        Entry("b.onnx", {"x": (2, 32)}, 1),
    ]
    (tmp_path / "captures.toml").write_text(captures_file.text(entries))
    found = corpus.load(tmp_path, view="raw")
    assert [(c.graph.name, c.executions, c.input_shapes()["x"]) for c in found.captures] == [
        ("a", 8, (4, 32)),
        ("b", 1, (2, 32)),
    ]


def test_a_wrong_capture_leaves_the_others(tmp_path: Path) -> None:
    write(mlp(), tmp_path / "a.onnx")
    write(mlp(), tmp_path / "extra.onnx")
    entries = [Entry("a.onnx", {"x": (4, 32)}), Entry("a.onnx", {"x": (4, 7)}), Entry("gone.onnx", {"x": (4, 7)})]
    (tmp_path / "captures.toml").write_text(captures_file.text(entries))
    found = corpus.load(tmp_path)
    assert [c.input_shapes() for c in found.captures] == [{"x": (4, 32)}]
    assert [line.removeprefix(str(tmp_path))[1:].split(":")[0] for line in found.problems] == [
        "a.onnx",
        "extra.onnx",
        "gone.onnx",
    ]
    assert "shape 4x7 has 7 in axis 1" in found.problems[0]
    assert "left out" in found.problems[1]
    assert "cannot read" in found.problems[2]


def test_a_model_that_cannot_run_is_reported(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "vendor" : 1]>
        g (float[2, 3] x) => (float[?] y) { a = Relu(x)  y = vendor.Magic(a) }"""
    )
    write(model, tmp_path / "m.onnx")
    found = corpus.load(tmp_path, view="raw")
    assert found.captures[0].shape("a") == (2, 3)
    assert len(found.problems) == 2
    assert "1 of 3 tensors have no known shape" in " ".join(found.problems)


def test_corpora_without_models(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="none: cannot read: "):
        corpus.load(tmp_path / "none")
    with pytest.raises(GraphoptError, match="no models in it"):
        corpus.load(tmp_path)
    (tmp_path / "captures.toml").write_text("schema_version = 1\n")
    with pytest.raises(GraphoptError, match="no models in it"):
        corpus.load(tmp_path)
    (tmp_path / "captures.toml").unlink()
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(GraphoptError, match=r"no models that can be used .*bad\.onnx: not an ONNX file"):
        corpus.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    with pytest.raises(GraphoptError, match="cannot read"):
        corpus.load(folder)


# ----------------------------------------------------------------------------------------------- captures.toml


def test_captures_file_is_read_as_written(tmp_path: Path) -> None:
    entries = (
        Entry("a.onnx", {'we"ird\\\x7f\nname': (1, 2), "s": ()}, 2**40, {"s": (16000, 16001), "f": (0.5, 0.5)}, None),
        Entry("sub/b.onnx", {}, 1, {}, "portable"),
    )
    path = tmp_path / "captures.toml"
    path.write_text(captures_file.text(entries))
    assert captures_file.read(path) == entries


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("schema_version = 2", "schema_version is 2"),
        ("", "schema_version is None"),
        ("schema_version = 1\nother = 3", "unknown key 'other'"),
        ("schema_version = 1\n[[capture", "not a TOML file"),
        ("schema_version = 1\ncapture = 3", r"\[\[capture\]\]"),
        ("schema_version = 1\n[[capture]]\nexecutions = 1", "does not name its model"),
        ("schema_version = 1\n[[capture]]\nmodel = '../a.onnx'", "inside of the corpus"),
        ("schema_version = 1\n[[capture]]\nmodel = '/a.onnx'", "inside of the corpus"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nexecutions = 0", "above 0"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nexecutions = true", "above 0"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nview = 'best'", "view must be one of"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\ncount = 3", "unknown key 'count'"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nshapes = 3", "shapes must be a table"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nshapes.x = [1, -1]", "shape of 'x'"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nranges.x = [3, 1]", "range of 'x'"),
        ("schema_version = 1\n[[capture]]\nmodel = 'a'\nranges.x = [3]", "range of 'x'"),
    ],
)
def test_a_wrong_captures_file_is_one_line(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "captures.toml"
    path.write_text(text)
    with pytest.raises(GraphoptError, match=cause) as error:
        captures_file.read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_guessed_sizes_are_said(tmp_path: Path) -> None:
    """A free axis that one size fits."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, float[2, 7] w) => (float[2, 3] y) '
    write(parser.parse_model(text + "{ y = MatMul(w, x) }"), tmp_path / "m.onnx")
    hint = "sizes of free axes were guessed: captures.toml can say them"
    with pytest.raises(GraphoptError, match=f"contradict the model.*{hint}"):
        corpus.load(tmp_path, view="raw")
    listing = 'schema_version = 1\n[[capture]]\nmodel = "m.onnx"\nexecutions = 1\n[capture.shapes]\nx = [9, 3]\n'
    (tmp_path / "captures.toml").write_text(listing)
    with pytest.raises(GraphoptError, match="x=9x3, w=2x7 contradict the model") as caught:
        corpus.load(tmp_path, view="raw")
    assert hint not in str(caught.value)
