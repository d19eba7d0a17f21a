"""Sessions that count: a wrapper around one, or the methods of all."""

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession

from graphopt import store
from graphopt.errors import GraphoptError
from graphopt.observers.bindings import RecordingBinding
from graphopt.observers.counts import Counts, Steps
from graphopt.observers.recorder import LOGGER, Recorder

CORPUS_VARIABLE = "GRAPHOPT_CORPUS"
"""Environment variable: the corpus that is written where none is named."""

FLUSH_SECONDS = 60.0
"""Between two flushes, where nothing else is said."""

_COUNTS = "_graphopt_counts"
"""Attribute of a session that is observed: its ``Counts``."""

Method = Callable[..., Any]

_guard = threading.Lock()
_recorders: dict[object, Recorder] = {}
_originals: dict[str, Method] = {}
_everywhere: Recorder | None = None
"""Who records the sessions that are created from now on."""


def observe(
    session: InferenceSession,
    corpus: str | Path | None = None,
    *,
    sample: float | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    redact: bool = False,
) -> "ObservedSession":
    """Record what a session executes: its graph without weights, input shapes, and how often each of them ran.

    Args:
        session: an onnxruntime session.
        corpus: folder or URL (``s3://bucket/fleet``) to write to; ``$GRAPHOPT_CORPUS`` or
            ``~/.local/state/graphopt/corpus`` when not given.
        sample: seconds between samples of operator times, each a few runs with made-up inputs, in a session apart;
            None for none.
        flush_seconds: between two flushes; what was counted since the last one is lost when the process is killed.
        redact: store no names.

    Returns:
        The session, with the same methods and results. A corpus that fails never makes it fail: one warning is
        logged, and executions are dropped and counted (``recorder.dropped``).

    Raises:
        GraphoptError: fsspec or pyarrow is not installed, the URL is none, or a number of seconds is not positive.
    """
    if isinstance(session, ObservedSession):
        session = session._graphopt_session
    return ObservedSession(session, _recorder(corpus, sample, flush_seconds, redact))


def observe_all(
    corpus: str | Path | None = None,
    *,
    sample: float | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    redact: bool = False,
) -> Recorder:
    """Record what every session executes that this process creates from now on; arguments are those of ``observe``.

    Methods of onnxruntime's classes are replaced, so that it does not matter how a program imports them.

    Returns:
        What records them.

    Raises:
        GraphoptError: as for ``observe``.
    """
    global _everywhere
    _everywhere = _recorder(corpus, sample, flush_seconds, redact)
    with _guard:
        if not _originals:
            for name, counted in {**_COUNTED, "__init__": _init}.items():
                _originals[name] = getattr(InferenceSession, name)
                setattr(InferenceSession, name, counted(_originals[name]))
    return _everywhere


def _recorder(corpus: str | Path | None, sample: float | None, flush_seconds: float, redact: bool) -> Recorder:
    if not flush_seconds > 0 or (sample is not None and not sample > 0):
        raise GraphoptError("seconds between flushes or samples must be above 0")
    place = str(corpus or os.environ.get(CORPUS_VARIABLE) or _default_corpus())
    store.open(place)  # says what is missing while somebody looks
    key = (place, sample, flush_seconds, redact)
    with _guard:
        if key not in _recorders:
            _recorders[key] = Recorder(place, sample, flush_seconds, redact)
        return _recorders[key]


def _default_corpus() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "graphopt" / "corpus"


def _before_fork() -> None:
    for recorder in _recorders.values():
        recorder.before_fork()


def _after_fork_in_parent() -> None:
    for recorder in _recorders.values():
        recorder.after_fork_in_parent()


def _after_fork() -> None:
    global _guard
    _guard = threading.Lock()
    for recorder in _recorders.values():
        recorder.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)


# ----------------------------------------------------------------------------------------------- methods that count


def _init(original: Method) -> Method:
    """A constructor whose session is observed by ``observe_all``."""

    @functools.wraps(original)
    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        recorder = _everywhere
        if recorder is not None and not recorder.works_here():
            try:
                setattr(self, _COUNTS, recorder.add(self))
            except Exception as error:  # the session works, and that is what counts
                LOGGER.info("a session cannot be observed: %s", error)

    return __init__


