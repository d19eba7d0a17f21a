"""Sessions: levels, kernel libraries, metadata, and one clear line for everything that can be wrong."""

import hashlib
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from graphopt import kernels
from graphopt.errors import GraphoptError
from graphopt.runtime import session
from tests.runtime_models import fused_model, model, other_library, tensor

X = np.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 0.5]], np.float32)
W = np.array([1.0, -2.0, 3.0], np.float32)
BY_BODY = np.maximum((X + W) * W, 0)
BY_KERNEL = np.maximum((X + W) - W, 0)

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C compiler")


def run(opened: onnxruntime.InferenceSession) -> np.ndarray:
    return opened.run(None, {"x": X})[0]


def save(folder: Path, metadata: dict[str, str]) -> Path:
    path = folder / "fused.onnx"
    onnx.save(fused_model(metadata), path)
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_library(tmp_path_factory.mktemp("library"))


@pytest.mark.parametrize("level", list(session.LEVELS))
def test_every_level_runs_the_function_body_without_a_library(level: session.Optimization) -> None:
    np.testing.assert_array_equal(run(session.open_session(fused_model(), optimization=level)), BY_BODY)


def test_opens_files_bytes_and_models(tmp_path: Path) -> None:
    path = save(tmp_path, {})
    for given in (path, path.read_bytes(), onnx.load(path)):
        np.testing.assert_array_equal(run(session.open_session(given)), BY_BODY)


def test_options_are_what_was_asked_for() -> None:
    options = session.open_session(fused_model(), threads=2, optimization="basic").get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC


@needs_compiler
@pytest.mark.parametrize("level", list(session.LEVELS))
def test_kernels_take_precedence_at_every_level(level: session.Optimization, library: Path) -> None:
    opened = session.open_session(fused_model(), optimization=level, kernels=library)
    np.testing.assert_array_equal(run(opened), BY_KERNEL)


def test_models_too_large_for_a_message_go_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LARGEST_MESSAGE", 10)
    original = fused_model()
    before = original.SerializeToString()
    np.testing.assert_array_equal(run(session.open_session(original)), BY_BODY)
    assert original.SerializeToString() == before


def rejected() -> list[tuple[str, object, str]]:
    unknown = model([helper.make_node("NoSuchOperator", ["x"], ["y"])], [tensor("x")], [tensor("y")])
    future = fused_model()
    future.ir_version = 99
    dangling = model([helper.make_node("Relu", ["nothing"], ["y"])], [tensor("x")], [tensor("y")])
    return [
        ("empty", b"", "No graph"),
        ("noise", b"hello", "protobuf"),
        ("missing", Path("/no/such/model.onnx"), "/no/such/model.onnx: no such file"),
        ("operator", unknown, "NoSuchOperator"),
        ("version", future, "IR version: 99"),
        ("dangling", dangling, "nothing"),
    ]


@pytest.mark.parametrize(("given", "part"), [r[1:] for r in rejected()], ids=[r[0] for r in rejected()])
def test_what_onnxruntime_rejects_is_one_line(given: Path | bytes | onnx.ModelProto, part: str) -> None:
    with pytest.raises(GraphoptError, match=part) as caught:
        session.open_session(given)
    assert "\n" not in str(caught.value)
    assert "/onnxruntime_src/" not in str(caught.value)


def test_truncated_model_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path, {})
    path.write_bytes(path.read_bytes()[:-20])
    for opener in (session.open_session, session.load, session.read_metadata):
        with pytest.raises(GraphoptError, match=r"fused\.onnx: .*"):
            opener(path)


def test_bad_kernel_libraries_are_one_line(tmp_path: Path) -> None:
    noise = tmp_path / "noise.so"
    noise.write_bytes(b"no library")
    for path, part in ((noise, "invalid ELF|cannot load"), (tmp_path / "none.so", "no such kernel library")):
        with pytest.raises(GraphoptError, match=part):
            session.open_session(fused_model(), kernels=path)


def test_unknown_level() -> None:
    with pytest.raises(GraphoptError, match="known are all"):
        session.open_session(fused_model(), optimization="most")  # type: ignore[arg-type]


