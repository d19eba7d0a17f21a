#!/usr/bin/env python3
"""Hold predicted times against measured ones: patterns of a corpus, one by one, as operators and as one kernel.

    python benchmarks/prediction.py MODELS [--captures FILE] [--machine FILE] [--half 1] [--json FILE]

MODELS and ``--captures`` are those of ``benchmarks/corpus.py``. The pairs (pattern, shape) are occurrences for which a
kernel can be generated and which take at least LEAST_SECONDS by prediction, at most PER_MODEL new ones from each model
and PER_PATTERN of each pattern. Each is cut out as a model of its own and timed on one core, everything bound in
advance: its operators in onnxruntime, and its kernel. Passes that a neighbour disturbed are done again. What is timed
over and over is warm, so the prices of a node and of a kernel are those of a warm chain, timed beside; all other
numbers are the machine's, which was calibrated before, on none of these pairs.

``--prepare FOLDER`` compiles and stores the pairs without timing anything; ``--from FOLDER`` times what it stored.
Every pass is kept there (``passes.jsonl``) until the kernels or onnxruntime change, so a measurement can be cut into
windows (``--seconds``) and goes on where it stopped; ``--seconds 0`` predicts anew what was measured before.
"""

import argparse
import hashlib
import json
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import log, prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from corpus import captures as captures_of
from onnx import helper, numpy_helper
from rich.console import Console
from rich.progress import Progress
from scipy.stats import spearmanr

from graphopt import kernels, machine, models, operators, roofline
from graphopt.calibrate import chains, learning
from graphopt.calibrate.cases import TINY
from graphopt.calibrate.timing import Run, Timed, Watch, bound, case_model, fastest, session
from graphopt.capture import capture_model
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, OperatorGraph
from graphopt.machine import Machine, Quantity
from graphopt.operators.base import FusionClass, storage_bytes
from graphopt.passes.candidates import find_candidates
from graphopt.passes.extract import Extraction
from graphopt.passes.fuse import shapes_of, standalone
from graphopt.passes.rewrite import function
from graphopt.prediction_log import Record

LEAST_SECONDS = 10e-6
PER_MODEL, PER_PATTERN = 4, 2
SECONDS = 0.015
"""Time of a pass. There are passes until each pair has had enough that nobody disturbed, or ``--seconds`` are over."""
ENOUGH = 4
"""Undisturbed passes of each half of a pair, of which the fastest counts."""
COPIES_UNTIL = 60e-6
"""A pattern that takes less than this stands several times in its model, so that the price of a call matters less."""
MOST_COPIES = 8
COPIES_HOLD = 1 << 18
"""Bytes that the results and constants of all copies may take: they must not push each other out of the caches."""
WIN = 1.1
WHATS = ("unfused", "fused")

Nodes = list[onnx.NodeProto]


@dataclass(frozen=True)
class Pair:
    """A pattern at certain shapes.

    Attributes:
        model: where it was found.
        extraction: its operators as a body, and where they stand in the graph.
        capture: the body alone with its shapes; predictions are made for it.
        seconds: what its operators take, about; decides how often it stands in the model that is timed.
    """

    model: str
    extraction: Extraction
    capture: Capture
    seconds: float

    @property
    def digest(self) -> str:
        """Names it in the file of passes."""
        key = repr((self.model, self.extraction.identity, sorted(self.capture.shapes.items())))
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def operators(self) -> str:
        """Its operators in a few words."""
        names = [node.op_type for node in self.capture.graph.nodes]
        return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")

    @property
    def size(self) -> int:
        """Elements of its largest tensor."""
        return max(int(np.prod(shape)) for shape in self.capture.shapes.values())


