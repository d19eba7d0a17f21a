"""Storing captures of models that are at hand: in a folder, or in an observed corpus as services do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import onnxruntime
from onnx import ModelProto

from graphopt import captures_file, files, model_files, store
from graphopt.capture import Execution
from graphopt.captures_file import Entry
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.model_inputs import default_shapes, inputs_of
from graphopt.observation import Observer
from graphopt.redaction import redact
from graphopt.views import VIEWS, ViewName, remaining, to_view
from graphopt.weights import drop_weights, has_dropped_weights, load_without_weights

try:
    import fcntl
except ImportError:  # not on Windows: there, two writers at once are not supported
    fcntl = None  # type: ignore[assignment]

Weights = Literal["keep", "drop"]


def add_executions(
    place: Path | str,
    model: Path | ModelProto,
    executions: Sequence[Execution],
    *,
    name: str | None = None,
    view: ViewName | None = None,
    given_view: ViewName | None = None,
    weights: Weights = "drop",
    redacted: bool = False,
) -> Path | str:
    """Store captures of a model. Several processes may store at once.

    In a folder, the model's file is called ``<name>-<digest>.onnx`` and written once for each structure, and the
    captures are added to ``captures.toml``. An observed corpus (any URL is one) gets them as services store theirs; it
    holds models as they are, without weights and ranges. Executions of the same model at the same shapes add up.

    Args:
        place: the corpus; made when missing.
        model: a file, or a checked model.
        executions: how it ran. Without shapes: at those that it declares.
        name: what the corpus calls it; the file's stem when not given.
        view: bring the model to this view and store that, marked so. None or ``raw`` stores it as it is: the view is
            then made when the corpus is loaded, for the machine that it is loaded on.
        given_view: the view that the model is already, if any.
        weights: store them, or only their shapes.
        redacted: store no name and no comment (``redaction.redact``); the corpus calls it ``model``, unless a name is
            given.

    Returns:
        The model's file in the corpus; a URL where the corpus is one.

    Raises:
        GraphoptError: the model is broken, a shape contradicts it, or the corpus cannot be written. Nothing is written.
    """
    for named in (view, given_view):
        if named is not None and named not in VIEWS:
            raise GraphoptError(f"no view {named!r}: it is one of {', '.join(VIEWS)}")
    wanted = remaining(given_view, view or "raw")
    if isinstance(model, ModelProto):
        proto, known = model, model.graph.name or "model"
        label = name or known
    else:
        # Weights that neither stay nor are optimised are not read: a model may be larger than the memory.
        read = load_without_weights if weights == "drop" and wanted == "raw" else model_files.load
        proto, known, label = read(Path(model)), Path(model).stem, str(model)
    known = name or ("model" if redacted else known)
    try:
        # Made before anything is written: it finds every way in which the shapes or the model are wrong.
        viewed = to_view(proto, wanted)
        observer = Observer(viewed, known)
        complete = []
        for one in executions:
            if one.executions < 1:
                raise GraphoptError(f"executions must be above 0, not {one.executions}")
            shapes = observer.check(one.shapes or default_shapes(viewed), one.ranges)
            complete.append(replace(one, shapes=shapes))
        stored = drop_weights(viewed) if weights == "drop" else viewed
        stored = redact(stored) if redacted else stored
    except GraphoptError as error:
        raise GraphoptError(f"{label}: {error}") from None
    view = wanted if wanted != "raw" else given_view if given_view != "raw" else None
    if not store.is_observed(place):
        return _add_to_folder(Path(place), known, viewed, stored, complete, view)
    if view is not None or weights == "keep" or any(one.ranges for one in complete):
        raise GraphoptError(f"{place}: an observed corpus holds no views, weights or ranges; store them in a folder")
    return _append(place, known, viewed, stored, complete)


def _append(
    place: Path | str, name: str, model: ModelProto, stored: ModelProto, executions: Sequence[Execution]
) -> str:
    corpus = store.open(place)
    found = corpus.put_graph(stored)
    order = [i.name for i in inputs_of(model)]
    now = datetime.now(UTC)
    rows = store.CAPTURES.table(
        store.Capture(
            graph=found,
            name=name,
            shapes=tuple(one.shapes.get(i) for i in order),
            executions=one.executions,
            start=now,
            end=now,
            runtime=onnxruntime.__version__,
        )
        for one in executions
    )
    corpus.captured.append(rows)
    return f"{corpus.folder.url}/{store.GRAPHS}/{found}.onnx"


def _add_to_folder(
    folder: Path,
    name: str,
    model: ModelProto,
    stored: ModelProto,
    executions: Sequence[Execution],
    view: ViewName | None,
) -> Path:
    target = folder / f"{file_name(name)}-{digest(model)[:12]}.onnx"
    with _locked(folder):
        if target.is_file() and (has_dropped_weights(stored) or not has_dropped_weights(model_files.load(target))):
            stored = model_files.read(target)
        else:
            model_files.save(stored, target)
        # The file may name its inputs otherwise, in the same order.
        names = {old.name: new.name for old, new in zip(inputs_of(model), inputs_of(stored), strict=True)}
        added = [
            Entry(
                target.name,
                {names[i]: shape for i, shape in one.shapes.items()},
                one.executions,
                {names[i]: bounds for i, bounds in one.ranges.items()},
                view,
            )
            for one in executions
        ]
        listing = folder / captures_file.NAME
        entries = captures_file.read(listing) if listing.is_file() else ()
        files.write_text(listing, captures_file.text([*entries, *added]))
    return target


def file_name(name: str) -> str:
    """The name with everything replaced that a file system or a shell might trip over."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._") or "model"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of the folder while ``captures.toml`` is read and replaced."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".captures.lock").open("a")
    except OSError as error:
        raise GraphoptError(f"{folder}: cannot write into the folder: {error.strerror or error}") from None
    with lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back
