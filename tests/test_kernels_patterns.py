"""Random patterns: one kernel is right at every shape, for any number of threads, in any order of runs."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.kernels import lowerable
from tests.kernel_checks import KernelLibrary, assert_same
from tests.kernel_patterns import Pattern, random_pattern

COUNT = 200
FIRST_SEED = 20_000


def _patterns(first: int, count: int) -> dict[str, Pattern]:
    found = (random_pattern(f"pattern{seed}", seed) for seed in range(first, first + count))
    return {pattern.name: pattern for pattern in found}


PATTERNS = _patterns(FIRST_SEED, COUNT)


def _library(patterns: dict[str, Pattern], folder: object) -> KernelLibrary:
    """Every third kernel is generated without examples of shapes."""
    cases = [pattern.case(0, shaped=number % 3 != 0) for number, pattern in enumerate(patterns.values())]
    small = [case for case in cases if lowerable(case.body()) is None]
    assert len(small) >= 0.95 * len(cases)
    return KernelLibrary(small, folder)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return _library(PATTERNS, tmp_path_factory.mktemp("patterns"))


def _check(library: KernelLibrary, pattern: Pattern, seed: int, large: bool = False) -> None:
    feeds, values = pattern.walk(seed, large)
    found = library.run(pattern.name, feeds, threads=1)
    again = library.run(pattern.name, feeds, threads=2) if large else found
    for output, value, other in zip(pattern.outputs, found, again, strict=True):
        shapes = {name: (v.shape if v.size > 8 or v.dtype != np.int64 else v.tolist()) for name, v in feeds.items()}
        message = f"{pattern.name} {output} seed {seed}, inputs {shapes}"
        assert_same(value, values[output], message=message)
        np.testing.assert_array_equal(value, other, err_msg=f"{message}: two threads")


@pytest.mark.parametrize("name", PATTERNS)
def test_one_kernel_at_many_shapes(library: KernelLibrary, name: str) -> None:
    if name not in library.cases:
        pytest.skip("too many loads or alternatives for a kernel")
    for seed in (0, 1, 2, 3):
        _check(library, PATTERNS[name], seed)
    _check(library, PATTERNS[name], 4, large=True)


@given(name=st.sampled_from(sorted(PATTERNS)), seed=st.integers(5, 10**6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kernels_at_drawn_shapes(library: KernelLibrary, name: str, seed: int) -> None:
    if name in library.cases:
        _check(library, PATTERNS[name], seed)


def test_a_session_runs_with_changing_shapes(library: KernelLibrary) -> None:
    """More sets of shapes than a session keeps plans for, each met twice."""
    pattern = PATTERNS[next(name for name in PATTERNS if name in library.cases)]
    walks = [pattern.walk(seed) for seed in range(100, 150)]
    for feeds, values in (*walks, *reversed(walks)):
        for output, value in zip(pattern.outputs, library.run(pattern.name, feeds), strict=True):
            assert_same(value, values[output])


def test_threads_share_a_session(library: KernelLibrary) -> None:
    names = [name for name in PATTERNS if name in library.cases][:6]
    walks = {name: [PATTERNS[name].walk(seed) for seed in range(200, 212)] for name in names}
    for name in names:
        library.session(name, 2)
    wrong: list[str] = []

    def work(offset: int) -> None:
        try:
            for turn in range(60):
                name = names[(turn + offset) % len(names)]
                feeds, values = walks[name][(7 * turn + offset) % 12]
                for output, value in zip(PATTERNS[name].outputs, library.run(name, feeds, threads=2), strict=True):
                    assert_same(value, values[output])
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_more_patterns(block: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    patterns = _patterns(100_000 + 100 * block, 100)
    library = _library(patterns, tmp_path_factory.mktemp("more"))
    for name in library.cases:
        for seed in range(4):
            _check(library, patterns[name], seed)
        _check(library, patterns[name], 4, large=True)
