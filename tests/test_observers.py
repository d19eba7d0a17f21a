"""Observed sessions: the same results, every execution counted once, and a service that never notices."""

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, parser
from onnxruntime import InferenceSession, IOBinding, OrtValue, SessionOptions

import graphopt
from graphopt import corpus, store
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.observers import ObservedSession, counts, recorder, sessions
from tests.command_line import CommandLine
from tests.test_compaction import compact
from tests.test_corpus import mlp
from tests.test_store import put, row

ROOT = Path(__file__).parent.parent
LONG = 3600.0


def options() -> SessionOptions:
    found = SessionOptions()
    found.intra_op_num_threads = 1
    found.log_severity_level = 4
    return found


def session_of(model: ModelProto) -> InferenceSession:
    return InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])


def batch(size: int) -> dict[str, np.ndarray]:
    return {"x": np.full((size, 32), 0.5, np.float32)}


def counted(folder: Path | str) -> dict[str, int]:
    table = store.open(folder).captured.total()
    return dict(zip(table.column("shapes").to_pylist(), table.column("executions").to_pylist(), strict=True))


@pytest.fixture
def all_sessions() -> Iterator[None]:
    """Undoes ``observe_all``."""
    yield
    for name, original in sessions._originals.items():
        setattr(InferenceSession, name, original)
    sessions._originals.clear()
    sessions._everywhere = None


# ------------------------------------------------------------------------------------------------------- sessions


def test_every_way_to_run_gives_the_same_result_and_counts(tmp_path: Path) -> None:
    plain = session_of(mlp())
    observed = graphopt.observe(plain, tmp_path, flush_seconds=LONG)
    assert isinstance(observed, InferenceSession)
    feed = batch(4)
    (expected,) = plain.run(None, feed)
    np.testing.assert_array_equal(observed.run(None, feed)[0], expected)
    np.testing.assert_array_equal(observed.run(["y"], input_feed=feed, run_options=None)[0], expected)
    (value,) = observed.run_with_ort_values(["y"], {"x": OrtValue.ortvalue_from_numpy(feed["x"])})
    np.testing.assert_array_equal(value.numpy(), expected)

    done = threading.Event()
    results: list[Any] = []

    def callback(outputs: Any, data: Any, error: str) -> None:
        results.append((outputs, data, error))
        done.set()

    parallel = SessionOptions()
    parallel.intra_op_num_threads = 2
    threaded = graphopt.observe(
        InferenceSession(mlp().SerializeToString(), parallel, providers=["CPUExecutionProvider"]),
        tmp_path,
        flush_seconds=LONG,
    )
    threaded.run_async(["y"], feed, callback, "mine")
    assert done.wait(30)
    outputs, data, error = results[0]
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-5)
    assert (data, error) == ("mine", "")
    assert threaded.recorder is observed.recorder

    binding = observed.io_binding()
    binding.bind_cpu_input("x", feed["x"])
    binding.bind_output("y")
    observed.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], expected)
    other = batch(2)["x"]
    binding.clear_binding_outputs()
    binding.bind_output("y")
    binding.bind_input("x", "cpu", 0, np.float32, other.shape, other.ctypes.data)
    observed.run_with_iobinding(binding, None)
    binding.clear_binding_inputs()
    binding.clear_binding_outputs()
    binding.bind_output("y")
    binding.bind_ortvalue_input("x", OrtValue.ortvalue_from_numpy(batch(3)["x"]))
    observed.run_with_iobinding(binding)

    observed.recorder.flush()
    assert counted(tmp_path) == {"[[4,32]]": 5, "[[2,32]]": 1, "[[3,32]]": 1}
    assert observed.recorder.dropped == 0
    assert [value.name for value in observed.get_inputs()] == ["x"]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = observed.nonsense


