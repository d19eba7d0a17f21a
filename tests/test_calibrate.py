"""Calibration: fits that are right by construction, files that say what was measured, a busy machine noticed."""

import re
import time
import tomllib
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import calibrate, machine, roofline
from graphopt.calibrate import _near, kernel_cases, matrix_unit
from graphopt.calibrate.cases import CASES, TINY, Case, f32, peak_cases
from graphopt.calibrate.fitting import Measurement, arithmetic, fit
from graphopt.calibrate.machine_text import machine_text
from graphopt.calibrate.timing import LATELY, Timed, Watch, bound, case_model, fastest, session
from graphopt.cli.environment import Exit
from graphopt.errors import GraphoptError
from graphopt.kernels.emit import support
from graphopt.machine import Machine
from graphopt.operators import find, table
from tests.command_line import CommandLine


@settings(deadline=None)
@given(st.floats(1e-8, 1e-2), st.floats(1e8, 1e11), st.floats(1e3, 1e8))
def test_taking_traffic_out_and_putting_it_back_gives_the_measured_time(
    seconds: float, rate: float, moved: float
) -> None:
    xeon = machine.load()
    left = arithmetic(Measurement("k", seconds, seconds * rate, "flop/s", {}, [(moved, 0.0, moved)]), xeon)
    traffic = xeon.seconds_to_move(moved)
    assert left >= 0.3 * seconds * (1 - 1e-9)
    apart = arithmetic(Measurement("k", seconds, seconds * rate, "flop/s", {}, [(moved, 0.0, moved)], apart=True), xeon)
    if traffic < 0.9 * seconds:
        assert apart + traffic == pytest.approx(seconds, rel=1e-6)
    if traffic < 0.9 * seconds:
        assert roofline.together(left, traffic) == pytest.approx(seconds, rel=1e-6)


@given(st.floats(5e10, 5e11), st.floats(1.0, 5.0))
def test_reading_and_writing_are_told_apart(reading: float, slower: float) -> None:
    writing = reading / slower
    adding, copying = 3.0 / (2.0 / reading + 1.0 / writing), 2.0 / (1.0 / reading + 1.0 / writing)
    for known in (reading, None):
        assert _near(adding, copying, known) == pytest.approx((reading, writing), rel=1e-6)


def test_reading_that_is_measured_is_believed_and_writing_is_no_faster() -> None:
    assert _near(1.2e11, 0.95e11, 1.6e11)[0] == pytest.approx(1.6e11)
    for reading in (None, 1e11, 3e11):
        found = _near(1.2e11, 1.5e11, reading)  # copies faster than additions: noise
        assert found[0] >= found[1] * (1 - 1e-9) > 0


def test_work_and_pieces_are_told_apart() -> None:
    """1e10 operations and 1e8 pieces per second, from rows of three lengths."""
    rows = [(1 << 16, 128), (1 << 16, 2048), (1 << 15, 4096)]
    cases = [
        Measurement("softmax", w / 1e10 + p / 1e8, w, "flop/s", {"": p, "never": 0}, [(1.0, 0.0, 1.0)]) for w, p in rows
    ]
    found = fit(cases, machine.load())
    assert found.work == pytest.approx(1e10, rel=0.02)
    assert found.counts == {"": pytest.approx(1e8, rel=0.02)}
    alone = fit(cases[:1], machine.load())
    assert not alone.counts
    assert alone.work == pytest.approx(rows[0][0] / cases[0].seconds, rel=0.02)


def test_a_machine_is_written_as_it_is_read() -> None:
    for name in machine.names():
        original = machine.load(name)
        again = machine.parse(tomllib.loads(machine_text(original, head="again")), "again.toml")
        assert (again.name, again.description, again.scope) == (original.name, original.description, original.scope)
        for name_of_table in ("peak", "rates", "kernel_rates", "piece_rates", "kernel_piece_rates"):
            written, read = getattr(original, name_of_table), getattr(again, name_of_table)
            assert written.keys() == read.keys()
            for key in written:
                assert read[key].value == pytest.approx(written[key].value, rel=1e-3)
                assert (read[key].unit, read[key].source) == (written[key].unit, written[key].source)
        assert [level.bytes for level in again.memory] == pytest.approx([level.bytes for level in original.memory])
        assert (again.per_node is None) == (original.per_node is None)


