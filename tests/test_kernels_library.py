"""Kernel libraries: one for several levels of instruction sets, made of parts that a cache keeps."""

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from graphopt.errors import GraphoptError
from graphopt.kernels import build_library, compile, find_compiler
from graphopt.kernels.compile import X86_LEVELS, Level, levels, processor_flags
from graphopt.kernels.object_cache import ObjectCache, open_cache
from tests.kernel_checks import FUSED, OPSET, Case, element_type, random_values, session

COMPILER = find_compiler()
pytestmark = [pytest.mark.skipif(COMPILER is None, reason="no C compiler"), pytest.mark.usefixtures("all_levels")]
ROOT = Path(__file__).parent.parent
COMMON = 4
"""Parts besides the kernels: what they share, the list of kernels, the blocks of matrix products, the entry point."""


def _cases(count: int = 3) -> list[Case]:
    """Patterns that pack, transpose and compute."""
    x = random_values((2, 37, 45), "float32", 0)
    node = helper.make_node
    return [
        Case("turned", (node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("Tanh", ["t"], ["y"])), {"x": x}, ("y",)),
        Case("moved", (node("Transpose", ["x"], ["y"], perm=[2, 1, 0]),), {"x": x}, ("y",)),
        Case("chain", (node("Mul", ["x", "x"], ["t"]), node("Exp", ["t"], ["y"])), {"x": x / 4}, ("y",)),
    ][:count]


def _run(case: Case, library: Path) -> np.ndarray:
    values = case.expected(case.feeds)
    outputs = [helper.make_tensor_value_info(o, element_type(str(values[o].dtype)), None) for o in case.outputs]
    node = helper.make_node(case.name, list(case.feeds), list(case.outputs), domain=FUSED)
    inputs = [(x, str(value.dtype)) for x, value in case.feeds.items()]
    opened = session([node], inputs, outputs, {"": OPSET, FUSED: 1}, library)
    return np.asarray(opened.run(None, dict(case.feeds))[0])


