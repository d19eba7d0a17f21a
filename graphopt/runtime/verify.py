"""Whether two models compute the same numbers: outputs compared on seeded inputs, at captured and other batch sizes.

How far results may lie apart is said in ``graphopt.runtime.compare``. But some models amplify rounding beyond any
fixed tolerance: a detector whose activations grow a thousandfold moves by 7e-4 when onnxruntime merely fuses its
layers; a quantised model jumps when one value crosses a step. So before an output is called different, the original
runs again on inputs that are moved by a few rounding steps. An output that moves as much by itself (up to NOISE_FACTOR)
is close, and the reason says so. A wrong kernel is not covered by this: it is off by far more than the original's own
noise, unless the model is nothing but noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.models import Input, Range
from graphopt.runtime.compare import TOLERANCES, OutputComparison, Tolerance, Verdict, compare_values
from graphopt.runtime.feeds import Feeds, inputs_of, seeded_inputs, with_batch
from graphopt.runtime.session import one_line, open_deployed, open_session

Runner = Callable[[Feeds], Mapping[str, Any]]
"""Runs a model: feeds to outputs by name."""

NOISE_STEPS = 2.0
"""How far float inputs are moved to see the original's own noise, in units of their dtype's epsilon, up or down."""
NOISE_RUNS = 3
"""Runs with moved inputs; the greatest movement counts."""
NOISE_FACTOR = 4.0
"""Differences up to so many times the original's own noise count as rounding."""


@dataclass(frozen=True, slots=True)
class Case:
    """Both models on one set of input shapes.

    Attributes:
        shapes: input name to shape.
        batch: the batch size, where the case is a captured one at another batch size.
        verdict: the worst of the outputs'.
        reason: why it was skipped, or why the models could not be compared; empty otherwise.
        outputs: per output.
    """

    shapes: Mapping[str, Shape]
    batch: int | None
    verdict: Verdict
    reason: str = ""
    outputs: tuple[OutputComparison, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "shapes": {name: list(shape) for name, shape in sorted(self.shapes.items())},
            "batch": self.batch,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "outputs": [output.to_dict() for output in self.outputs],
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        cases: one per set of shapes, in the order tried.
    """

    cases: tuple[Case, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the cases that ran."""
        return _worst(case.verdict for case in self.cases)

    @property
    def passed(self) -> bool:
        """Whether the models agree wherever the original runs."""
        return self.verdict in (Verdict.EQUAL, Verdict.CLOSE)

    @property
    def max_relative(self) -> float:
        """Greatest relative error of all outputs in all cases."""
        return max((output.max_relative for case in self.cases for output in case.outputs), default=0.0)

    @property
    def max_absolute(self) -> float:
        """Greatest absolute error of all outputs in all cases."""
        return max((output.max_absolute for case in self.cases for output in case.outputs), default=0.0)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "verdict": str(self.verdict),
            "passed": self.passed,
            "max_absolute": self.max_absolute,
            "max_relative": self.max_relative,
            "cases": [case.to_dict() for case in self.cases],
        }


def _worst(verdicts: Iterator[Verdict]) -> Verdict:
    """SKIPPED only where nothing ran."""
    found = set(verdicts)
    for verdict in (Verdict.DIFFERENT, Verdict.CLOSE, Verdict.EQUAL):
        if verdict in found:
            return verdict
    return Verdict.SKIPPED