def test_every_case_runs_and_measures_a_rate_that_operators_have() -> None:
    known = set()
    for name in ("", *(f"_{kind}" for kind in KINDS)):
        known |= {f"{key}{name}{moved}" for row in _rows() for key in row for moved in ("", f"_{roofline.MOVED}")}
    for case in (*CASES, *peak_cases().values(), TINY):
        runner = session(case_model(case), 1)
        runner.run(None, dict(case.feeds))
    assert {case.key for case in CASES} <= known
    scheduled = {roofline.UNIT, "gemm_dots", "conv_unit", "conv_winograd", "reduce_columns"}  # regimes of kernels alone
    assert {case.key for case in kernel_cases.CASES} <= known | scheduled | {roofline.BROADCAST}


@pytest.mark.skipif(not kernel_cases.UNIT, reason="this processor has no matrix unit")
def test_the_loop_that_measures_the_matrix_unit_runs_and_counts_what_it_does(tmp_path: Path) -> None:
    text = support("unit_peak.h")
    assert f"PEAK_ROUNDS = {matrix_unit.ROUNDS}," in text
    assert 2 * matrix_unit.operations(1) == 2 * matrix_unit.operations(256) == matrix_unit.operations(512)
    products = len(re.findall(r"\n +PEAK_PRODUCTS\(\);", text)) * len(re.findall(r"\n +_tile_dpbf16ps\(", text))
    assert products == 6 * matrix_unit.TILES
    library = matrix_unit.library(tmp_path)
    for sets in (1, 3, 300):
        feeds = matrix_unit.operand(sets)
        (result,) = session(matrix_unit.model(feeds), 1, library).run(None, feeds)
        assert result.shape == feeds["x0"].shape


KINDS = (
    "narrow",
    "elements",
    "aliased",
    "axis",
    "uneven",
    "last",
    "wide",
    "row",
    "computed",
    "pointwise",
    "strided",
    "unsigned",
)


def _rows() -> list[tuple[str, str]]:
    special = [(name, name) for name in ("conv_plain", "conv_depthwise_plain", "conv_depthwise", "conv_transpose")]
    special += [(f"resize_{mode}", f"resize_{mode}") for mode in ("nearest", "linear", "cubic")]
    return [(name, row.rate_class) for name, row in table().items()] + special


def test_kernel_cases_count_their_work() -> None:
    sums = {case.key: case for case in kernel_cases.CASES}
    assert sums["exp"].work == 256 * 256
    assert sums["exp"].counts == {"": 1, "repeated": 0}
    assert sums["transpose"].work == 160 * 8 * 64
    assert sums["transpose"].counts == {"": 160 * 8}
    assert sums["transpose_moved"].work == sums["transpose"].work
    assert all(find(node) is not None for case in kernel_cases.CASES for node in case.nodes)


def test_an_operator_that_is_not_there_is_one_line() -> None:
    with pytest.raises(GraphoptError, match="onnxruntime rejects it") as caught:
        session(case_model(Case("none", "NoSuchOperator", [f32(2)])), 1)
    assert "\n" not in str(caught.value)


def test_timing_counts_calls() -> None:
    calls = []
    assert fastest(lambda: calls.append(1), 0.0) < 1.0
    assert len(calls) == 4  # one to warm up, three at least
    assert callable(bound(session(case_model(TINY), 1), TINY.feeds))


def test_convolutions_that_differ_in_sizes_share_a_kernel() -> None:
    fused, names = kernel_cases.fused_operators(kernel_cases.CASES)
    assert len({one.name for one in fused}) == len(fused) < len(names) == len(kernel_cases.CASES)
    by_name = {one.name: one for one in fused}
    for case, name in zip(kernel_cases.CASES, names, strict=True):
        assert by_name[name].body.nodes == case.nodes
        assert case.shapes in by_name[name].shapes


