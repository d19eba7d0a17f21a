"""Sampling operator times: onnxruntime's own profile of a few runs, in a session apart from the service's."""

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.model_files import weight_bytes
from graphopt.model_inputs import inputs_of, seeded_inputs
from graphopt.observation import one_line

RUNS = 10
"""Runs of a sample, after one that does not count."""
SECONDS = 1.0
"""After so long, a sample is over."""
LARGEST_MODEL = 2**29
"""Bytes of weights above which a model is not sampled: the session would double them in memory."""

_SUFFIX = "_kernel_time"
_FATAL = 4  # what goes wrong is raised
_TRUNCATION = 0.5e-6  # onnxruntime cuts durations to whole microseconds


@dataclass(frozen=True)
class Sampled:
    """An operator's time.

    Attributes:
        node: index of the node in the model; None for what onnxruntime fused, inserted or runs inside of another.
        name: of the node.
        operator: its type.
        seconds: of all executions. The time of If, Loop and Scan includes what they run.
        samples: executions.
    """

    node: int | None
    name: str
    operator: str
    seconds: float
    samples: int


def sample(
    model: Path | bytes, light: ModelProto, shapes: Iterable[Shape | None], level: GraphOptimizationLevel
) -> list[Sampled]:
    """Run a model a few times under onnxruntime's profiler, on the CPU, in one thread, with made-up inputs.

    Args:
        model: a file, or its content.
        light: the same model without weights.
        shapes: of its inputs, by position.
        level: what onnxruntime may rewrite.

    Returns:
        Operators in the order in which they first ran.

    Raises:
        GraphoptError: it is too large, or does not run with such inputs.
    """
    if weight_bytes(light) > LARGEST_MODEL:
        raise GraphoptError("too large to be sampled")
    names = [value.name for value in inputs_of(light)]
    known = {name: shape for name, shape in zip(names, shapes, strict=True) if shape is not None}
    feeds = seeded_inputs(light, known)
    with tempfile.TemporaryDirectory(prefix="graphopt-sample-") as folder:
        options = SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        options.graph_optimization_level = level
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            source = model if isinstance(model, bytes) else str(model)
            session = InferenceSession(source, options, providers=["CPUExecutionProvider"])
            end = time.monotonic() + SECONDS
            for run in range(1 + RUNS):
                session.run(None, feeds)
                if run and time.monotonic() >= end:
                    break
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"cannot be sampled: {one_line(error)}") from None
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace"))
    return _times(events, light)


def _times(events: Iterable[Mapping[str, Any]], light: ModelProto) -> list[Sampled]:
    places = Counter(node.name for node in light.graph.node)
    index = {node.name: at for at, node in enumerate(light.graph.node) if node.name and places[node.name] == 1}
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    warm = False
    for event in events:
        if event["name"] == "model_run":
            warm = True
        elif warm and event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            key = event["name"].removesuffix(_SUFFIX), str(event["args"].get("op_name", ""))
            seconds[key].append(event["dur"] * 1e-6 + _TRUNCATION)
    found = []
    for (name, operator), times in seconds.items():
        at = index.get(name)
        if at is not None and light.graph.node[at].op_type != operator:
            at = None  # onnxruntime reuses names of nodes that it fuses
        found.append(Sampled(at, name, operator, sum(times), len(times)))
    return found