def _check(library: Path, count: int = 3) -> None:
    for case in _cases(count):
        np.testing.assert_allclose(_run(case, library), case.expected(case.feeds)["y"], rtol=1e-6, err_msg=case.name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    opened = open_cache()
    assert opened is not None
    return opened


@pytest.mark.parametrize("level", X86_LEVELS, ids=[level.name for level in X86_LEVELS])
def test_every_level_computes_the_same(level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILER is not None
    if levels(COMPILER, portable=True) != X86_LEVELS or not level.needs <= processor_flags():
        pytest.skip("not a level of this processor")
    monkeypatch.setattr(compile, "levels", lambda compiler, portable: (level,))
    _check(build_library([case.fused() for case in _cases()], tmp_path, "k"))


def test_one_library_for_every_level(tmp_path: Path) -> None:
    _check(build_library([case.fused() for case in _cases()], tmp_path, "k", portable=True))


def test_runs_side_by_side_have_memory_of_their_own(tmp_path: Path) -> None:
    """Temporaries of all kernels lie in the same memory, as long as one runs after the other."""
    softmax = [helper.make_node("Softmax", [a], [b], axis=axis) for a, b, axis in (("x", "t", 1), ("t", "y", 2))]
    inputs = [random_values((2, rows, 40), "float32", rows) for rows in (3, 50, 7, 200)]
    case = Case("twice", tuple(softmax), {"x": inputs[0]}, ("y",))
    library = build_library([case.fused()], tmp_path, "k")
    output = helper.make_tensor_value_info("y", element_type("float32"), None)
    node = helper.make_node(case.name, ["x"], ["y"], domain=FUSED)
    opened = [session([node], [("x", "float32")], [output], {"": OPSET, FUSED: 1}, library) for _ in range(2)]
    alone = [opened[0].run(None, {"x": x})[0] for x in inputs]
    for x, result in zip(inputs, alone, strict=True):
        np.testing.assert_allclose(result, case.expected({"x": x})["y"], rtol=1e-5)

    def run(number: int) -> bool:
        which = number % len(inputs)
        return bool((opened[number % 3 % 2].run(None, {"x": inputs[which]})[0] == alone[which]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(400)))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one level")
def test_a_level_that_the_processor_lacks_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that asks for an instruction set that no processor has stands first: the next one is used."""
    plain, original = Level("plain", ()), compile.support

    def support(*names: str) -> str:
        return original(*names).replace(
            "instruction_set LEVEL(NEEDED)[] = {\n",
            'instruction_set LEVEL(NEEDED)[] = {\n#ifdef LACKING\n    {"nothing", 7, 0, 3, 31, 0xffffff00},\n#endif\n',
        )

    monkeypatch.setattr(compile, "support", support)
    lacking_level = Level("best", ("-DLACKING",))
    monkeypatch.setattr(compile, "levels", lambda compiler, portable: (lacking_level, plain))
    _check(build_library([case.fused() for case in _cases(1)], tmp_path, "k"), 1)
    monkeypatch.setattr(compile, "levels", lambda compiler, portable: (lacking_level,))
    alone = build_library([case.fused() for case in _cases(1)], tmp_path, "alone")
    with pytest.raises(Exception, match="compiled for a processor with nothing"):
        _run(_cases(1)[0], alone)


def test_equal_kernels_are_compiled_once(cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    original = compile._run

    def counted(command: list[str]) -> None:
        ran.append(" ".join(command))
        original(command)

    monkeypatch.setattr(compile, "_run", counted)
    fused = [case.fused() for case in _cases()]
    build_library(fused, tmp_path, "first")
    compiled = sum(" -c " in line for line in ran)
    assert compiled == len(fused) + COMMON
    ran.clear()
    library = build_library(list(reversed(fused)), tmp_path, "another")
    assert sum(" -c " in line for line in ran) == 1  # the list
    _check(library)


def test_a_damaged_part_is_compiled_again(cache: ObjectCache, tmp_path: Path) -> None:
    fused = [case.fused() for case in _cases()]
    build_library(fused, tmp_path, "first")
    parts = sorted(cache.folder.glob("*.o"))
    assert len(parts) == len(fused) + COMMON
    for number, part in enumerate(parts):
        content = bytearray(part.read_bytes())
        if number % 2:
            content[len(content) // 2] ^= 1
        else:
            del content[len(content) // 2 :]
        part.write_bytes(content)
    _check(build_library(fused, tmp_path, "second"))


def test_a_part_under_the_name_of_another_is_compiled_again(cache: ObjectCache, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"one")
    cache.store("a" * 64, part)
    (cache.folder / f"{'a' * 64}.o").rename(cache.folder / f"{'b' * 64}.o")
    assert not cache.fetch("b" * 64, part)
    assert list(cache.folder.iterdir()) == []


def test_the_environment_names_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILER is not None
    monkeypatch.setenv("GRAPHOPT_LEVEL", "plain")
    assert [level.name for level in levels(COMPILER, portable=True)] == ["plain"]
    _check(build_library([case.fused() for case in _cases()], tmp_path, "k"))
    monkeypatch.setenv("GRAPHOPT_LEVEL", "avx3")
    with pytest.raises(GraphoptError, match=r"GRAPHOPT_LEVEL is 'avx3', which is no level: avx512, avx2, plain"):
        build_library([case.fused() for case in _cases()], tmp_path, "k")


def test_the_cache_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "a" / "b"))
    opened = open_cache()
    assert opened is not None
    assert opened.folder.stat().st_mode & 0o777 == 0o700
    opened.folder.chmod(0o770)
    assert open_cache() is None
    monkeypatch.setenv("GRAPHOPT_CACHE", "off")
    assert open_cache() is None
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "objects").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "linked"))
    assert open_cache() is None


def test_the_cache_stays_small(cache: ObjectCache, tmp_path: Path) -> None:
    cache.largest = 10_000
    part = tmp_path / "part"
    for number in range(30):
        part.write_bytes(bytes([number]) * 1000)
        cache.store(f"{number:02}", part)
        os.utime(cache.folder / f"{number:02}.o", ns=(number, number))
        assert sum(place.stat().st_size for place in cache.folder.iterdir()) <= cache.largest
    assert cache.fetch("29", part)
    assert part.read_bytes() == bytes([29]) * 1000
    assert not cache.fetch("00", part)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    gone = ObjectCache(tmp_path / "gone")
    part = tmp_path / "part"
    part.write_bytes(b"x")
    gone.store("key", part)
    assert not gone.fetch("key", part)


def test_runs_at_the_same_time(cache: ObjectCache, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.test_kernels_library import _cases, build_library;"
        "build_library([c.fused() for c in _cases()], Path(sys.argv[1]), 'k')"
    )
    environment = {**os.environ, "GRAPHOPT_CACHE": str(cache.folder.parent)}
    running = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        running.append(subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, env=environment))
    assert [process.wait() for process in running] == [0, 0, 0]
    for number in range(3):
        _check(tmp_path / str(number) / "k.so")


def test_the_first_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError) as error:
        build_library([_cases()[0].fused()], tmp_path, "k", compiler=["false"])
    assert "\n" not in str(error.value)


def test_what_ends_compiling_early_begins_no_more_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def part(command: list[str], flags: list[str], text: str, file: Path, objects: ObjectCache | None) -> Path:
        begun.append(file)
        if len(begun) > 1:
            time.sleep(0.1)
            return file
        raise KeyboardInterrupt

    monkeypatch.setattr(compile, "_object", part)
    monkeypatch.setattr(compile, "_processors", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        build_library([case.fused() for case in _cases()], tmp_path, "k", portable=True)
    assert len(begun) <= 3
    assert not list(tmp_path.glob(".compile-*"))