def test_the_watch_tells_disturbed_passes() -> None:
    watch = Watch(1)
    quiet = watch.look()
    slow = tuple(2 * seconds for seconds in quiet)
    assert watch.undisturbed(quiet)
    assert not watch.undisturbed(slow)
    timed = Timed(watch, [(1.0, slow, quiet), (3.0, quiet, quiet), (2.0, quiet, quiet), (0.5, quiet, slow)])
    assert timed.undisturbed == [2.0, 3.0]
    assert timed.best == 2.0
    assert Timed(watch, [(1.0, slow, slow)]).best == 1.0


def test_a_look_leaves_no_thread_behind_and_holds_for_a_moment() -> None:
    """Threads that spin would disturb what is measured next."""
    threads = Path("/proc/self/task")
    before = len(list(threads.iterdir())) if threads.is_dir() else 0
    watch = Watch(3)
    look = watch.look()
    assert watch.lately() is look
    assert (len(list(threads.iterdir())) if threads.is_dir() else 0) == before
    time.sleep(2 * LATELY)
    assert watch.lately() is not look


def test_what_is_measured_is_closed_before_the_watch_looks() -> None:
    class Opened:
        def __call__(self) -> None:
            pass

    class Looking(Watch):
        def look(self) -> tuple[float, ...]:
            alive.append([one() is not None for one in opened])
            return (1.0, 1.0)

    def open_one() -> Opened:
        one = Opened()
        opened.append(weakref.ref(one))
        return one

    opened: list[weakref.ref[Opened]] = []
    alive: list[list[bool]] = []
    probe = calibrate._Probe("case", open_one, Timed(Looking(1)), seconds=0.0)
    probe.time()
    probe.time()
    assert alive == [[], [False], [False], [False, False]]
    assert len(probe.timed.passes) == 2


def _described(spread: float, disturbed: float = 0.0) -> calibrate.Calibration:
    described: Machine = machine.load()
    return calibrate.Calibration(described, spread, disturbed)


@pytest.mark.parametrize("busy", [(calibrate.BUSY * 2, 0.0), (0.01, calibrate.DISTURBED_SHARE + 0.05)])
def test_a_busy_machine_writes_nothing(
    graphopt: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: tuple[float, float]
) -> None:
    target = tmp_path / "mine.toml"
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, **__: _described(*busy))
    refused = graphopt("calibrate", "-o", target, "--threads", "1")
    assert refused.code == Exit.NEGATIVE
    assert f"busy: with --threads 1, repeated measurements differ by {busy[0]:.0%}" in refused.err
    assert f"{busy[1]:.0%} of the cases" in refused.err
    assert not target.exists()
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, **__: _described(0.001))
    quiet = graphopt("calibrate", "-o", target, "--threads", "1", "--threads", "2")
    assert quiet.code == Exit.DONE
    assert machine.load(target).rates.keys() == machine.load().rates.keys()
    assert (tmp_path / "mine-2-threads.toml").is_file()
    assert graphopt("calibrate", "-o", target, "--from-log", "--threads", "1").code == Exit.USAGE
    assert graphopt("calibrate").code == Exit.USAGE


def test_a_folder_is_refused_before_anything_is_measured(
    graphopt: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(calibrate, "calibrate")
    refused = graphopt("calibrate", "--threads", "1", "-o", tmp_path)
    assert refused.code == Exit.BAD_INPUT
    assert "a folder" in refused.err


@pytest.mark.slow
def test_this_machine_can_be_calibrated() -> None:
    found = calibrate.calibrate("This machine!", threads=1)
    assert found.machine.name == "this-machine"
    assert found.machine.scope == "core"
    speeds = [level.bandwidth.value for level in found.machine.memory]
    assert speeds == sorted(speeds, reverse=True)
    assert {"add", "exp", "gemm", "transpose"} <= found.machine.rates.keys()
    assert found.machine.per_node is not None
    assert 1e-8 < found.machine.per_node.value < 1e-4
    assert machine.parse(tomllib.loads(machine_text(found.machine)), "again.toml").name == "this-machine"