def main() -> int:
    """Parse the command line, find or read the pairs, time them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="?", help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--machine", default=machine.DEFAULT, help="machine file or name")
    parser.add_argument("--half", type=int, choices=(0, 1), help="models of this half only")
    parser.add_argument("--json", type=Path, help="write the rows too")
    parser.add_argument("--seconds", type=float, default=80.0, help="time for measurements; 0: those of before")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="show what the N worst predictions consist of"
    )
    parser.add_argument("--learn", action="store_true", help="learn rates from each half, and try them on the other")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="store the pairs and their kernels, and stop")
    parser.add_argument("--from", dest="stored", type=Path, metavar="FOLDER", help="time stored pairs")
    arguments = parser.parse_args()
    hardware = machine.load(arguments.machine)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.stored or arguments.prepare or Path(temporary)
        if not arguments.stored:
            if arguments.models is None:
                parser.error("MODELS or --from is needed")
            prepare(arguments.models, arguments.captures, arguments.half, hardware, folder)
        if arguments.prepare:
            return 0
        rows = list(measured(folder, hardware, arguments.seconds))
        warm = Passes(folder).warm(hardware)
    if arguments.json:
        arguments.json.write_text(
            json.dumps([{key: row[key] for key in row if key != "capture"} for row in rows], indent=1) + "\n",
            encoding="utf-8",
        )
    print(table(rows))
    for half in (0, 1):
        own = [row for row in rows if half_of(row["model"]) == half]
        if own:
            print(f"\nHalf {half}: {summary(own)}")
    print(f"\nAll: {summary(rows)}\n\n{by_kind(rows)}")
    if arguments.learn:
        print(f"\n{learnt(rows, warm)}")
    for row in worst(rows, arguments.worst):
        print(f"\n{parts_text(row)}")
    return 0


# ------------------------------------------------------------------------------------------------------ the pairs


def half_of(model: str) -> int:
    """0 or 1, by the model's name."""
    return hashlib.sha256(model.encode()).digest()[0] % 2


def prepare(folder: Path, listing: Path | None, half: int | None, hardware: Machine, target: Path) -> None:
    """Find the pairs and compile one library of their kernels; both go into the target folder."""
    target.mkdir(parents=True, exist_ok=True)
    inputs = captures_of(folder, listing)
    pairs: list[Pair] = []
    per_pattern: dict[str, int] = {}
    seen: set[object] = set()
    for path in sorted(folder.glob("*.onnx")):
        if half is not None and half_of(path.stem) != half:
            continue
        try:
            known = inputs.get(path.stem, {})
            capture = capture_model(
                models.load(path), path.stem, known.get("shapes", {}), ranges=known.get("ranges", {})
            )
        except GraphoptError as error:
            print(f"{path.stem}: {error}", file=sys.stderr)
            continue
        for count, pair in enumerate(found_in(capture, hardware, seen, per_pattern), 1):
            pairs.append(pair)
            if count == PER_MODEL:
                break
    bodies: dict[str, list[Pair]] = {}
    for pair in pairs:
        bodies.setdefault(pair.extraction.name, []).append(pair)
    fused = []
    for name, group in sorted(bodies.items()):
        made = kernels.FusedOperator(name, group[0].extraction.body, tuple(pair.capture.shapes for pair in group))
        try:
            kernels.write_source([made], target / "one.c", name)
        except Exception as error:  # a kernel that cannot be generated after all is one pair less, and is said
            print(f"{name}: no kernel: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        fused.append(made)
    kernels.build_library([*fused, *chains.links()], target, "pairs")
    generated = {made.name for made in fused}
    pairs = [pair for pair in pairs if pair.extraction.name in generated]
    (target / "pairs.pickle").write_bytes(pickle.dumps(pairs))
    print(f"{len(pairs)} pairs of {len(fused)} patterns", file=sys.stderr)


def found_in(capture: Capture, hardware: Machine, seen: set[object], per_pattern: dict[str, int]) -> Iterator[Pair]:
    """New pairs of a model, in an order that its names alone decide."""
    found = find_candidates(capture.graph, [capture], hardware, kernels.lowerable).occurrences
    for occurrence in sorted(found, key=lambda one: hashlib.sha256(repr(one.extraction.nodes).encode()).digest()):
        extraction = occurrence.extraction
        constants = extraction.body.tensors.values()
        shapes = shapes_of(capture, extraction) | {one.name: one.shape for one in constants if one.shape is not None}
        key = (extraction.identity, tuple(sorted(shapes.items())))
        count = per_pattern.get(extraction.identity, 0)
        tensors = (name for node in extraction.body.nodes for name in (*node.inputs, *node.outputs))
        complete = all(name in shapes for name in tensors if name)
        if key in seen or count == PER_PATTERN or occurrence.before < LEAST_SECONDS or not complete:
            continue
        if any(0 in shape for shape in shapes.values()) or renames_at_border(extraction.body):
            continue
        seen.add(key)
        per_pattern[extraction.identity] = count + 1
        yield Pair(capture.graph.name, extraction, alone(capture, extraction), occurrence.before)


def renames_at_border(body: OperatorGraph) -> bool:
    """Whether a Reshape or the like reads an operand or writes a result.

    Inside of a model it hands storage on; cut out with it at the border, onnxruntime copies.
    """
    border = {*body.inputs, *body.outputs}
    views = [node for node in body.nodes if (row := operators.find(node)) is not None and row.rate_class == "view"]
    return any({*node.inputs[:1], *node.outputs} & border for node in views)


def alone(capture: Capture, extraction: Extraction) -> Capture:
    """The body as a graph of its own, with the shapes of all constants."""
    one = standalone(capture, extraction)
    shapes = {tensor.name: tensor.shape for tensor in one.graph.tensors.values() if tensor.shape is not None}
    return replace(one, shapes={**one.shapes, **shapes})


# ------------------------------------------------------------------------------------------------------ their times


def measured(folder: Path, hardware: Machine, limit: float) -> Iterator[dict[str, Any]]:
    """Predicted and measured seconds of every stored pair; no pass begins after ``limit`` seconds."""
    pairs = stored_pairs(folder)
    passes = Passes(folder)
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True), disable=limit <= 0) as shown:
        _measure(pairs, passes, folder / "pairs.so", limit, shown)
    warm = passes.warm(hardware)
    for pair in pairs:
        timed = [passes.of(pair, what) for what in WHATS]
        times = roofline.operator_times(pair.capture, warm)
        fused = roofline.kernel_seconds(pair.capture, range(len(times)), warm)
        if fused is None or None in times or not all(one.passes for one in timed):
            continue
        yield {
            "model": pair.model,
            "pattern": pair.extraction.name,
            "operators": pair.operators,
            "kind": kind_of(pair),
            "elements": pair.size,
            "shapes": shapes_text(pair),
            "capture": pair.capture,
            "predicted": {"unfused": sum(seconds or 0.0 for seconds in times), "fused": fused.seconds},
            "parts": {"operators": times, "kernel": asdict(fused)},
            "measured": {what: passes.seconds(pair, one.best) for what, one in zip(WHATS, timed, strict=True)},
            "middle": {what: passes.seconds(pair, middle(one)) for what, one in zip(WHATS, timed, strict=True)},
        }