def verify(
    a: InferenceSession | Runner | Path | onnx.ModelProto,
    b: InferenceSession | Runner | Path | onnx.ModelProto,
    shapes: Sequence[Mapping[str, Shape]],
    *,
    batches: Sequence[int] = (),
    model: onnx.ModelProto | None = None,
    ranges: Mapping[str, Range] | None = None,
    seed: int = 0,
    tolerances: Mapping[str, Tolerance] | None = None,
    kernels_a: Path | None = None,
    kernels_b: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Compare two models' outputs on seeded inputs.

    Args:
        a: the original, which is the reference: a session, a function from feeds to outputs by name, or a model, which
            is opened as its metadata says (``graphopt.load``), or with ``kernels_a`` where given.
        b: what is checked against it; the same forms.
        shapes: the captured sets of input shapes; the original must run on each.
        batches: other batch sizes, tried for every set of shapes where the model leaves the batch free; skipped, with
            the reason, where the original does not run.
        model: the original's graph, so that seeded indices stay inside of their tables; needed where ``a`` is a
            function.
        ranges: input name to (low, high) of its values.
        seed: of the inputs.
        tolerances: by dtype, over TOLERANCES.
        kernels_a: kernel library of ``a``, where that is a model.
        kernels_b: kernel library of ``b``, where that is a model.
        progress: told before each set of shapes.

    Returns:
        Per case and output, what differs.

    Raises:
        GraphoptError: the original does not run at a captured shape, or a model cannot be opened.
    """
    if model is None and not isinstance(a, InferenceSession):
        model = a if isinstance(a, onnx.ModelProto) else models.load(a) if isinstance(a, Path) else None
    first, second = _opened(a, kernels_a), _opened(b, kernels_b)
    described = model if model is not None else first
    if not isinstance(described, InferenceSession | onnx.ModelProto):
        raise GraphoptError("verify needs the original's graph to make up its inputs")
    limits = {**TOLERANCES, **(tolerances or {})}
    cases: list[Case] = []
    for given, batch in _sets(inputs_of(described), shapes, batches):
        if progress is not None:
            progress(f"comparing, set of shapes {len(cases) + 1}")
        feeds = seeded_inputs(described, given, ranges=ranges, seed=seed)
        cases.append(_case(_runner(first), _runner(second), feeds, given, batch, limits))
    return Verification(tuple(cases))


def _opened(
    model: InferenceSession | Runner | Path | onnx.ModelProto, kernels: Path | None
) -> InferenceSession | Runner:
    if isinstance(model, Path):
        return open_deployed(model) if kernels is None else open_session(model, optimization="none", kernels=kernels)
    if isinstance(model, onnx.ModelProto):
        return open_session(model, optimization="all" if kernels is None else "none", kernels=kernels)
    return model


def _runner(model: InferenceSession | Runner) -> Runner:
    if not isinstance(model, InferenceSession):
        return model
    session = model
    inputs = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]

    def run(feeds: Feeds) -> dict[str, Any]:
        own = {name: array for name, array in feeds.items() if name in inputs}
        return dict(zip(outputs, session.run(None, own), strict=True))

    return run


def _sets(
    inputs: tuple[Input, ...], shapes: Sequence[Mapping[str, Shape]], batches: Sequence[int]
) -> Iterator[tuple[Mapping[str, Shape], int | None]]:
    """The captured shapes, then every other distinct set at the batch sizes asked for."""
    seen: list[Mapping[str, Shape]] = []
    for given in shapes:
        if given not in seen:
            seen.append(given)
            yield given, None
    for given in tuple(seen):
        for batch in batches:
            changed = with_batch(inputs, given, batch)
            if changed is not None and changed not in seen:
                seen.append(changed)
                yield changed, batch


def _case(
    first: Runner,
    second: Runner,
    feeds: Feeds,
    shapes: Mapping[str, Shape],
    batch: int | None,
    limits: Mapping[str, Tolerance],
) -> Case:
    try:
        expected = first(feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if batch is None:
            raise GraphoptError(f"the original does not run at its captured shapes: {one_line(error)}") from None
        return Case(shapes, batch, Verdict.SKIPPED, f"the original does not run: {one_line(error)}")
    try:
        found = second(feeds)
    except Exception as error:
        return Case(shapes, batch, Verdict.DIFFERENT, f"the second model does not run: {one_line(error)}")
    if set(expected) != set(found):
        names = ", ".join(sorted(set(expected) ^ set(found)))
        return Case(shapes, batch, Verdict.DIFFERENT, f"the models have other outputs: {names}")
    compared = tuple(
        output for name in expected for output in compare_values(name, expected[name], found[name], limits)
    )
    reason = ""
    if any(output.verdict == Verdict.DIFFERENT for output in compared):
        if _repeats(first, feeds, expected, limits):
            compared = _excuse_noise(first, feeds, expected, compared)
        else:
            reason = "the original differs from itself on the same inputs (random numbers?)"
    return Case(shapes, batch, _worst(output.verdict for output in compared), reason, compared)


def _excuse_noise(
    first: Runner, feeds: Feeds, expected: Mapping[str, Any], compared: Sequence[OutputComparison]
) -> tuple[OutputComparison, ...]:
    """Outputs that differ no more than the original does by itself when its inputs move by rounding are close."""
    if not any(array.dtype.kind == "f" for array in feeds.values()):
        return tuple(compared)
    generator = np.random.default_rng(0)
    moved: dict[str, float] = {}
    flipped: dict[str, int] = {}
    for _ in range(NOISE_RUNS):
        again = first({name: _moved(array, generator) for name, array in feeds.items()})
        for name in expected:
            for output in compare_values(name, expected[name], again[name], {}):
                moved[output.name] = max(moved.get(output.name, 0.0), output.max_absolute)
                flipped[output.name] = max(flipped.get(output.name, 0), output.differing)
    return tuple(_judged_again(output, moved.get(output.name, 0.0), flipped.get(output.name, 0)) for output in compared)


def _moved(array: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    signs = generator.choice(np.array([-1.0, 1.0]), array.shape)
    return np.asarray(array * (1 + signs * NOISE_STEPS * np.finfo(array.dtype).eps)).astype(array.dtype)


def _judged_again(output: OutputComparison, moved: float, flipped: int) -> OutputComparison:
    comparable = output.elements and not output.nan_mismatches and not output.infinity_mismatches
    if output.verdict != Verdict.DIFFERENT or not comparable:
        return output
    if output.dtype in TOLERANCES:
        excused = output.max_absolute <= NOISE_FACTOR * moved
        noise = f"by {moved:.1e}"
    else:
        excused = output.differing <= NOISE_FACTOR * flipped
        noise = f"in {flipped} elements"
    if not excused:
        return output
    reason = f"{output.reason}; the original itself moves {noise} when its inputs move by rounding"
    return replace(output, verdict=Verdict.CLOSE, reason=reason)


def _repeats(first: Runner, feeds: Feeds, expected: Mapping[str, Any], limits: Mapping[str, Tolerance]) -> bool:
    again = first(feeds)
    return all(
        output.verdict != Verdict.DIFFERENT
        for name in expected
        for output in compare_values(name, expected[name], again[name], limits)
    )
