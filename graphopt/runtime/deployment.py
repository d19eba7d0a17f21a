"""Model files as they are deployed: opened with their kernels, run, verified and timed against an original file."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt import captures_file, models, weights
from graphopt.errors import GraphoptError, about
from graphopt.files import staged
from graphopt.graph import Shape
from graphopt.models import Range
from graphopt.runtime import bench, bench_log, reference, session, verify
from graphopt.runtime.feeds import seeded_inputs

SCHEMA_VERSION = 1
Runtime = Literal["reference", "onnxruntime"]


@dataclass(frozen=True)
class Ready:
    """A model file with all that is needed to run it.

    Attributes:
        path: the file.
        model: its content, with seeded weights where it has none.
        filled: whether weights were filled in.
    """

    path: Path
    model: onnx.ModelProto
    filled: bool

    @property
    def kernels(self) -> Path | None:
        """The kernel library that the model names, where it is there."""
        library = session.kernel_library(self.path)
        return library if library is not None and library.is_file() else None

    def open(self, *, optimization: session.Optimization | None = None, threads: int = 1) -> InferenceSession:
        """A session as ``graphopt.load`` opens it, or, with an optimisation level, as onnxruntime alone does."""
        if optimization is not None:
            return session.open_session(self._source, optimization=optimization, threads=threads)
        if self.filled:
            executed = session.read_metadata(self.path).get(session.VIEW_KEY) == "executed"
            level: session.Optimization = "none" if executed else "all"
            return session.open_session(self.model, optimization=level, threads=threads, kernels=self.kernels)
        return session.open_deployed(self.path, threads=threads)

    def feeds(
        self, given: Mapping[str, Shape], ranges: Mapping[str, Range], seed: int
    ) -> tuple[dict[str, Shape], dict[str, NDArray[Any]]]:
        """Shapes of all inputs (those that are given, the declared ones for the others), and seeded inputs of them.

        Raises:
            GraphoptError: the model takes no such shapes or ranges.
        """
        with about(self.path):
            complete = models.default_shapes(self.model, given)
            return complete, seeded_inputs(self.model, complete, ranges=ranges, seed=seed)

    @property
    def _source(self) -> Path | onnx.ModelProto:
        return self.model if self.filled else self.path


def ready(path: Path, seed: int = 0) -> Ready:
    """Read a model file; weights that were dropped from it are filled in.

    Raises:
        GraphoptError: the file is not a valid model.
    """
    model = models.load(path)
    filled = weights.has_dropped_weights(model)
    with about(path):
        return Ready(path, weights.fill_weights(model, seed) if filled else model, filled)


@dataclass(frozen=True)
class Captured:
    """How a model file was run.

    Attributes:
        shapes: sets of input shapes; what is missing in one takes the declared shape.
        executions: how often each ran.
        ranges: of input values.
    """

    shapes: tuple[Mapping[str, Shape], ...]
    executions: tuple[int, ...]
    ranges: Mapping[str, Range]

    @property
    def usual(self) -> Mapping[str, Shape]:
        """The set of shapes that ran most often."""
        return self.shapes[self.executions.index(max(self.executions))]


def captured(
    path: Path, shapes: Mapping[str, Shape] | None = None, ranges: Mapping[str, Range] | None = None
) -> Captured:
    """The shapes that a model file runs with.

    Args:
        path: the model.
        shapes: given ones; they win.
        ranges: given ones; they win.

    Returns:
        What was given; without shapes, what the ``captures.toml`` in the model's folder says about it; else one empty
        set, which stands for the declared shapes.

    Raises:
        GraphoptError: the ``captures.toml`` is not valid.
    """
    listing = path.parent / captures_file.NAME
    entries = captures_file.read(listing) if listing.is_file() else ()
    own = [entry for entry in entries if entry.model == path.name]
    known = {name: bounds for entry in own for name, bounds in entry.ranges.items()} | dict(ranges or {})
    if shapes or not own:
        return Captured((dict(shapes or {}),), (1,), known)
    return Captured(tuple(entry.shapes for entry in own), tuple(entry.executions for entry in own), known)


@dataclass(frozen=True)
class Run:
    """One run of a model.

    Attributes:
        path: the model.
        runtime: who ran it.
        shapes: of the inputs.
        outputs: by name, in the model's order.
        executed: nodes by who computed them; empty for onnxruntime, which does not tell.
    """

    path: Path
    runtime: Runtime
    shapes: Mapping[str, Shape]
    outputs: Mapping[str, Any]
    executed: Mapping[str, int]

    def save(self, path: Path) -> None:
        """Write the outputs that are arrays to an ``.npz`` file.

        Raises:
            GraphoptError: it cannot be written.
        """
        arrays = {name: value for name, value in self.outputs.items() if isinstance(value, np.ndarray)}
        with staged(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """For JSON: what the outputs are like, not their values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "run",
            "model": str(self.path),
            "runtime": self.runtime,
            "inputs": {name: list(shape) for name, shape in self.shapes.items()},
            "outputs": {name: summary(value) for name, value in self.outputs.items()},
            "executed": dict(sorted(self.executed.items())),
        }


def summary(value: Any) -> dict[str, object]:
    """Type, shape and range of an output's finite elements."""
    if not isinstance(value, np.ndarray):
        return {"dtype": type(value).__name__, "shape": [len(value)] if isinstance(value, list | dict) else []}
    found: dict[str, object] = {"dtype": value.dtype.name, "shape": list(value.shape)}
    if value.dtype.kind in "fiub" or value.dtype.name == "bfloat16":
        numbers = value.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            found |= {"minimum": float(finite.min()), "mean": float(finite.mean()), "maximum": float(finite.max())}
        found["not_finite"] = int(numbers.size - finite.size)
    return found