def test_a_session_of_a_class_of_its_own(tmp_path: Path) -> None:
    class Mine(InferenceSession):  # type: ignore[misc]
        calls = 0

        def run(self, *arguments: Any) -> Any:
            self.calls += 1
            return super().run(*arguments)

        def twice(self, feed: dict[str, np.ndarray]) -> list[Any]:
            return [self.run(None, feed), self.run(None, feed)]

    session = Mine(mlp().SerializeToString(), options())
    observed = graphopt.observe(session, tmp_path, flush_seconds=LONG)
    assert isinstance(observed, Mine)
    assert isinstance(observed, ObservedSession)
    observed.twice(batch(1))
    session.run(None, batch(1))
    assert (observed.calls, session.calls) == (3, 3)
    observed.set_providers(["CPUExecutionProvider"])
    observed.run(None, batch(2))
    observed.recorder.flush()
    assert counted(tmp_path) == {"[[1,32]]": 2, "[[2,32]]": 1}
    gone = weakref.ref(session)
    del session, observed
    assert gone() is None


def test_a_binding_of_unknown_shapes_is_dropped_and_counted(tmp_path: Path) -> None:
    plain = session_of(mlp())
    observed = graphopt.observe(plain, tmp_path, flush_seconds=LONG)
    binding = IOBinding(plain)
    binding.bind_cpu_input("x", batch(4)["x"])
    binding.bind_output("y")
    observed.run_with_iobinding(binding)
    observed.recorder.flush()
    assert (counted(tmp_path), observed.recorder.dropped) == ({}, 1)


def test_what_fails_is_not_counted(tmp_path: Path) -> None:
    observed = graphopt.observe(session_of(mlp()), tmp_path, flush_seconds=LONG)
    for feed in ({}, {"x": np.zeros((1, 31), np.float32)}, {"x": np.zeros((1, 32), np.int64)}):
        with pytest.raises(Exception, match="x"):
            observed.run(None, feed)
    errors: list[str] = []
    done = threading.Event()

    def callback(outputs: Any, data: Any, error: str) -> None:
        errors.append(error)
        done.set()

    parallel = SessionOptions()
    parallel.intra_op_num_threads = 2
    parallel.log_severity_level = 4
    threaded = graphopt.observe(InferenceSession(mlp().SerializeToString(), parallel), tmp_path, flush_seconds=LONG)
    threaded.run_async(["y"], {"x": np.zeros((1, 31), np.float32)}, callback, None)
    assert done.wait(30)
    assert errors[0]
    observed.recorder.flush()
    assert (counted(tmp_path), observed.recorder.dropped) == ({}, 0)


