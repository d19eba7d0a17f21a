"""Captures from profiles of onnxruntime, folders and archives of models, and PyTorch programs."""

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper, parser
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from graphopt import captures_file, corpus, model_folders, models, profile_events, store, weights
from graphopt.captures_file import Entry
from graphopt.errors import GraphoptError
from tests.command_line import CommandLine


def vision() -> ModelProto:
    """A convolution that onnxruntime fuses, an input behind an absent operand, and one that nothing reads."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, H, W] image, float[N] low, int64[N] ids, float[N, 4] spare)
          => (float[?, ?, ?, ?] y, float[?] z, float[?, ?] e) {
          a = Conv <pads = [1, 1, 1, 1]> (image, w)
          y = Relu(a)
          two = Constant <value_float = 2.0> ()
          z = Clip(low, , two)
          e = Gather(table, ids)
        }"""
    )
    generator = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(generator.random((16, 3, 3, 3), np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(generator.random((50, 8), np.float32), "table"))
    return model


def feeds(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    return {
        "image": np.ones((batch, 3, height, width), np.float32),
        "low": np.ones(batch, np.float32),
        "ids": np.zeros(batch, np.int64),
        "spare": np.ones((batch, 4), np.float32),
    }


def shapes(batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds(batch, height, width).items()}


def profiled(model: ModelProto, folder: Path, level: GraphOptimizationLevel, threads: int = 1) -> Path:
    """A profile of runs at three shapes: 2, 3 and 4 times each, from so many threads at once."""
    settings = SessionOptions()
    settings.enable_profiling, settings.profile_file_prefix = True, str(folder / "profile")
    settings.graph_optimization_level = level
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def run() -> None:
        for times, size in ((2, (1, 8, 9)), (3, (2, 8, 9)), (4, (2, 16, 5))):
            for _ in range(times):
                session.run(None, feeds(*size))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Path(session.end_profiling())


# ----------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_a_profile_tells_shapes_and_executions(tmp_path: Path, level: str, threads: int) -> None:
    path = profiled(vision(), tmp_path, getattr(GraphOptimizationLevel, level), threads)
    for model in (vision(), weights.drop_weights(vision())):
        found = profile_events.executions_of(model, path)
        assert sorted(count for _, count in found) == [2 * threads, 3 * threads, 4 * threads]
        assert {count: known for known, count in found} == {
            2 * threads: shapes(1, 8, 9),
            3 * threads: shapes(2, 8, 9),
            4 * threads: shapes(2, 16, 5),
        }


def test_a_profile_of_parallel_operators(tmp_path: Path) -> None:
    """Operators of a run in the parallel mode have threads of their own."""
    path = profiled(vision(), tmp_path, GraphOptimizationLevel.ORT_DISABLE_ALL)
    events = json.loads(path.read_text())
    for event in events:
        if event["cat"] == "Node":
            event["tid"] = 7
    path.write_text(json.dumps(events))
    found = profile_events.executions_of(vision(), path)
    assert [count for _, count in found] == [2, 3, 4]
    assert found[2][0] == shapes(2, 16, 5)


def test_a_profile_without_its_end(tmp_path: Path) -> None:
    path = profiled(vision(), tmp_path, GraphOptimizationLevel.ORT_DISABLE_ALL)
    text = path.read_text()
    path.write_text(text[: text.rindex('"model_run"') + 5])
    assert [count for _, count in profile_events.executions_of(vision(), path)] == [2, 3, 3]


def test_a_profile_that_leaves_out_constants(tmp_path: Path) -> None:
    path = profiled(vision(), tmp_path, GraphOptimizationLevel.ORT_DISABLE_ALL)
    events = json.loads(path.read_text())
    for event in events:
        operands = event["args"].get("input_type_shape", [])
        event["args"]["input_type_shape"] = [
            operand for operand in operands if [*operand.values()] not in ([[16, 3, 3, 3]], [[50, 8]], [[]])
        ]
    path.write_text(json.dumps(events))
    assert profile_events.executions_of(vision(), path)[0] == (shapes(1, 8, 9), 2)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "not a profile"),
        ("{}", "not a profile"),
        ("[3]", "not a profile"),
        ('[{"cat": "Node"}]', "not a profile"),
        ("[]", "no run in it"),
        ("no JSON\n", "not a profile"),
    ],
)
def test_what_is_no_profile(tmp_path: Path, content: str, cause: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(GraphoptError, match=cause) as error:
        profile_events.executions_of(vision(), path)
    assert str(error.value).startswith(str(path))


def test_the_profile_of_another_model(tmp_path: Path) -> None:
    path = profiled(vision(), tmp_path, GraphOptimizationLevel.ORT_DISABLE_ALL)
    other = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N] q) => (float[N] r) { r = Neg(q) }"""
    )
    with pytest.raises(GraphoptError, match="shape of input 'q': is it the profile of this model"):
        profile_events.executions_of(other, path)


def test_capture_with_a_profile(tmp_path: Path, graphopt: CommandLine) -> None:
    models.save(vision(), tmp_path / "m.onnx")
    profile = profiled(vision(), tmp_path, GraphOptimizationLevel.ORT_ENABLE_ALL)
    words = ["capture", tmp_path / "m.onnx", "--profile", profile, "--corpus"]
    outcome = graphopt(*words, tmp_path / "fleet")
    assert (outcome.code, outcome.err) == (0, "")
    entries = captures_file.read(tmp_path / "fleet" / "captures.toml")
    assert [(entry.shapes["image"], entry.executions) for entry in entries] == [
        ((1, 3, 8, 9), 2),
        ((2, 3, 8, 9), 3),
        ((2, 3, 16, 5), 4),
    ]
    url = f"file://{tmp_path}/observed"
    assert graphopt(*words, url, "--redact").code == 0
    assert graphopt(*words, url, "--redact", "--name", "other").code == 0
    table = store.open(url).captured.total()
    assert sorted(table.column("executions").to_pylist()) == [4, 6, 8]
    assert set(table.column("name").to_pylist()) == {"model"}
    assert b"image" not in b"".join(path.read_bytes() for path in (tmp_path / "observed").rglob("*.*"))
    assert graphopt(*words, tmp_path / "x", "--executions", "3").code == 2
    assert graphopt(*words, url, "--weights", "keep").code == 3


# --------------------------------------------------------------------------------------------- folders, archives


def small(operator: str) -> bytes:
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x, float s) => (float[N, 4] y) {{
          a = {operator}(x)  y = Mul(a, s) }}"""
    )
    return model.SerializeToString()