def middle(timed: Timed) -> float:
    """Seconds of the middle of the passes that count."""
    return statistics.median(timed.undisturbed or [seconds for seconds, _, _ in timed.passes])


def speedup_interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """Least and largest speedup: the fastest pass of one half against the middle one of the other half."""
    best, other = row["measured"], row["middle"]
    return best["unfused"] / other["fused"], other["unfused"] / best["fused"]


def stored_pairs(folder: Path) -> list["Pair"]:
    """What ``prepare`` stored."""
    found: list[Pair] = pickle.loads((folder / "pairs.pickle").read_bytes())
    return found


def _measure(pairs: Sequence["Pair"], passes: "Passes", library: Path, limit: float, shown: Progress) -> None:
    """More passes of what has not been measured well yet."""
    end = time.monotonic() + limit
    broken: set[str] = set()
    while time.monotonic() < end:
        passes.time("call", fastest_of(lambda: bound(session(case_model(TINY), 1), TINY.feeds)))
        passes.time("chain of node", fastest_of(lambda: bound(session(chains.chain_of_nodes(), 1), chains.FEEDS)))
        passes.time(
            "chain of kernel", fastest_of(lambda: bound(session(chains.chain_of_kernels(), 1, library), chains.FEEDS))
        )
        todo = [
            (pair, what)
            for pair in pairs
            for what in WHATS
            if pair.digest not in broken and len(passes.of(pair, what).undisturbed) < ENOUGH
        ]
        if not todo:
            return
        for pair, what in shown.track(todo, description=f"{len(todo)} times to take"):
            if time.monotonic() > end or pair.digest in broken:
                continue
            try:
                passes.time(
                    f"{copies_of(pair)} x {pair.digest} {what}", fastest_of(partial(runner, pair, what, library))
                )
            except Exception as error:  # onnxruntime's exceptions share no base class of their own
                broken.add(pair.digest)
                print(f"{pair.model}: {pair.operators}: {' '.join(str(error).split())[:160]}", file=sys.stderr)


def fastest_of(run: Callable[[], Run]) -> Callable[[], float]:
    """A pass over what a function prepares."""
    return lambda: fastest(run(), SECONDS)