def test_asynchronous_runs_hand_their_data_over_and_lose_no_count(tmp_path: Path) -> None:
    """Of many threads at once, each fifth of whose runs fails, while counts are taken."""
    parallel = SessionOptions()
    parallel.intra_op_num_threads = 2
    parallel.log_severity_level = 4
    observed = graphopt.observe(InferenceSession(mlp().SerializeToString(), parallel), tmp_path, flush_seconds=0.05)
    ended: list[tuple[Any, int, str]] = []
    everything = threading.Semaphore(0)

    def callback(outputs: Any, data: Any, error: str) -> None:
        ended.append((data, 0 if error else len(outputs[0]), error))
        everything.release()

    def work(thread: int) -> None:
        for turn in range(50):
            size = 1 + turn % 5
            feed = batch(size) if size < 5 else {"x": np.zeros((5, 31), np.float32)}
            observed.run_async(["y"], feed, callback, (thread, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(200):
        assert everything.acquire(timeout=30)
    assert sorted(data for data, _, _ in ended) == [(thread, turn) for thread in range(4) for turn in range(50)]
    assert all((size or 5) == 1 + data[1] % 5 and bool(error) == (size == 0) for data, size, error in ended)
    observed.recorder.flush()
    assert counted(tmp_path) == {f"[[{size},32]]": 40 for size in range(1, 5)}
    assert observed.recorder.dropped == 0


def test_scalars_lists_text_and_inputs_that_are_left_out(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float s, float[N] v, string[M] t) => (float[N] y, string[M] u) { y = Mul(s, v)  u = Identity(t) }"""
    )
    observed = graphopt.observe(session_of(model), tmp_path, flush_seconds=LONG)
    observed.run(None, {"s": np.array(2, np.float32), "v": [1.0, 2.0], "t": np.array(["a"], object)})
    observed.run(None, {"t": np.array(["a"], object), "v": np.ones(2, np.float32), "s": np.array(2, np.float32)})
    observed.recorder.flush()
    assert counted(tmp_path) == {"[[],[2],[1]]": 2}
    assert counts.shape_of([np.ones(2)]) is None
    assert counts.shape_of({"a": 1}) is None
    assert counts.shape_of([[1, 2, 3]]) == (1, 3)


def test_the_graph_is_stored_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    model = mlp(name="from_bytes")
    file = tmp_path / "from file.onnx"
    onnx.save_model(mlp(operator="Tanh"), file, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "elsewhere").mkdir()
    fleet = tmp_path / "fleet"
    graphopt.observe(session_of(model), fleet, flush_seconds=LONG).run(None, batch(1))
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        observed = graphopt.observe(InferenceSession("from file.onnx", options()), fleet, flush_seconds=LONG)
    finally:
        os.chdir(before)
    observed.run(None, batch(1))
    gc.collect()  # the first session is gone
    observed.recorder.flush()
    names = dict(
        zip(*(store.open(fleet).captured.total().column(c).to_pylist() for c in ("graph", "name")), strict=True)
    )
    assert names == {
        digest(model): "from_bytes",
        digest(mlp(operator="Tanh")): "from file",
    }
    for found in names:
        assert not any(
            tensor.raw_data and len(tensor.raw_data) > 1024
            for tensor in store.open(fleet).graph(found).graph.initializer
        )
    loaded = corpus.load(fleet, view="raw")
    assert (len(loaded.captures), loaded.problems) == (2, ())


def test_redacted(tmp_path: Path) -> None:
    observed = graphopt.observe(session_of(mlp("secret")), tmp_path, sample=LONG, flush_seconds=LONG, redact=True)
    observed.run(None, batch(1))
    observed.recorder.flush()
    observed.recorder._sample()
    assert store.open(tmp_path).graphs() == [digest(mlp())]
    for path in tmp_path.rglob("*.*"):
        assert b"secret" not in path.read_bytes()
    (profile,) = (tmp_path / "profiles").iterdir()
    assert set(pq.read_table(profile).column("name").to_pylist()) == {""}


# ------------------------------------------------------------------------------------------------------- counting


def test_threads_lose_no_count(tmp_path: Path) -> None:
    observed = graphopt.observe(session_of(mlp()), tmp_path, flush_seconds=LONG)
    sent: Counter[str] = Counter()
    guard = threading.Lock()
    stop = threading.Event()

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        own: Counter[str] = Counter()
        while not stop.is_set():
            size = int(generator.integers(1, 4))
            observed.run(None, batch(size))
            own[f"[[{size},32]]"] += 1
        with guard:
            sent.update(own)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        observed.recorder.flush()
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    observed.recorder.flush()
    assert counted(tmp_path) == dict(sent)
    assert len(list((tmp_path / "captures").iterdir())) > 3


def test_too_many_shapes_flush_early_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []
    table = counts.Counts({"x": ["N"]}, woken.append)
    monkeypatch.setattr(counts, "MOST_SHAPES", 10)
    counters = [table.counter({"x": np.empty((size,))}) for size in range(15)]
    for counter in [*counters, table.counter({"x": np.empty((3,))})]:
        next(counter)
    assert woken == list(range(1, 11))
    taken, dropped = table.take()
    assert taken == {((size,),): 1 + (size == 3) for size in range(10)}
    assert dropped == 5
    # A run that was under way is counted, though its shapes made room for others.
    next(counters[0])
    next(table.counter({"x": np.empty((99,))}))
    assert table.take() == ({((0,),): 1, ((99,),): 1}, 0)
    assert table.take() == ({}, 0)


KINDS = st.one_of(
    st.lists(st.sampled_from([2, "N", "M"]), max_size=3),
    st.sampled_from(["any", "optional", "sequence", ["N"], ["N", 2]]),
)


@st.composite
def inputs_and_feeds(draw: st.DrawFn) -> tuple[list[list[int | str] | str], list[list[str]]]:
    """Declared inputs, and feeds: most fit, others do not; sizes are few, so that feeds are alike."""
    kinds = draw(st.lists(KINDS, min_size=1, max_size=3) | st.lists(st.just(["N", 2]), min_size=1, max_size=3))
    feeds = []
    for _ in range(draw(st.integers(2, 8))):
        same = draw(st.integers(2, 3))
        feed: list[str] = []
        for kind in kinds:
            sizes = kind if isinstance(kind, list) else [2] if kind != "any" else ["N"] * draw(st.integers(0, 2))
            shape = [size if isinstance(size, int) else draw(st.just(same) | st.integers(2, 3)) for size in sizes]
            if draw(st.integers(0, 9)) == 9:
                shape = draw(st.lists(st.integers(2, 3), max_size=3))
            how = draw(st.sampled_from(["array"] * 6 + ["list", "OrtValue"]))
            feed.append(("nothing" if kind == "optional" and draw(st.booleans()) else how) + str(shape))
        feeds.append(feed)
    return kinds, feeds


@settings(max_examples=100, deadline=None)
@given(inputs_and_feeds())
def test_counts_are_those_of_the_runs_that_onnxruntime_took(
    drawn: tuple[list[list[int | str] | str], list[list[str]]],
) -> None:
    kinds, feeds = drawn
    values, nodes, outputs = [], [], []
    for at, kind in enumerate(kinds):
        if isinstance(kind, list) or kind == "any":
            values.append(helper.make_tensor_value_info(f"x{at}", TensorProto.FLOAT, None if kind == "any" else kind))
            nodes.append(helper.make_node("Shape", [f"x{at}"], [f"y{at}"]))
        else:
            tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
            optional = kind == "optional"
            make = helper.make_optional_type_proto if optional else helper.make_sequence_type_proto
            values.append(helper.make_value_info(f"x{at}", make(tensor)))
            operator = "OptionalHasElement" if optional else "SequenceLength"
            nodes.append(helper.make_node(operator, [f"x{at}"], [f"y{at}"]))
        outputs.append(helper.make_tensor_value_info(f"y{at}", 9 if kind == "optional" else TensorProto.INT64, None))
    graph = helper.make_graph(nodes, "g", values, outputs)
    session = session_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    table = counts.Counts({value.name: recorder._declared(value) for value in session.get_inputs()}, lambda new: None)
    expected: Counter[counts.Shapes] = Counter()
    for feed in feeds:
        named: dict[str, Any] = {}
        shapes: list[tuple[int, ...] | None] = []
        for at, (kind, text) in enumerate(zip(kinds, feed, strict=True)):
            how, _, sizes = text.partition("[")
            shape = tuple(json.loads(f"[{sizes}"))
            array = np.ones(shape, np.float32)
            shapes.append(None if how == "nothing" or kind == "sequence" else shape)
            if how != "nothing":
                value = OrtValue.ortvalue_from_numpy(array) if how == "OrtValue" else array
                value = array.tolist() if how == "list" else value
                named[f"x{at}"] = [array] if kind == "sequence" else value
        counter = table.counter(named)
        try:
            session.run(None, named)
        except Exception:  # whatever onnxruntime does not take
            continue
        next(counter)
        expected[tuple(shapes)] += 1
    assert table.take() == (dict(expected), 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8))
def test_every_step_is_taken_once(steps: list[int]) -> None:
    counter = counts._Counter()
    for number in steps:
        for _ in range(number):
            next(counter.steps)
        assert counter.take() == number
    assert counter.take() == 0


def test_a_batch_is_looked_up_by_one_length() -> None:
    """Inputs that share a symbol: their lengths are one, or, as onnxruntime does not check that, they are not."""
    table = counts.Counts({"a": ["N"], "b": ["N", 4]}, lambda new: None)
    for a, b in ((2, 2), (2, 3), (3, 2), (3, 3), (2, 2)):
        next(table.counter({"b": np.empty((b, 4)), "a": np.empty(a)}))
    one, many = table._quick[2], table._quick[2, 3]
    assert table.counter({"a": np.empty(2), "b": np.empty((2, 4))}) is one
    assert table.counter({"a": np.empty(2), "b": np.empty((3, 4))}) is many
    assert table.take() == ({((2,), (2, 4)): 2, ((2,), (3, 4)): 1, ((3,), (2, 4)): 1, ((3,), (3, 4)): 1}, 0)


def test_fixed_sizes_are_not_looked_at() -> None:
    class Unseen:
        @property
        def shape(self) -> tuple[int, ...]:
            raise AssertionError

    table = counts.Counts({"a": [2, 3], "b": ["N", "M"]}, lambda new: None)
    next(table.counter({"a": np.empty((9, 9)), "b": np.empty((5, 5))}))  # onnxruntime would reject it, and not count
    next(table.counter({"a": np.empty((2, 3)), "b": np.empty((5, 5))}))
    next(table.counter({"a": Unseen(), "b": np.empty((5, 5))}))
    assert table.take() == ({((9, 9), (5, 5)): 1, ((2, 3), (5, 5)): 2}, 0)


def test_flushes_come_by_themselves(tmp_path: Path) -> None:
    observed = graphopt.observe(session_of(mlp()), tmp_path, flush_seconds=0.05)
    sent = 0
    deadline = time.monotonic() + 30
    while len(store.open(tmp_path).captured.names()) < 2 and time.monotonic() < deadline:
        observed.run(None, batch(1))
        sent += 1
        time.sleep(0.005)
    found = counted(tmp_path)["[[1,32]]"]
    assert 0 < found <= sent


@pytest.mark.parametrize("how", ["fork", "multiprocessing", "exit"])
def test_processes_count_for_themselves_and_flush_at_their_end(tmp_path: Path, how: str) -> None:
    script = f"""
import multiprocessing, os, sys
import numpy as np
import graphopt, onnxruntime
from tests.test_observers import batch, mlp, session_of
observed = graphopt.observe(session_of(mlp()), {str(tmp_path)!r}, flush_seconds=3600)
def work():
    for _ in range(5):
        observed.run(None, batch(2))
for _ in range(3):
    observed.run(None, batch(1))
if {how!r} == "fork":
    child = os.fork()
    if child == 0:
        work()
        observed.recorder.finish()
        os._exit(0)  # static objects of onnxruntime can hang in a forked child that exits the long way
    os.waitpid(child, 0)
elif {how!r} == "multiprocessing":
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    expected = {"[[1,32]]": 3} if how == "exit" else {"[[1,32]]": 3, "[[2,32]]": 5}
    assert counted(tmp_path) == expected


# ------------------------------------------------------------------------------------------------------- failing


def test_a_corpus_that_fails_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "full").write_text("a file, where the corpus should be a folder")
    observed = graphopt.observe(session_of(mlp()), tmp_path / "full", flush_seconds=LONG)
    logging.getLogger("graphopt").propagate = True
    with caplog.at_level(logging.WARNING, "graphopt.observers"):
        for _ in range(3):
            observed.run(None, batch(1))
            observed.recorder.flush()
    assert len({id(record) for record in caplog.records}) == 1  # handlers of two loggers may see it
    assert "full" in caplog.text
    # and goes on once the corpus works
    (tmp_path / "full").unlink()
    observed.run(None, batch(1))
    observed.recorder.flush()
    assert (counted(tmp_path / "full"), observed.recorder.dropped) == ({"[[1,32]]": 4}, 0)


@pytest.mark.parametrize("compactions", range(4))
def test_a_write_that_failed_and_did_not_counts_once(tmp_path: Path, compactions: int) -> None:
    """A file appears, its writer is told that it failed, and writes it again, after compactions replaced it."""
    observed = graphopt.observe(session_of(mlp()), tmp_path, flush_seconds=LONG)
    fleet = store.open(tmp_path)
    observed.run(None, batch(1))
    observed.recorder.flush()
    write = store.Rows.write

    def fail(rows: store.Rows, name: str, content: bytes) -> None:
        write(rows, name, content)
        raise GraphoptError("the answer was lost")

    observed.run(None, batch(1))
    with mock.patch.object(store.Rows, "write", fail):
        observed.recorder.flush()
    assert counted(tmp_path) == {"[[1,32]]": 2}
    for _ in range(compactions):
        compact(fleet)
        put(fleet, row("0" * 64, ((1,),), 1))
    observed.run(None, batch(1))
    observed.recorder.flush()
    assert counted(tmp_path)["[[1,32]]"] == 3
    compact(fleet)
    assert counted(tmp_path)["[[1,32]]"] == 3
    assert observed.recorder.dropped == 0


@pytest.mark.parametrize("limit", ["rows", "time", "end"])
def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    observed = graphopt.observe(session_of(mlp()), tmp_path, flush_seconds=LONG)
    observed.run(None, batch(1))
    observed.recorder.flush()
    monkeypatch.setattr(store.Rows, "write", mock.Mock(side_effect=GraphoptError("no")))
    for size in (2, 2, 3, 4):
        observed.run(None, batch(size))
    observed.recorder.flush()  # three rows of four executions
    assert observed.recorder.dropped == 0
    observed.run(None, batch(2))
    if limit == "rows":
        monkeypatch.setattr(recorder, "MOST_UNWRITTEN", 3)
        observed.recorder.flush()
    elif limit == "time":
        monkeypatch.setattr(store, "age", lambda name: store.LATE)
        observed.recorder.flush()
    else:
        observed.recorder.finish()
    assert observed.recorder.dropped == (4 if limit == "rows" else 5)
    monkeypatch.undo()
    observed.recorder.flush()
    assert counted(tmp_path) == {"[[1,32]]": 1, **({"[[2,32]]": 1} if limit == "rows" else {})}


def test_a_model_that_cannot_be_stored_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(mlp().SerializeToString())
    observed = graphopt.observe(InferenceSession(file, options()), tmp_path / "fleet", flush_seconds=LONG)
    file.unlink()
    observed.run(None, batch(1))
    observed.recorder.flush()
    assert (counted(tmp_path / "fleet"), observed.recorder.dropped) == ({}, 1)


def test_wrong_arguments_are_said_at_once(tmp_path: Path) -> None:
    session = session_of(mlp())
    with pytest.raises(GraphoptError, match="cannot be opened"):
        graphopt.observe(session, "nonsense://there")
    with pytest.raises(GraphoptError, match="above 0"):
        graphopt.observe(session, tmp_path, flush_seconds=0)


# ---------------------------------------------------------------------------------------------------------- all


@pytest.mark.usefixtures("all_sessions")
def test_observe_all(tmp_path: Path) -> None:
    before = session_of(mlp())
    recorder = graphopt.observe_all(tmp_path, flush_seconds=LONG)

    class Mine(InferenceSession):  # type: ignore[misc]
        pass

    session = Mine(mlp().SerializeToString(), options())
    (expected,) = before.run(None, batch(4))
    np.testing.assert_array_equal(session.run(None, batch(4))[0], expected)
    binding = session.io_binding()
    binding.bind_cpu_input("x", batch(2)["x"])
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    recorder.flush()
    assert counted(tmp_path) == {"[[4,32]]": 1, "[[2,32]]": 1}
    # observed once only, by whoever came last
    again = graphopt.observe(session, tmp_path / "other", flush_seconds=LONG)
    again.run(None, batch(4))
    again.recorder.flush()
    recorder.flush()
    assert (counted(tmp_path / "other"), counted(tmp_path)["[[4,32]]"]) == ({"[[4,32]]": 1}, 1)


def test_a_program_needs_no_change(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        "import sys\nfrom onnxruntime import InferenceSession\nimport numpy as np\n"
        "assert __name__ == '__main__'\n"
        "session = InferenceSession(sys.argv[1])\n"
        "session.run(None, {'x': np.ones((int(sys.argv[2]), 32), np.float32)})\n"
        "print('ran', sys.argv[2:])\nsys.exit(5)\n"
    )
    (tmp_path / "m.onnx").write_bytes(mlp().SerializeToString())
    words = [sys.executable, "-m", "graphopt.observe", "--corpus", tmp_path / "fleet", program, tmp_path / "m.onnx"]
    done = subprocess.run(
        [*map(str, words), "7", "--corpus", "theirs"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (5, "ran ['7', '--corpus', 'theirs']\n"), done.stderr
    assert counted(tmp_path / "fleet") == {"[[7,32]]": 1}


@pytest.mark.parametrize("words", [["nothing.py"], ["--corpus", "nonsense://x", "nothing.py"]])
def test_a_program_that_cannot_be_observed(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphopt.observe", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("graphopt: error: ")
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- sampling


def test_operator_times_are_sampled(tmp_path: Path) -> None:
    model = mlp()
    for node in model.graph.node:
        node.name = f"my {node.op_type}"
    level = options()
    level.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(model.SerializeToString(), level)
    observed = graphopt.observe(session, tmp_path, sample=0.05, flush_seconds=0.05)
    deadline = time.monotonic() + 60
    while (
        not (found := store.open(tmp_path).folder.names(store.PROFILES.folder, ".parquet"))
        and time.monotonic() < deadline
    ):
        observed.run(None, batch(8))
        time.sleep(0.01)
    table = pq.read_table(tmp_path / "profiles" / found[0])
    assert table.schema.metadata[b"schema_version"] == b"1"
    stored = store.open(tmp_path).graph(digest(model)).graph.node
    rows = table.to_pylist()
    assert [stored[row["node"]].name for row in rows] == ["my MatMul", "my Relu", "my Add"]
    assert [row["operator"] for row in rows] == ["MatMul", "Relu", "Add"]
    assert {row["shapes"] for row in rows} == {"[[8,32]]"}
    assert all(0 < row["seconds"] < 10 and row["samples"] >= 1 for row in rows)


def test_what_cannot_be_sampled_is_left_alone(tmp_path: Path) -> None:
    """Rows that a table does not have: made-up indices fail, and the service is not told."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] i, float[M] t) => (float[N] y) { y = Gather(t, i) }"""
    )
    observed = graphopt.observe(session_of(model), tmp_path, sample=1, flush_seconds=LONG)
    observed.run(None, {"i": np.zeros(64, np.int64), "t": np.zeros(1, np.float32)})
    observed.recorder.flush()
    observed.recorder._sample()
    assert store.open(tmp_path).sampled.names() == []


# ------------------------------------------------------------------------------------------------------- memory


def test_a_model_over_two_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    """Its graph is stored by a process whose memory is counted; the weights are a file with nothing in it."""
    size, layers = 2**28, 3  # float32: 3 GB
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }"""
    )
    for layer in range(layers):
        tensor = TensorProto(
            name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[size], data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", "w"), ("offset", 4 * size * layer), ("length", 4 * size)):
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
        model.graph.node.append(helper.make_node("Sqrt", [f"w{layer}"], [f"v{layer}"]))
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    with (tmp_path / "w").open("wb") as file:
        file.truncate(4 * size * layers)
    script = f"""
from pathlib import Path
from graphopt.observers.recorder import Recorder
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
class Session:
    _model_path = {str(tmp_path / "large.onnx")!r}
    def get_inputs(self): return []
session = Session()
recorder = Recorder({str(tmp_path / "fleet")!r}, None, 3600.0, False)
recorder.add(session)
before = peak()
recorder.flush()
print(before, peak())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert after < 500 * 1024, done.stdout
    assert after - before < 100 * 1024
    assert len(store.open(tmp_path / "fleet").graphs()) == 1


# ------------------------------------------------------------------------------------------------------- the fleet


def test_what_was_observed_is_mined(tmp_path: Path, graphopt: CommandLine, sample_graphs: Path) -> None:
    file = sample_graphs / "mobilenet_v3_large.onnx"
    from graphopt.observers import observe
    from graphopt.weights import fill_weights

    session = session_of(fill_weights(onnx.load(file)))
    observed = observe(session, tmp_path, flush_seconds=LONG)
    value = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    for _ in range(3):
        observed.run(None, {value.name: np.zeros(shape, np.float32)})
    observed.recorder.flush()
    outcome = graphopt("mine", tmp_path, "--view", "raw", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["graphs"], found["executions"]) == (1, 3)
    assert found["opportunities"]
