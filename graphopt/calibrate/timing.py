"""Timing small models through onnxruntime: everything bound in advance, several passes, the fastest run of each."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from graphopt.calibrate.cases import BLOCKED, MS, Case, f32
from graphopt.errors import GraphoptError

Array = NDArray[Any]
Run = Callable[[], object]

OPSETS = ((MS, 1), (BLOCKED, 1), ("graphopt.fused", 1))


def model_of(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Array],
    outputs: Sequence[str],
    opset: int = 17,
) -> bytes:
    """A model of these nodes.

    Args:
        nodes: in topological order.
        feeds: inputs by name; their types and shapes are declared.
        constants: initializers by name.
        outputs: names of the results.
        opset: of ai.onnx.
    """
    graph = helper.make_graph(
        list(nodes),
        "calibrate",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, version) for domain, version in OPSETS)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def case_model(case: Case) -> bytes:
    """A model of one operator."""
    names = ["" if value is None else f"x{slot}" for slot, value in enumerate(case.inputs)]
    results = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op_type, names, results, domain=case.domain, **case.attributes)
    constants = {names[slot]: np.asarray(case.inputs[slot]) for slot in case.constants if names[slot]}
    return model_of([node], case.feeds, constants, results, case.opset)


def session(blob: bytes, threads: int, library: Path | None = None) -> onnxruntime.InferenceSession:
    """A session that runs a model as it stands.

    Raises:
        GraphoptError: onnxruntime has no such operator for these types.
    """
    options = onnxruntime.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"onnxruntime rejects it: {' '.join(str(error).split())[:200]}") from None


def bound(runner: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> Run:
    """A call without copies: inputs and outputs lie in memory that is bound in advance."""
    return _bind(runner, *_memory(runner, feeds))


Values = Mapping[str, onnxruntime.OrtValue]


def _memory(runner: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> tuple[Values, Values]:
    """Inputs and outputs of a session, by name."""
    results = runner.run(None, dict(feeds))
    made = {output.name: result for output, result in zip(runner.get_outputs(), results, strict=True)}
    inputs, outputs = ({name: _aligned(value) for name, value in group.items()} for group in (feeds, made))
    return inputs, outputs


def _aligned(value: Array) -> onnxruntime.OrtValue:
    """An array in memory of onnxruntime's own, which begins with a cache line as tensors do inside of a model.

    Numpy's mostly does not, and vectors of 64 bytes take longer there.
    """
    if value.dtype.kind not in "biufc":  # strings
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"))
    found = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(value.shape), value.dtype)
    found.update_inplace(np.asarray(value, order="C"))
    return found


def _bind(runner: onnxruntime.InferenceSession, inputs: Values, outputs: Values) -> Run:
    binding = runner.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    return lambda: runner.run_with_iobinding(binding)


DISTURBED = 1.25
"""How much longer than ever before the watch's own work may take when nobody else is at work."""
ENOUGH = 2
"""Undisturbed passes after which a thing has been timed well."""
LOOKS = 16
"""Runs of the watch's own work at a look, of which the fastest counts."""
LATELY = 0.002
"""Seconds for which a look says how things are."""


class Watch:
    """Tells times when the processor was ours from times when a neighbour used it too.

    A program on the other hyperthread of a core takes half of its arithmetic and of its caches, and an operating system
    inside of a virtual machine does not see it. So a small matrix product and an addition that fills the second-level
    cache are timed before and after whatever is measured: where they take longer than they ever did, so did the rest.

    A look opens its sessions and closes them: onnxruntime's threads spin for tens of milliseconds after their last
    run, and two sessions whose threads spin disturb each other. For the same reason, what is measured must have closed
    its session when it returns. The memory stays: how well it fits into a cache depends on where it lies.
    """

    def __init__(self, threads: int) -> None:
        rows = 128 * threads, 320 * threads  # the same for each thread
        product = Case("watch", "MatMul", [f32(rows[0], 128), f32(128, 128)], (1,))
        addition = Case("watch", "Add", [f32(rows[1], 320), f32(rows[1], 320)])
        self._threads = threads
        self._work = []
        for case in (product, addition):
            blob = case_model(case)
            self._work.append((blob, *_memory(session(blob, threads), case.feeds)))
        self._least = [float("inf")] * len(self._work)
        self._last: tuple[float, ...] = ()
        self._until = 0.0

    def look(self) -> tuple[float, ...]:
        """Seconds of the watch's own work now."""
        self._last = tuple(
            fastest(_bind(session(blob, self._threads), inputs, outputs), 0.0, LOOKS)
            for blob, inputs, outputs in self._work
        )
        self._until = time.perf_counter() + LATELY
        self.seen(self._last)
        return self._last

    def lately(self) -> tuple[float, ...]:
        """The last look, if hardly any time has passed since, or a new one."""
        return self._last if time.perf_counter() < self._until else self.look()

    def seen(self, look: tuple[float, ...]) -> None:
        """Take a look into account, one of a time before for instance."""
        self._least = [min(pair) for pair in zip(self._least, look, strict=True)]

    def undisturbed(self, look: tuple[float, ...]) -> bool:
        """Whether the watch's work was as fast at this look as at any so far."""
        return all(own <= DISTURBED * least for own, least in zip(look, self._least, strict=True))


@dataclass
class Timed:
    """The passes of one thing that is timed.

    Attributes:
        watch: told apart by it, disturbed passes do not count.
        passes: seconds of each pass, with the watch's looks before and after it.
    """

    watch: Watch
    passes: list[tuple[float, tuple[float, ...], tuple[float, ...]]] = field(default_factory=list)

    def time(self, measure: Callable[[], float]) -> None:
        """One more pass; ``measure`` leaves no session behind that has threads of its own."""
        before = self.watch.lately()
        seconds = measure()
        self.passes.append((seconds, before, self.watch.look()))

    @property
    def undisturbed(self) -> list[float]:
        """Seconds of the passes that nobody disturbed, as far as is known now; the fastest first."""
        good = self.watch.undisturbed
        return sorted(seconds for seconds, before, after in self.passes if good(before) and good(after))

    @property
    def best(self) -> float:
        """Seconds of the fastest undisturbed pass, or of the fastest if there is none."""
        return (self.undisturbed or sorted(seconds for seconds, _, _ in self.passes))[0]


def fastest(run: Run, seconds: float, least: int = 3) -> float:
    """Seconds of the fastest of the runs that fit into so many seconds; ``least`` at least, after one to warm up."""
    run()
    best, end, count = float("inf"), time.perf_counter() + seconds, 0
    while count < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def fastest_cold(run: Run, seconds: float, flush: int = 8 << 20) -> float:
    """The same when something else has filled the caches, and the branch predictors, before each run."""
    other = np.zeros(flush, np.uint8)
    best, end, count = float("inf"), time.perf_counter() + seconds, 0
    while count < 3 or time.perf_counter() < end:
        other[:] = count % 7
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best