def run_file(
    path: Path,
    shapes: Mapping[str, Shape] | None = None,
    *,
    runtime: Runtime = "onnxruntime",
    kernels: bool = True,
    ranges: Mapping[str, Range] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> Run:
    """Run a model file once on seeded inputs.

    Args:
        path: the model.
        shapes: of inputs; what is missing takes the declared shape. Without any, the captured ones (see ``captured``).
        runtime: onnxruntime, or the reference runtime.
        kernels: whether fused operators run by their kernels; else by their function bodies.
        ranges: of input values.
        threads: of onnxruntime.
        seed: of the inputs and of dropped weights.

    Raises:
        GraphoptError: the file, a shape or the run itself is at fault.
    """
    file = ready(path, seed)
    known = captured(path, shapes, ranges)
    complete, feeds = file.feeds(known.usual, known.ranges, seed)
    if runtime == "reference":
        engine = reference.open_reference(file.model, kernels=file.kernels if kernels else None, use_kernels=kernels)
        return Run(path, runtime, complete, engine.run(feeds), dict(engine.executed))
    executed = session.read_metadata(path).get(session.VIEW_KEY) == "executed"
    opened = (
        file.open(threads=threads)
        if kernels
        else file.open(optimization="none" if executed else "all", threads=threads)
    )
    try:
        values = opened.run(None, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"{path}: does not run: {session.one_line(error)}") from None
    names = [output.name for output in opened.get_outputs()]
    return Run(path, runtime, complete, dict(zip(names, values, strict=True)), {})


@dataclass(frozen=True)
class FileVerification:
    """Two model files compared.

    Attributes:
        original: the reference.
        candidate: what was compared with it.
        verification: the verdict, case by case.
    """

    original: Path
    candidate: Path
    verification: verify.Verification

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        head: dict[str, object] = {"schema_version": SCHEMA_VERSION, "kind": "verification"}
        return head | {"original": str(self.original), "candidate": str(self.candidate)} | self.verification.to_dict()


def verify_files(
    original: Path,
    candidate: Path,
    shapes: Mapping[str, Shape] | None = None,
    *,
    batches: Sequence[int] = (),
    ranges: Mapping[str, Range] | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> FileVerification:
    """Compare the outputs of two model files on seeded inputs; each opens as it is deployed.

    Args:
        original: the reference.
        candidate: what is compared with it.
        shapes: of inputs; what is missing takes the declared shape. Without any, all captured ones (see ``captured``).
        batches: other batch sizes, where the batch is free.
        ranges: of input values.
        threads: of onnxruntime.
        seed: of the inputs and of dropped weights.
        progress: told what is being done.

    Raises:
        GraphoptError: a file or a shape is at fault.
    """
    first, second = ready(original, seed), ready(candidate, seed)
    known = captured(original, shapes, ranges)
    sessions = first.open(threads=threads), second.open(threads=threads)
    with about(original):
        verification = verify.verify(
            *sessions,
            [models.default_shapes(first.model, given) for given in known.shapes],
            batches=batches,
            model=first.model,
            ranges=known.ranges,
            seed=seed,
            progress=progress,
        )
    return FileVerification(original, candidate, verification)


@dataclass(frozen=True)
class FileBenchmark:
    """Two model files timed against each other, the original with all of onnxruntime's optimisations and with none.

    Attributes:
        original: the baseline.
        candidate: what was timed against it.
        shapes: of the inputs.
        threads: of onnxruntime.
        benchmark: times and ratios; the candidate stands last.
    """

    original: Path
    candidate: Path
    shapes: Mapping[str, Shape]
    threads: int
    benchmark: bench.Benchmark

    def to_dict(self) -> dict[str, object]:
        """For JSON; times in seconds."""
        head: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "kind": "benchmark",
            "original": str(self.original),
            "candidate": str(self.candidate),
            "inputs": {name: list(shape) for name, shape in self.shapes.items()},
            "threads": self.threads,
        }
        return head | self.benchmark.to_dict()


ALL, NONE, CANDIDATE = "original, all optimisations", "original, no optimisation", "candidate"
"""What the benchmark calls its three."""


def bench_files(
    original: Path,
    candidate: Path,
    shapes: Mapping[str, Shape] | None = None,
    *,
    ranges: Mapping[str, Range] | None = None,
    threads: int = 1,
    seconds: float = 5.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> FileBenchmark:
    """Time a model file against an original, alternating, in this process.

    Afterwards the candidate's fused operators are timed alone, for the log of predictions (see ``prediction_log``).

    Args:
        original: the baseline, run by stock onnxruntime with everything enabled and with nothing enabled.
        candidate: the model timed against it, as it is deployed.
        shapes: of inputs; what is missing takes the declared shape. Without any, the captured ones (see ``captured``).
        ranges: of input values.
        threads: of onnxruntime.
        seconds: to spend, at least.
        seed: of the inputs and of dropped weights.
        progress: told what is being done.

    Raises:
        GraphoptError: a file or a shape is at fault.
    """
    first, second = ready(original, seed), ready(candidate, seed)
    known = captured(original, shapes, ranges)
    complete, feeds = first.feeds(known.usual, known.ranges, seed)
    sessions = {
        ALL: first.open(optimization="all", threads=threads),
        NONE: first.open(optimization="none", threads=threads),
        CANDIDATE: second.open(threads=threads),
    }
    timed = bench.bench(sessions, feeds, min_seconds=seconds, seed=seed, progress=progress)
    if second.kernels is not None:
        if progress is not None:
            progress("timing fused operators alone")
        with suppress(GraphoptError):  # the log is a by-product
            bench_log.log_fused_operators(second.model, second.kernels, complete, threads=threads)
    return FileBenchmark(original, candidate, complete, threads, timed)