class Passes:
    """All passes, kept in a file: what was timed, with what, its seconds and the watch's looks before and after."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "passes.jsonl"
        library = hashlib.sha256((folder / "pairs.so").read_bytes()).hexdigest()
        self.made = {True: library, False: f"onnxruntime {onnxruntime.__version__}"}
        self.watch = Watch(1)
        self.timed: dict[str, Timed] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                if record["made"] == self.made_by(record["what"]):
                    before, after = tuple(record["before"]), tuple(record["after"])
                    self.watch.seen(before)
                    self.watch.seen(after)
                    self._timed(record["what"]).passes.append((record["seconds"], before, after))

    def made_by(self, what: str) -> str:
        """What computed it."""
        return self.made[what.split()[-1] in ("fused", "kernel")]

    def _timed(self, what: str) -> Timed:
        return self.timed.setdefault(what, Timed(self.watch))

    def of(self, pair: "Pair", what: str) -> Timed:
        """The passes of a pair."""
        return self._timed(f"{copies_of(pair)} x {pair.digest} {what}")

    def seconds(self, pair: "Pair", call: float) -> float:
        """Seconds of a pattern, out of those of a call of the model that holds it."""
        return max(call - self.call, 0.05 * call) / copies_of(pair)

    def time(self, what: str, measure: Callable[[], float]) -> None:
        """One more pass."""
        timed = self._timed(what)
        timed.time(measure)
        seconds, before, after = timed.passes[-1]
        record = {"what": what, "made": self.made_by(what), "seconds": seconds, "before": before, "after": after}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    @property
    def node(self) -> float:
        """Seconds of a small node of a chain that was executed a moment ago."""
        return (self._timed("chain of node").best - self._timed("call").best) / (chains.LENGTH - 1)

    @property
    def call(self) -> float:
        """Seconds of a call without its node."""
        return self._timed("call").best - self.node

    def warm(self, hardware: Machine) -> Machine:
        """The machine with the prices of nodes and kernels that were executed a moment ago."""
        source = "a chain of small nodes, executed over and over"
        kernel = (self._timed("chain of kernel").best - self.call) / chains.LENGTH
        node, kernel_price = (Quantity(price, "s", "measured", "core", source) for price in (self.node, kernel))
        return replace(hardware, per_node=node, per_kernel=kernel_price)


def operator_nodes(pair: Pair, copy: int) -> Nodes:
    """The pattern's operators."""
    body = function(pair.extraction.body)
    computed = {name for node in pair.extraction.body.nodes for name in node.outputs if name}
    nodes = []
    for node in body.node:
        if node.op_type == "Constant" and not node.domain:
            continue
        renamed = onnx.NodeProto()
        renamed.CopyFrom(node)
        renamed.name = f"{node.name}_{copy}"
        del renamed.input[:], renamed.output[:]
        renamed.input.extend(f"{name}_{copy}" if name in computed else name for name in node.input)
        renamed.output.extend(f"{name}_{copy}" if name else name for name in node.output)
        nodes.append(renamed)
    return nodes


def kernel_nodes(pair: Pair, copy: int) -> Nodes:
    """The pattern's kernel."""
    body = pair.extraction.body
    outputs = [f"{name}_{copy}" for name in body.outputs]
    return [helper.make_node(body.name, list(body.inputs), outputs, domain="graphopt.fused", name=f"fused_{copy}")]


