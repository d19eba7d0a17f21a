"""The thread behind observed sessions: stores their graphs, and every so often what was counted."""

import logging
import os
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import util
from pathlib import Path
from typing import Any

import onnxruntime
from onnx import ModelProto

from graphopt import model_files, store
from graphopt.observers.counts import MOST_SHAPES, Counts, Declared, Shapes
from graphopt.observers.sampling import sample
from graphopt.redaction import redact
from graphopt.weights import drop_weights, load_without_weights

LOGGER = logging.getLogger("graphopt.observers")

EXIT_SECONDS = 30.0
"""How long the end of a process waits for the last flush."""

MOST_UNWRITTEN = 20_000
"""Rows that wait for a corpus that fails."""

FORK_SECONDS = 5.0
"""How long a fork waits for a write that is under way."""


@dataclass(eq=False)
class Observed:
    """A session that is observed.

    Attributes:
        session: it, as long as it lives.
        counts: its executions.
        model: the file or the content that it was made from; None when its graph is stored already, or never can be.
        name: what the corpus calls the model.
        graph: digest of the stored graph; empty until it is stored.
        since: when counting began, or when counts were last taken.
    """

    session: "weakref.ref[Any]"
    counts: Counts
    model: Path | bytes | None
    name: str
    graph: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


class _Unusable(Exception):
    """A model whose graph can never be stored."""