LISTING = "model,executions,shapes\na.onnx,5,x=2x4;s=\nsub/b.onnx,7,x=3x4; s=\na.onnx,2,x=2x4;s=\n"


def folder_of_models(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.onnx").write_bytes(small("Relu"))
    (folder / "sub" / "b.onnx").write_bytes(small("Tanh"))
    (folder / "captures.csv").write_text(LISTING)
    return folder


def packed(folder: Path, kind: str) -> Path:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    target = folder.parent / f"models.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
    else:
        with tarfile.open(target, "w:gz" if kind == "tgz" else "w") as tar:
            for path in files:
                tar.add(path, path.relative_to(folder))
    return target


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz"])
def test_a_folder_or_archive_with_a_list(tmp_path: Path, kind: str, graphopt: CommandLine) -> None:
    source = folder_of_models(tmp_path / "models")
    source = source if kind == "folder" else packed(source, kind)
    outcome = graphopt("capture", source, "--corpus", tmp_path / "fleet")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 2
    found = [
        (c.graph.name.split("-")[0], c.executions, c.input_shapes()) for c in corpus.load(tmp_path / "fleet").captures
    ]
    assert found == [("a", 7, {"x": (2, 4), "s": ()}), ("b", 7, {"x": (3, 4), "s": ()})]


def test_a_list_from_elsewhere_and_models_that_fail(tmp_path: Path, graphopt: CommandLine) -> None:
    source = folder_of_models(tmp_path / "models")
    (source / "broken.onnx").write_bytes(b"no model")
    listing = tmp_path / "list.toml"
    entries = [
        Entry("broken.onnx", {"x": (1, 4)}),
        Entry("a.onnx", {"x": (9, 4)}, 3, {}, "executed"),
        Entry("gone.onnx"),
    ]
    listing.write_text(captures_file.text(entries))
    outcome = graphopt("capture", source, "--corpus", tmp_path / "fleet", "--listing", listing)
    assert outcome.code == 0
    assert [line.split(": ")[-1] for line in outcome.err.splitlines()] == [
        "not an ONNX file",
        "No such file or directory",
    ]
    (entry,) = captures_file.read(tmp_path / "fleet" / "captures.toml")
    assert (entry.shapes, entry.executions, entry.view) == ({"x": (9, 4), "s": ()}, 3, "executed")
    (tmp_path / "models" / "captures.csv").write_text("model,executions,shapes\nbroken.onnx,1,\n")
    outcome = graphopt("capture", source, "--corpus", tmp_path / "none")
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert not (tmp_path / "none").exists()


def test_external_weights_come_with_an_archive(tmp_path: Path) -> None:
    source = tmp_path / "models"
    source.mkdir()
    models.save(vision(), source / "v.onnx", largest=0)
    assert {path.name for path in source.iterdir()} == {"v.onnx", "v.onnx.data"}
    with model_folders.opened(packed(source, "zip")) as folder:
        assert models.load(folder / "v.onnx").graph.initializer[0].dims == [16, 3, 3, 3]
        assert model_folders.entries_of(folder) == {"v.onnx": [Entry("v.onnx")]}


@pytest.mark.parametrize("name", ["../out.onnx", "/tmp/out.onnx", "a/../../out.onnx", "..\\out.onnx", "C:/out.onnx"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_is_written_outside(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"evil.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), small("Relu"))
    else:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(small("Relu"))
            tar.addfile(member, io.BytesIO(small("Relu")))
    with pytest.raises(GraphoptError, match="outside of the archive"), model_folders.opened(path):
        pass


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        for index, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"m{index}.onnx")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("empty.onnx"))
    with model_folders.opened(path) as folder:
        assert [found.name for found in folder.iterdir()] == ["empty.onnx"]
    path = tmp_path / "links.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("m.onnx")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("empty.onnx", "")
    with model_folders.opened(path) as folder:
        assert [found.name for found in folder.iterdir()] == ["empty.onnx"]


def test_an_archive_that_grows_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folders, "LEAST_LIMIT", 2**20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.onnx", bytes(2**22))
    with (
        pytest.raises(GraphoptError, match=r"bomb\.zip: unpacks to more than 1048576 bytes"),
        model_folders.opened(path),
    ):
        pass
    # a size that is a lie
    content = bytearray(path.read_bytes())
    for at in (22, content.rindex(b"PK\x01\x02") + 24):
        content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(GraphoptError, match=r"bomb\.zip: "), model_folders.opened(path):
        pass


def test_a_torn_archive(tmp_path: Path) -> None:
    whole = packed(folder_of_models(tmp_path / "models"), "tgz").read_bytes()
    path = tmp_path / "torn.tgz"
    for length in (len(whole) // 3, len(whole) // 2):  # an end that only fills the last block is not missed
        path.write_bytes(whole[:length])
        assert model_folders.is_archive(path)
        with pytest.raises(GraphoptError, match="cannot be unpacked"), model_folders.opened(path):
            pass


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_any_listing_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"model,executions,shapes\n" + content)
    try:
        assert isinstance(model_folders.read_listing(path), tuple)
    except GraphoptError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("model,executions\na.onnx,1\n", "columns must be model, executions and shapes"),
        ("model,executions,shapes\na.onnx,1\n", "line 2 does not have three columns"),
        ("model,executions,shapes\na.onnx,1,x=1,y\n", "line 2 does not have three columns"),
        ("model,executions,shapes\na.onnx,0,\n", "line 2: .*executions must be a whole number above 0"),
        ("model,executions,shapes\na.onnx,many,\n", "line 2: .*executions"),
        ("model,executions,shapes\n../a.onnx,1,\n", "inside of the corpus"),
        ("model,executions,shapes\na.onnx,1,x=1x-2\n", "'x=1x-2' is not NAME=1x3x224x224"),
        ("model,executions,shapes\na.onnx,1,x=1;x=2\n", "'x' has two shapes"),
        ("", "columns must be"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "captures.csv"
    path.write_text(text)
    with pytest.raises(GraphoptError, match=cause) as error:
        model_folders.read_listing(path)
    assert str(error.value).startswith(f"{path}: ")


# ----------------------------------------------------------------------------------------------------- programs


def test_a_program_without_torch(tmp_path: Path) -> None:
    (tmp_path / "p.pt2").write_bytes(b"PK")
    code = (
        "import sys; sys.modules['torch'] = None\nfrom graphopt.cli import main\n"
        "sys.exit(main(['capture', sys.argv[1], '--corpus', sys.argv[1] + '.fleet']))"
    )
    root = Path(__file__).parent.parent
    words = [sys.executable, "-c", code, str(tmp_path / "p.pt2")]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 3
    assert "is not installed: pip install torch onnxscript" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_program_with_a_torch_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "onnxscript.py").touch()
    (tmp_path / "torch.py").write_text("raise ImportError('libcudnn.so.9: no such file')")
    root = Path(__file__).parent.parent
    words = [sys.executable, "-m", "graphopt", "capture", str(tmp_path / "p.pt2"), "--corpus", str(tmp_path / "fleet")]
    (tmp_path / "p.pt2").write_bytes(b"PK")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 3
    assert done.stderr.endswith("p.pt2: torch and onnxscript cannot be loaded: libcudnn.so.9: no such file\n")
    assert done.stderr.count("\n") == 1


def test_a_program(tmp_path: Path, graphopt: CommandLine) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(32, 64)

        def forward(self, x: object, scale: object) -> object:
            return torch.nn.functional.gelu(self.layer(x)) * scale

    program = torch.export.export(
        Network(), (torch.ones(3, 32), torch.ones(())), dynamic_shapes=({0: torch.export.Dim("N")}, None)
    )
    torch.export.save(program, tmp_path / "p.pt2")
    outcome = graphopt("capture", tmp_path / "p.pt2", "--corpus", tmp_path / "fleet", "--executions", "9")
    assert (outcome.code, outcome.err) == (0, "")
    (capture,) = corpus.load(tmp_path / "fleet").captures
    assert capture.executions == 9
    assert list(capture.input_shapes().values()) == [(3, 32), ()]
    words = ["capture", tmp_path / "p.pt2", "--corpus", tmp_path / "fleet"]
    assert graphopt(*words, "--shape", "x=8x32", "--shape", "scale=").code == 0
    (tmp_path / "p.pt2").write_bytes(b"nothing")
    outcome = graphopt(*words)
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