def _run(original: Method) -> Method:
    @functools.wraps(original)
    def run(self: Any, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        counts = getattr(self, _COUNTS, None)
        if counts is None:
            return original(self, output_names, input_feed, run_options)
        counter = counts.counter(input_feed)
        result = original(self, output_names, input_feed, run_options)
        next(counter)
        return result

    return run


def _counted(results: Any, sent: tuple[Steps, Method, Any], error: str) -> None:
    """The callback of every ``run_async``: counts, then calls the service's.

    What it needs travels as the run's own data: another thread's core has one tuple to fetch, no function made anew.
    """
    counter, callback, data = sent
    if not error:
        next(counter)
    callback(results, data, error)


def _run_async(original: Method) -> Method:
    @functools.wraps(original)
    def run_async(
        self: Any, output_names: Any, input_feed: Any, callback: Any, user_data: Any, run_options: Any = None
    ) -> Any:
        counts = getattr(self, _COUNTS, None)
        if counts is None:
            return original(self, output_names, input_feed, callback, user_data, run_options)
        sent = (counts.counter(input_feed), callback, user_data)
        return original(self, output_names, input_feed, _counted, sent, run_options)

    return run_async


def _run_with_iobinding(original: Method) -> Method:
    @functools.wraps(original)
    def run_with_iobinding(self: Any, iobinding: Any, run_options: Any = None) -> None:
        counts = getattr(self, _COUNTS, None)
        if counts is None:
            original(self, iobinding, run_options)
            return
        counter = _bound(iobinding, counts)
        original(self, iobinding, run_options)
        next(counter)

    return run_with_iobinding


def _run_with_ortvaluevector(original: Method) -> Method:
    @functools.wraps(original)
    def run_with_ortvaluevector(
        self: Any, run_options: Any, feed_names: Sequence[str], feeds: Sequence[Any], *rest: Any, **named: Any
    ) -> None:
        counts = getattr(self, _COUNTS, None)
        if counts is None:
            original(self, run_options, feed_names, feeds, *rest, **named)
            return
        counter = counts.counter(dict(zip(feed_names, feeds, strict=False)))
        original(self, run_options, feed_names, feeds, *rest, **named)
        next(counter)

    return run_with_ortvaluevector


def _io_binding(original: Method) -> Method:
    @functools.wraps(original)
    def io_binding(self: Any) -> Any:
        return RecordingBinding(self) if getattr(self, _COUNTS, None) is not None else original(self)

    return io_binding


_COUNTED: Mapping[str, Callable[[Method], Method]] = {
    "run": _run,
    "run_with_ort_values": _run,
    "run_async": _run_async,
    "run_with_iobinding": _run_with_iobinding,
    "run_with_ortvaluevector": _run_with_ortvaluevector,
    "io_binding": _io_binding,
}
"""Methods of a session that run it, or prepare to, and what makes them count."""


def _forwarded(name: str) -> Method:
    original = getattr(InferenceSession, name)

    @functools.wraps(original)
    def forward(self: "ObservedSession", *arguments: Any) -> Any:
        return getattr(self._graphopt_session, name)(*arguments)

    return forward


def _bound(iobinding: Any, counts: Counts) -> Steps:
    """What to move on when a binding has run."""
    return iobinding.counter(counts) if isinstance(iobinding, RecordingBinding) else counts.counter_of(None)


class ObservedSession(InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """An onnxruntime session whose executions are recorded.

    It is of the session's class, too, and shares its state: whatever is not about counting is the session's.

    Attributes:
        recorder: what writes to the corpus; ``recorder.flush()`` writes now, ``recorder.dropped`` counts losses.
    """

    # Not in the dictionary, which is the session's, and quick to reach.
    __slots__ = (
        _COUNTS,
        "_graphopt_counter",
        "_graphopt_run",
        "_graphopt_run_async",
        "_graphopt_run_with_iobinding",
        "_graphopt_session",
        "recorder",
    )

    def __new__(cls, session: InferenceSession, recorder: Recorder) -> "ObservedSession":
        """Of the class of the session."""
        kind = type(session)
        if not issubclass(cls, kind):
            cls = type(f"Observed{kind.__name__}", (cls, kind), {"__slots__": ()})
        return object.__new__(cls)

    def __init__(self, session: InferenceSession, recorder: Recorder) -> None:
        """Observe a session."""
        session.__dict__.pop(_COUNTS, None)  # whoever observes it last records it, once
        self.__dict__ = session.__dict__
        self.recorder = recorder
        self._graphopt_session = session
        self._graphopt_counts = recorder.add(session)
        self._graphopt_counter = self._graphopt_counts.counter
        self._graphopt_run = session.run
        self._graphopt_run_async = session.run_async
        self._graphopt_run_with_iobinding = session.run_with_iobinding

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As ``InferenceSession``."""
        counter = self._graphopt_counter(input_feed)
        result = self._graphopt_run(output_names, input_feed, run_options)
        next(counter)
        return result

    def run_async(
        self, output_names: Any, input_feed: Any, callback: Any, user_data: Any, run_options: Any = None
    ) -> Any:
        """As ``InferenceSession``."""
        sent = (self._graphopt_counter(input_feed), callback, user_data)
        return self._graphopt_run_async(output_names, input_feed, _counted, sent, run_options)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """As ``InferenceSession``."""
        counter = _bound(iobinding, self._graphopt_counts)
        self._graphopt_run_with_iobinding(iobinding, run_options)
        next(counter)

    run_with_ort_values = _run(_forwarded("run_with_ort_values"))
    run_with_ortvaluevector = _run_with_ortvaluevector(_forwarded("run_with_ortvaluevector"))
    io_binding = _io_binding(_forwarded("io_binding"))