class Recorder:
    """Writes what the sessions of this process execute to a corpus. It never raises into the service.

    Attributes:
        corpus: URL or folder.
        sample: seconds between samples of operator times; None for none.
        flush_seconds: between two flushes.
        redacted: store no names (``redaction.redact``).
        dropped: executions that never reach the corpus, because it failed for long or they could not be counted.
    """

    def __init__(self, corpus: str, sample: float | None, flush_seconds: float, redacted: bool) -> None:
        """Prepare to write to a corpus; the thread starts with the first execution."""
        self.corpus = corpus
        self.sample = sample
        self.flush_seconds = flush_seconds
        self.redacted = redacted
        self._observed: list[Observed] = []
        self._digests: dict[object, tuple[str, str]] = {}
        self._recent: dict[tuple[str, Shapes], tuple[int, Observed]] = {}
        self._warned = False
        self._held = False
        self._fresh()

    def _fresh(self) -> None:
        """Locks and no thread, and nothing to write: at the start, and in a forked child."""
        self.dropped = 0
        self._unwritten: list[tuple[str, list[store.Capture]]] = []
        self._ends: float | None = None
        self._guard = threading.RLock()  # of the list of sessions and of the thread
        self._writing = threading.RLock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, session: Any) -> Counts:
        """Observe a session from now on; returns where its executions are counted."""
        path, content = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
        model: Path | bytes | None = Path(os.fsdecode(path)).absolute() if path else content
        name = model.stem if isinstance(model, Path) else ""
        counts = Counts({value.name: _declared(value) for value in session.get_inputs()}, self._on_new)
        with self._guard:
            self._observed.append(Observed(weakref.ref(session), counts, model, name))
        return counts

    def works_here(self) -> bool:
        """Whether this is the recorder's own thread, whose sessions are not the service's."""
        return threading.current_thread() is self._thread

    def _on_new(self, different: int) -> None:
        """Shapes came up that are new."""
        if self._thread is None:
            self._start()
        if different in (1, MOST_SHAPES // 2):
            self._wake.set()

    def _start(self) -> None:
        with self._guard:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="graphopt-observer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is about to end, or there are too many threads
                return
            self._thread = thread
        # Runs at the end of this process, also of one that multiprocessing started, where atexit would not.
        util.Finalize(None, self.finish, exitpriority=0)
        # Clients of object storage work in thread pools, which are closed before that.
        with suppress(AttributeError, RuntimeError):  # not in every Python; not when it ends already
            threading._register_atexit(self._flush_in_time)  # type: ignore[attr-defined]

    def _work(self) -> None:
        due = time.monotonic() + self.flush_seconds
        sampled = time.monotonic()
        while not self._stop.is_set():
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            with self._writing:
                self._store_graphs()
            if self._stop.is_set() or time.monotonic() >= due or self._crowded():
                self.flush()
                due = time.monotonic() + self.flush_seconds
            if self.sample is not None and not self._stop.is_set() and time.monotonic() >= sampled + self.sample:
                with self._writing:
                    self._sample()
                sampled = time.monotonic()

    def _crowded(self) -> bool:
        return any(one.counts.different() >= MOST_SHAPES // 2 for one in self._sessions())

    def _sessions(self) -> list[Observed]:
        with self._guard:
            return list(self._observed)

    def flush(self) -> None:
        """Write what was counted until now, and what could not be written before."""
        with self._writing:
            self._store_graphs()
            if rows := self._counted():
                self._unwritten.append((store.file_name(), rows))
            self._write()

    def _counted(self) -> list[store.Capture]:
        """What was counted since the last call."""
        now = datetime.now(UTC)
        rows: list[store.Capture] = []
        for one in self._sessions():
            gone = one.session() is None  # before its counts are taken
            if one.model is not None and not gone and not self._stop.is_set():
                continue  # the corpus may take its graph another time
            counted, dropped = one.counts.take()
            self.dropped += dropped
            since, one.since = one.since, now
            if gone:
                with self._guard:
                    self._observed.remove(one)
            if not one.graph:
                self.dropped += sum(counted.values())
                continue
            for shapes, executions in counted.items():
                rows.append(store.Capture(one.graph, one.name, shapes, executions, since, now, onnxruntime.__version__))
                if self.sample is not None:
                    self._remember(one, shapes, executions)
        return rows

    def _write(self) -> None:
        """Write files, the oldest first. After a failure, nobody knows whether one is there: its name stays."""
        try:
            while self._unwritten:
                name, rows = self._unwritten[0]
                store.open(self.corpus).captured.append(store.CAPTURES.table(rows), name)
                del self._unwritten[0]
        except Exception as error:  # a service does not fail because its corpus does
            self._warn(str(error))
        while self._unwritten and (
            self._stop.is_set()
            or sum(len(rows) for _, rows in self._unwritten) > MOST_UNWRITTEN
            or store.age(self._unwritten[0][0]) > store.LATE / 2
        ):
            self.dropped += sum(row.executions for row in self._unwritten.pop(0)[1])

    def _store_graphs(self) -> None:
        for one in self._sessions():
            if one.model is None:
                continue
            try:
                one.graph, one.name = self._stored(one.model, one.name)
            except _Unusable as error:
                self._warn(f"executions of {one.name or 'a model in memory'} are dropped: {error}")
            except Exception as error:  # as for flush; the corpus may work again at the next one
                self._warn(str(error))
                continue
            one.model = None

    def _stored(self, model: Path | bytes, name: str) -> tuple[str, str]:
        """Digest and name of a model that is in the corpus now."""
        try:
            state = model.stat() if isinstance(model, Path) else None
            key = (model, state.st_mtime_ns, state.st_size) if state else hash(model)
            if key in self._digests:
                return self._digests[key]
            light = _light(model)
            name = "model" if self.redacted else name or light.graph.name or "model"
            light = redact(light) if self.redacted else light
        except Exception as error:  # a model that onnxruntime takes and that is new to us
            raise _Unusable(str(error)) from error
        self._digests[key] = store.open(self.corpus).put_graph(light), name
        return self._digests[key]

    def _remember(self, one: Observed, shapes: Shapes, executions: int) -> None:
        """Keep in mind what ran, so that the most frequent is sampled."""
        before = self._recent.get((one.graph, shapes), (0, one))[0]
        self._recent[one.graph, shapes] = (before + executions, one)

    def _sample(self) -> None:
        """Sample what ran most often since the last sample."""
        recent, self._recent = self._recent, {}
        for (graph, shapes), (_, one) in sorted(recent.items(), key=lambda item: (-item[1][0], str(item[0]))):
            session = one.session()
            if session is None or session.get_providers()[:1] != ["CPUExecutionProvider"]:
                continue
            path = session._model_path
            model: Path | bytes = Path(os.fsdecode(path)) if path else session._model_bytes
            level = session.get_session_options().graph_optimization_level
            start = datetime.now(UTC)
            try:
                times = sample(model, _light(model), shapes, level)
                rows = store.PROFILES.table(
                    store.OperatorTime(
                        graph,
                        shapes,
                        time.node,
                        "" if self.redacted else time.name,
                        time.operator,
                        time.seconds,
                        time.samples,
                        start,
                        onnxruntime.__version__,
                    )
                    for time in times
                )
                store.open(self.corpus).sampled.append(rows)
            except Exception as error:  # not every model runs with made-up inputs
                LOGGER.info("%s: %s", one.name, error)
                continue
            return

    def _flush_in_time(self) -> None:
        with suppress(RuntimeError):  # no more threads can start
            flushing = threading.Thread(target=self.flush, daemon=True)
            flushing.start()
            flushing.join(self._time_left())

    def _time_left(self) -> float:
        """Seconds until the process ends, however many flushes it waits for."""
        if self._ends is None:
            self._ends = time.monotonic() + EXIT_SECONDS
        return max(0.0, self._ends - time.monotonic())

    def finish(self) -> None:
        """Flush, at the end of the process, for no longer than ``EXIT_SECONDS``; what cannot be written is dropped."""
        with self._guard:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None:
            self._wake.set()
            thread.join(self._time_left())

    def before_fork(self) -> None:
        """Wait until nothing is being written, so that no library's lock is held when the process is copied."""
        self._held = self._writing.acquire(timeout=FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Go on writing."""
        if self._held:
            self._writing.release()

    def after_fork(self) -> None:
        """In a child process: start anew with the same sessions."""
        self._fresh()
        for one in self._observed:
            one.counts.after_fork()
            one.since = datetime.now(UTC)

    def _warn(self, cause: str) -> None:
        if not self._warned:
            self._warned = True
            LOGGER.warning("%s: captures wait or are dropped, and this is said once: %s", self.corpus, cause)


def _declared(value: Any) -> Declared:
    """What onnxruntime checks of an input's shape."""
    if not value.type.startswith("tensor"):
        return None  # a sequence, a map, or an input that may be left out
    # A scalar and any rank look the same: no dimensions.
    return value.shape or None


def _light(model: Path | bytes) -> ModelProto:
    if isinstance(model, Path):
        return load_without_weights(model)
    return drop_weights(model_files.from_bytes(model, "a model in memory"))