@needs_compiler
def test_load_finds_the_library_beside_the_model(tmp_path: Path, library: Path) -> None:
    shutil.copy(library, tmp_path / "fused.so")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    path = save(tmp_path, {"graphopt.kernels": "fused.so", "graphopt.kernels.sha256": digest})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(run(session.load(path)), BY_KERNEL)
        np.testing.assert_array_equal(run(session.load(str(path))), BY_KERNEL)
        np.testing.assert_array_equal(run(session.open_deployed(path, threads=1)), BY_KERNEL)


@needs_compiler
def test_load_works_from_another_folder(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(library, tmp_path / "fused.so")
    save(tmp_path, {"graphopt.kernels": "fused.so"})
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(run(session.load("fused.onnx")), BY_KERNEL)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("fused.so", "no such kernel library"),
        ("noise.so", "cannot load"),
        ("../fused.so", "plain file name"),
        ("/tmp/fused.so", "plain file name"),
        ("a\\b.so", "plain file name"),
        ("..", "plain file name"),
        ("", "plain file name"),
    ],
)
def test_load_without_its_library_warns_once_and_runs_the_bodies(tmp_path: Path, name: str, part: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "fused.so").write_bytes(b"must not be touched")
    (folder / "noise.so").write_bytes(b"no library")
    path = save(folder, {"graphopt.kernels": name})
    with pytest.warns(RuntimeWarning, match=part) as caught:
        opened = session.load(path)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    np.testing.assert_array_equal(run(opened), BY_BODY)


@needs_compiler
def test_load_refuses_a_library_made_for_another_model(tmp_path: Path, library: Path) -> None:
    shutil.copy(library, tmp_path / "fused.so")
    path = save(tmp_path, {"graphopt.kernels": "fused.so", "graphopt.kernels.sha256": "0" * 64})
    with pytest.warns(RuntimeWarning, match="not the kernel library that was made"):
        opened = session.load(path)
    np.testing.assert_array_equal(run(opened), BY_BODY)


@pytest.mark.parametrize(("view", "level"), [("executed", "none"), ("portable", "all"), ("raw", "all")])
def test_load_leaves_the_executed_view_as_it_is(tmp_path: Path, view: str, level: session.Optimization) -> None:
    path = save(tmp_path, {"graphopt.view": view})
    assert session.load(path).get_session_options().graph_optimization_level == session.LEVELS[level]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = session.LEVELS["basic"]
    assert session.load(path, options).get_session_options().graph_optimization_level == session.LEVELS["basic"]


@needs_compiler
def test_session_options_serve_one_library(tmp_path: Path, library: Path) -> None:
    shutil.copy(library, tmp_path / "fused.so")
    path = save(tmp_path, {"graphopt.kernels": "fused.so"})
    options = onnxruntime.SessionOptions()
    for _ in range(2):
        np.testing.assert_array_equal(run(session.load(path, options)), BY_KERNEL)
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy(library, second / "fused.so")
    with pytest.raises(GraphoptError, match="already carry"):
        session.load(save(second, {"graphopt.kernels": "fused.so"}), options)
    with pytest.raises(GraphoptError, match="already carry"):
        session.register(options, second / "fused.so")


def test_load_refuses_another_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "block_size", lambda: 8)
    with pytest.raises(GraphoptError, match="blocks of 16 channels, this CPU computes in blocks of 8"):
        session.load(save(tmp_path, {"graphopt.block": "16"}))
    np.testing.assert_array_equal(run(session.load(save(tmp_path, {"graphopt.block": "8"}))), BY_BODY)


def test_channel_block_is_one_that_onnxruntime_uses() -> None:
    assert session.block_size() in (0, 4, 8, 16)


def test_metadata_is_read_past_large_fields(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    weights = {"w": np.zeros((300, 1000), np.float32)}
    made = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor("x")], [tensor("y")], weights=weights)
    helper.set_model_props(made, {"graphopt.view": "raw", "other": "é"})
    onnx.save(made, path)
    assert session.read_metadata(path) == {"graphopt.view": "raw", "other": "é"}


def test_metadata_of_what_is_no_model(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("this is no model at all\n" * 20)
    for path, part in ((text, "not an ONNX model"), (tmp_path / "none.onnx", "cannot read"), (tmp_path, "cannot read")):
        with pytest.raises(GraphoptError, match=part):
            session.read_metadata(path)


def test_load_is_found_in_the_package() -> None:
    import graphopt

    assert graphopt.load is session.load
