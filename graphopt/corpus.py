"""Loading a corpus: models, the shapes at which each one ran, and how often.

A folder of models with a ``captures.toml``, or an observed corpus (``graphopt.store``), which services write.
"""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path

from onnx import ModelProto

from graphopt import captures_file, model_files
from graphopt.capture import Captured, Execution, capture_executions
from graphopt.captures_file import Entry
from graphopt.corpus_sources import Positional, Stored, stored_models
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.foldable import foldable
from graphopt.graph import Capture, OperatorGraph, Shape
from graphopt.interrupts import ALL, held_back, let_through
from graphopt.model_inputs import default_shapes, inputs_of
from graphopt.observation import one_line
from graphopt.views import ViewName, remaining
from graphopt.weights import fill_weights

Progress = Callable[[int, int, str], None]
"""Called with (models done, all models, the model that was just done)."""


@dataclass(frozen=True)
class Corpus:
    """What was loaded.

    Attributes:
        captures: sorted by the path of their model, then by their shapes. Captures of one graph share the graph object.
        problems: a line for each model that could not be used and each remark about one that could; sorted.
    """

    captures: tuple[Capture, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """How captures are made; see ``load``."""

    view: ViewName
    fold_constants: bool


@dataclass(frozen=True)
class _Loaded:
    """One model's captures, as a worker hands them back.

    Attributes:
        digest: of the model's structure; empty when it failed.
        positions: per capture, its input shapes in the model's order.
        captures: the captures.
        problems: lines.
    """

    digest: str
    positions: tuple[tuple[Shape | None, ...], ...]
    captures: tuple[Capture, ...]
    problems: tuple[str, ...]


def load(
    place: Path | str,
    *,
    view: ViewName = "executed",
    fold_constants: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Corpus:
    """Read a corpus: every capture with the shape of every tensor.

    A folder with a ``captures.toml`` holds what that file lists. In one without, every ``.onnx`` file (in folders
    below, too) is a model that ran once at its declared shapes, with sensible sizes for free axes
    (``models.default_shapes``). The path of a single ``.onnx`` file is a corpus of one. A URL, or a folder in which
    services store their captures, is an observed corpus (``graphopt.store``). Models with the same structure (see
    ``digests``) and the same shapes are one capture with the sum of their executions.

    Args:
        place: the corpus.
        view: the view that captures are wanted in. A stored file that is that view already, or a later one, stays as
            it is.
        fold_constants: whether all that never changes is made foldable (see ``foldable``) before onnxruntime optimises,
            as ``graphopt apply`` does it: nobody wants a kernel for what folding takes away.
        jobs: worker processes; 1 works in this one. The result is the same for any number.
        progress: told after each model.

    Returns:
        Captures and problems. A model that fails is a problem, not an error.

    Raises:
        GraphoptError: the corpus cannot be read, holds no model, or none of its models could be used.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        return _load(place, Path(scratch), _Wanted(view, fold_constants), jobs, progress)


def _load(place: Path | str, scratch: Path, wanted: _Wanted, jobs: int, progress: Progress | None) -> Corpus:
    models, problems = stored_models(place, scratch)
    results = _in_processes(place, models, wanted, jobs, progress)
    captures: list[Capture] = []
    seen: dict[object, int] = {}
    graphs: dict[object, OperatorGraph] = {}
    for model in models:
        result = results[model.source]
        problems.extend(f"{model.source}: {line}" for line in result.problems)
        for capture, positions in zip(result.captures, result.positions, strict=True):
            key = (result.digest, positions)
            if key in seen:
                first = captures[seen[key]]
                captures[seen[key]] = replace(first, executions=first.executions + capture.executions)
                continue
            seen[key] = len(captures)
            shared = graphs.setdefault((model.source, _ranks(capture.graph)), capture.graph)
            captures.append(replace(capture, graph=shared))
    if not captures:
        cause = sorted(problems)[0] if problems else "it is empty"
        raise GraphoptError(f"{place}: no models that can be used ({cause})")
    return Corpus(tuple(captures), tuple(sorted(problems)))


def _ranks(graph: OperatorGraph) -> tuple[int | None, ...]:
    return tuple(tensor.rank for tensor in graph.tensors.values())


@contextmanager
def files_by_name(place: Path | str) -> Iterator[dict[str, Path]]:
    """Files of all models of a corpus by the name that captures call them, on this machine while the block lasts.

    Raises:
        GraphoptError: the corpus cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        yield {model.name: model.file for model in reversed(stored_models(place, Path(scratch))[0])}


def _in_processes(
    place: Path | str, models: Sequence[Stored], wanted: _Wanted, jobs: int, progress: Progress | None
) -> dict[str, _Loaded]:
    """The result for each model, by its source. Large files go first, so that no worker ends long after the others."""
    order = sorted(models, key=lambda model: (-_size(model.file), model.source))
    results: dict[str, _Loaded] = {}

    def done(model: Stored, result: _Loaded) -> None:
        results[model.source] = result
        if progress is not None:
            progress(len(results), len(order), model.name)

    workers = min(jobs, len(order))
    if workers <= 1:
        for model in order:
            done(model, _load_model(model, wanted))
        return results
    # Workers write their temporary files where this process removes them, should it have to kill a worker.
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        # Spawned, not forked: onnxruntime has threads, which a fork would lose while their locks stay taken.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(scratch,))
        resource_tracker.ensure_running()  # its start would let signals through
        try:
            with held_back():  # a worker that is left half started complains; one that runs is ours to end
                futures: dict[Future[_Loaded], Stored] = {
                    pool.submit(_load_model, model, wanted): model for model in order
                }
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BrokenProcessPool:
            raise GraphoptError(f"{place}: a worker process ended while it read models; memory may be short") from None
        except BaseException:
            for worker in tuple((getattr(pool, "_processes", None) or {}).values()):
                worker.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def _begin_worker(folder: str) -> None:
    """In a worker: make temporary files in this folder, and let the pool end it; interrupts are for the parent."""
    tempfile.tempdir = folder
    let_through(set(ALL) - {signal.SIGINT})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _load_model(model: Stored, wanted: _Wanted) -> _Loaded:
    """All captures of one model; runs in a worker."""
    try:
        return _load_checked(model, wanted)
    except GraphoptError as error:
        return _Loaded("", (), (), (str(error).removeprefix(f"{model.file}: "),))
    except Exception as error:  # one model that nobody has thought of must not end the work on a fleet
        return _Loaded("", (), (), (f"cannot be used: {type(error).__name__}: {one_line(error)}",))


def _load_checked(model: Stored, wanted: _Wanted) -> _Loaded:
    proto = model_files.load(model.file)
    structure = model.digest or digest(proto)
    order = [i.name for i in inputs_of(proto)]
    proto = fill_weights(proto)
    captured: list[Captured] = []
    problems: list[str] = []
    entries = []
    for one in model.executions:
        try:
            entries.append(one if isinstance(one, Entry) else _named(one, order))
        except GraphoptError as error:
            problems.append(str(error))
    for stored in sorted({entry.view for entry in entries}, key=str):
        group = [entry for entry in captures_file.merged(entries) if entry.view == stored]
        view = remaining(stored, wanted.view)
        made = foldable(proto) if wanted.fold_constants and view != "raw" else proto
        try:
            captured += _captures(made, model.name, group, view, model.source)
        except GraphoptError as error:
            problems += _one_by_one(captured, made, model.name, group, view, model.source, error)
    captured.sort(key=lambda one: sorted(one.capture.input_shapes().items()))
    problems += [remark for one in captured for remark in one.remarks]
    positions = tuple(tuple(one.capture.shapes.get(i) for i in order) for one in captured)
    return _Loaded(structure, positions, tuple(one.capture for one in captured), tuple(dict.fromkeys(problems)))


def _named(one: Positional, order: Sequence[str]) -> Entry:
    """Observed executions with the names of the inputs; they are of no file."""
    if len(one.shapes) != len(order):
        raise GraphoptError(f"captured with {len(one.shapes)} inputs; it has {len(order)}")
    shapes = {name: shape for name, shape in zip(order, one.shapes, strict=True) if shape is not None}
    return Entry("", shapes, one.executions)


def _captures(
    proto: ModelProto, name: str, group: Sequence[Entry], view: ViewName, source: str
) -> tuple[Captured, ...]:
    executions = []
    for entry in group:
        shapes = default_shapes(proto) if not entry.shapes else entry.shapes
        executions.append(Execution(shapes, entry.executions, entry.ranges, ran=not entry.model))
    guessed = not any(entry.shapes for entry in group) and any(
        one.dims is None or not all(isinstance(size, int) for size in one.dims) for one in inputs_of(proto)
    )
    hint = f"; sizes of free axes were guessed: {captures_file.NAME} can say them" if guessed else ""
    try:
        found = capture_executions(proto, name, executions, view, source)
    except GraphoptError as error:
        raise GraphoptError(f"{error}{hint}") from None
    return tuple(replace(one, remarks=tuple(f"{line}{hint}" for line in one.remarks)) for one in found)


def _one_by_one(
    captured: list[Captured],
    proto: ModelProto,
    name: str,
    group: Sequence[Entry],
    view: ViewName,
    source: str,
    error: GraphoptError,
) -> list[str]:
    """Save what can be saved of a model of which one capture is wrong; returns the problems."""
    if len(group) == 1:
        return [str(error)]
    problems = []
    for entry in group:
        try:
            captured += _captures(proto, name, [entry], view, source)
        except GraphoptError as one:
            problems.append(str(one))
    return problems
