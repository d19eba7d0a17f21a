"""Random programs of every kind of operator: kernels against operators one by one, plain, sanitised, in valgrind."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.kernels import find_compiler
from graphopt.kernels.compile import PLAIN, X86_LEVELS, Level, levels, processor_flags
from graphopt.operators import table
from tests import fuzzing
from tests.kernel_checks import BLOCKED
from tests.random_programs import programs

ROOT = Path(__file__).parent.parent
COMPILER = find_compiler()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

QUICK = ["-std=gnu99", "-O0", "-fPIC", "-pthread", "-ffp-contract=off"]
"""Compiled fast: what is tested is the program, not how the compiler vectorises it."""
SANITIZED = [*QUICK, "-g1", "-fno-sanitize-recover=all", "-fsanitize=address,undefined"]


def _levels() -> list[Level]:
    """What this processor runs, the plainest first."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [PLAIN]
    return [level for level in reversed(X86_LEVELS) if level.needs <= processor_flags()]


LEVELS = _levels()


def _check(first: int, count: int, folder: Path, flags: list[str] | None) -> None:
    cases = programs(first, count)
    assert len(cases) > 0.8 * count
    fuzzing.check_all(fuzzing.build(cases, folder, flags), cases)


@pytest.mark.parametrize("part", range(4))
def test_kernels_compute_what_their_operators_do(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 programs, at each level of instruction sets in turn, the best once with the matrix unit for all it can."""
    monkeypatch.setenv("GRAPHOPT_MATRIX_UNIT", "off" if part == 2 else "always")
    level = LEVELS[min(part, len(LEVELS) - 1)]
    _check(550 * part, 550, tmp_path, [*QUICK, *level.flags])


@pytest.mark.parametrize(
    ("first", "count"),
    [(10_000, 60), *(pytest.param(20_000 + 500 * n, 500, marks=pytest.mark.slow) for n in range(40))],
)
def test_kernels_as_they_are_compiled(first: int, count: int, tmp_path: Path) -> None:
    _check(first, count, tmp_path, None)


def test_plans_too_large_to_keep(tmp_path: Path) -> None:
    """Where no plan is kept, each step is planned and run again at each run."""
    cases = programs(30_000, 120)
    fuzzing.check_all(fuzzing.build(cases, tmp_path, QUICK, most_pieces=1), cases)


def test_most_operators_are_tried() -> None:
    known = {key for key, operator in table().items() if operator.lowering is not None}
    tried = fuzzing.operators_of(programs(0, 600))
    assert len(tried) > 0.6 * len(known), sorted(known - tried)


@pytest.mark.parametrize(
    ("first", "count"),
    [(50_000, 40), pytest.param(51_000, 2200, marks=pytest.mark.slow)],  # more than 2,000 of these seeds are programs
)
def test_sanitizers_find_nothing(first: int, count: int, tmp_path: Path) -> None:
    assert COMPILER is not None
    found = subprocess.run([*COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    preload = found.stdout.strip()
    if not Path(preload).is_file():
        pytest.skip("no address sanitizer to preload")
    # the C++ library too: the sanitizer looks for what it has to watch of exceptions when it is loaded
    found = subprocess.run([*COMPILER, "-print-file-name=libstdc++.so"], capture_output=True, text=True, check=False)
    preload += f":{found.stdout.strip()}"
    flags = [*SANITIZED, *levels(COMPILER, portable=False)[0].flags]
    cases = programs(first, count)
    library = fuzzing.build(cases, tmp_path, flags)
    fuzzing.write_programs(library, cases)
    for unit in ("off", "always"):
        environment = {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "GRAPHOPT_MATRIX_UNIT": unit}
        _alone([], library, environment)


@pytest.mark.slow
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind")
    # valgrind does not know AVX-512, without which onnxruntime's blocked layout is another one
    known = [level for level in LEVELS if level.name != "avx512"]
    cases = [case for case in programs(90_000, 300) if all(node.domain != BLOCKED for node in case.nodes)]
    library = fuzzing.build(cases, tmp_path, [*QUICK, "-g1", *known[-1].flags])
    fuzzing.write_programs(library, cases)
    # what python and numpy do is not looked at: only errors with a frame in the library count
    log = tmp_path / "valgrind.txt"
    watch = ["valgrind", "--error-limit=no", f"--log-file={log}", "--num-callers=30"]
    _alone(watch, library, {"PYTHONMALLOC": "malloc", "OPENBLAS_NUM_THREADS": "1"})
    reports = log.read_text().split("\n==")
    assert "ERROR SUMMARY" in reports[-1] or any("ERROR SUMMARY" in line for line in reports)
    ours = [line for line in log.read_text().splitlines() if "fuzzing.so" in line and " at 0x" in line]
    assert not ours, "\n".join(ours[:20])


def _alone(watch: list[str], library: Path, environment: dict[str, str]) -> None:
    """Run the kernels of a library in a process of its own."""
    done = subprocess.run(
        [*watch, sys.executable, "-m", "tests.fuzzing", str(library)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == "clean", (done.stdout + done.stderr)[-6000:]