def copies_of(pair: Pair) -> int:
    """How often a pattern stands in its model."""
    graph = pair.capture.graph
    constants = [name for name, tensor in graph.tensors.items() if tensor.constant]
    held = sum(
        storage_bytes(graph.tensors[name].dtype, prod(pair.capture.shapes[name]))
        for name in (*graph.outputs, *constants)
    )
    return max(1, min(MOST_COPIES, round(COPIES_UNTIL / pair.seconds), COPIES_HOLD // max(1, held)))


def runner(pair: Pair, what: str, library: Path) -> Run:
    """A call of a model that holds copies of a pattern: its operators, or its kernel."""
    operators_alone = model_of(pair, "unfused")
    # Operators say what their operands may be: indices lie inside of their tables.
    feeds = models.seeded_inputs(
        operators_alone, {name: pair.capture.shapes[name] for name in pair.capture.graph.inputs}
    )
    fused = what == "fused"
    model = model_of(pair, what) if fused else operators_alone
    # The price of a call holds one node, and one node's price is part of what is measured.
    return bound(session(model.SerializeToString(), 1, library if fused else None), feeds)


def model_of(pair: Pair, what: str) -> onnx.ModelProto:
    """A model that holds copies of a pattern."""
    graph, fused = pair.capture.graph, what == "fused"
    rng = np.random.default_rng(0)
    constants = {
        name: np.asarray(value_of(pair, name, rng))
        for name, tensor in graph.tensors.items()
        if tensor.constant and (not fused or name in pair.extraction.body.inputs)
    }
    inputs = [
        helper.make_tensor_value_info(name, element_type(graph.tensors[name].dtype), pair.capture.shapes[name])
        for name in graph.inputs
    ]
    nodes = kernel_nodes if fused else operator_nodes
    proto = helper.make_graph(
        [node for copy in range(copies_of(pair)) for node in nodes(pair, copy)],
        "pair",
        inputs,
        [helper.make_empty_tensor_value_info(f"{name}_0") for name in graph.outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    versions = {node.domain: node.version for node in graph.nodes} | {"graphopt.fused": 1}
    versions.setdefault("", 17)
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(proto, opset_imports=imports, ir_version=10)


def element_type(dtype: str) -> int:
    """ONNX's number of a dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def value_of(pair: Pair, name: str, rng: np.random.Generator) -> np.ndarray:
    """A constant's own value where it was kept, else numbers like it."""
    tensor = pair.capture.graph.tensors[name]
    if tensor.value is not None:
        return tensor.value
    shape = tensor.shape or ()
    if np.dtype(tensor.dtype).kind == "f":
        if len(shape) < 2:
            return (0.5 + rng.random(shape)).astype(tensor.dtype)
        # Weights as large as trained ones: larger ones lead to subnormal numbers, which take a core much longer.
        nodes = pair.capture.graph.nodes
        convolved = any("Conv" in node.op_type and name == node.inputs[1] for node in nodes)
        terms = prod(shape[1:]) if convolved else max(shape[-2:])
        weights: np.ndarray = (rng.standard_normal(shape) / terms**0.5).astype(tensor.dtype)
        return weights
    return np.zeros(shape, tensor.dtype)


# ---------------------------------------------------------------------------------------------------- what is shown


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table in microseconds, sorted by measured speedup."""
    columns = ["model", "operators", "elements"]
    for what in ("unfused", "fused", "speedup"):
        columns += [f"{what}, predicted", "measured"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in sorted(rows, key=lambda row: -row["measured"]["unfused"] / row["measured"]["fused"]):
        predicted, seconds = row["predicted"], row["measured"]
        cells = [predicted["unfused"], seconds["unfused"], predicted["fused"], seconds["fused"]]
        ratios = [one["unfused"] / one["fused"] for one in (predicted, seconds)]
        texts = [row["model"], row["operators"], f"{row['elements']:,}"]
        low, high = speedup_interval(row)
        texts += [f"{cell * 1e6:.1f}" for cell in cells]
        texts += [f"{ratios[0]:.2f}", f"{ratios[1]:.2f} ({low:.2f} – {high:.2f})"]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def shapes_text(pair: Pair) -> str:
    """Its operators with the shapes that they read and write."""
    shapes, texts = pair.capture.shapes, []
    for node in pair.capture.graph.nodes:
        read, made = (
            ", ".join("x".join(map(str, shapes.get(name, ()))) or "1" for name in names if name)
            for names in (node.inputs, node.outputs)
        )
        texts.append(f"{node.op_type}({read}) -> {made}")
    return "; ".join(texts)


def learnt(rows: Sequence[Mapping[str, Any]], hardware: Machine) -> str:
    """What ``calibrate --from-log`` makes of one half's measurements, in errors of the other half."""
    halves: tuple[list[Record], list[Record]] = ([], [])
    for row in rows:
        predicted, seconds = ((row[kind]["unfused"], row[kind]["fused"]) for kind in ("predicted", "measured"))
        halves[half_of(row["model"])].append(Record(row["capture"], hardware.name, 1, "bench", predicted, seconds))
    lines = []
    for half in (0, 1):
        own, other = halves[half], halves[1 - half]
        found = learning.learn(hardware, own, "half").machine
        errors = [learning.mean_error(one, records) for records in (own, other) for one in (hardware, found)]
        texts = ["{:.1%} to {:.1%}".format(*errors[at : at + 2]) for at in (0, 2)]
        lines.append(
            f"Learnt from half {half}: its error goes from {texts[0]}, that of the other half from {texts[1]}."
        )
    return "\n".join(lines)


def worst(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The rows whose predicted speedup is furthest from the measured one."""

    def error(row: Mapping[str, Any]) -> float:
        predicted, seconds = row["predicted"], row["measured"]
        return abs(log(predicted["unfused"] / seconds["unfused"] / predicted["fused"] * seconds["fused"]))

    return sorted(rows, key=error, reverse=True)[:count]


def parts_text(row: Mapping[str, Any]) -> str:
    """What a prediction consists of, in microseconds."""
    predicted, seconds, parts = row["predicted"], row["measured"], row["parts"]
    own = ", ".join(f"{value * 1e6:.1f}" for value in parts["operators"])
    kernel = ", ".join(f"{name} {value * 1e6:.1f}" for name, value in parts["kernel"].items())
    return (
        f"{row['model']}: {row['shapes']}\n"
        f"  unfused {seconds['unfused'] * 1e6:.1f}, predicted {predicted['unfused'] * 1e6:.1f}: {own}\n"
        f"  fused {seconds['fused'] * 1e6:.1f}, predicted {predicted['fused'] * 1e6:.1f}: {kernel}"
    )


KINDS = ("convolution", "matrix product", "reduction", "lookup", "element-wise", "layout alone")
"""What is dearest in a pattern, the dearest first."""


def kind_of(pair: Pair) -> str:
    """What a pattern is mostly about."""
    nodes = pair.capture.graph.nodes
    classes = {row.fusion_class for node in nodes if (row := operators.find(node)) is not None}
    if any("Conv" in node.op_type for node in nodes):
        return KINDS[0]
    order = (FusionClass.CONTRACTION, FusionClass.REDUCTION, FusionClass.LOOKUP, FusionClass.ELEMENTWISE)
    return next((name for name, kind in zip(KINDS[1:], order, strict=False) if kind in classes), KINDS[-1])


def by_kind(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: where the error is."""
    lines = [
        "| kind | pairs | unfused error, mean (median) | fused error | speedup error | fused, predicted over measured |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        if not own:
            continue
        ratios = {w: np.array([row["predicted"][w] / row["measured"][w] for row in own]) for w in ("unfused", "fused")}
        ratios["speedup"] = ratios["unfused"] / ratios["fused"]
        errors = [np.abs(ratio - 1) for ratio in ratios.values()]
        texts = [f"{error.mean():.1%} ({np.median(error):.1%})" for error in errors]
        lines.append(f"| {kind} | {len(own)} | {' | '.join(texts)} | {np.median(ratios['fused']):.2f} |")
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean absolute percentage errors, the rank correlation, and wins that are losses."""
    kinds = [(kind, what) for kind in ("predicted", "measured") for what in ("unfused", "fused")]
    times = np.array([[row[kind][what] for kind, what in kinds] for row in rows])
    unfused, fused = np.abs(times[:, 0] / times[:, 2] - 1), np.abs(times[:, 1] / times[:, 3] - 1)
    predicted, seconds = times[:, 0] / times[:, 1], times[:, 2] / times[:, 3]
    speedup = np.abs(predicted / seconds - 1)
    rank = float(spearmanr(predicted, seconds).statistic)
    upper = np.array([speedup_interval(row)[1] for row in rows])
    wrong, surely = (int(np.sum((predicted > WIN) & (least < 1.0))) for least in (seconds, upper))
    patterns = len({row["pattern"] for row in rows})
    return (
        f"{len(rows)} pairs of {patterns} patterns in {len({row['model'] for row in rows})} models. "
        f"Mean error (median): unfused {unfused.mean():.1%} ({np.median(unfused):.1%}), "
        f"fused {fused.mean():.1%} ({np.median(fused):.1%}), speedup {speedup.mean():.1%} ({np.median(speedup):.1%}). "
        f"Rank correlation of speedup {rank:.3f}. Predicted to win by more than {WIN}, measured as a loss: {wrong}, "
        f"of which {surely} in all of the interval from the fastest to the middle pass."
    )


if __name__ == "__main__":
    sys.exit(main())
