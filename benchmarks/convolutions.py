"""Convolutions of real models, with the element-wise work behind them: generated kernels against onnxruntime.

    python benchmarks/convolutions.py MODELS [--captures FILE] [--only ID …] [--alone] [--most N]

MODELS is a folder of .onnx files, as for ``benchmarks/corpus.py``. Every different convolution of the models' executed
view is timed: as nodes of onnxruntime, and as one kernel. Both sessions hold the same number of copies, run without
optimisation on bound inputs and outputs, and take turns; the fastest turn of each counts. The table has a row for each
class of convolutions: how many, the share of it in the models' time in convolutions, GFLOP/s of both, and the ratio.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from timeit import timeit
from typing import Any

import numpy as np
from corpus import captures
from onnx import helper

from graphopt import models, operators
from graphopt.calibrate.timing import Run, bound, model_of, session
from graphopt.capture import capture_model
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, Shape
from graphopt.kernels import FusedOperator, build_library, lowerable
from graphopt.operators.blocked import DOMAIN
from graphopt.operators.formulas import integers, text
from graphopt.operators.lowering import Convolving
from graphopt.passes import regions
from graphopt.passes.extract import Extraction, extract

FUSED = "graphopt.fused"
TURNS = 9
TURN_SECONDS = 3e-3
MOST_COPIES = 64


@dataclass
class Found:
    """A convolution with what follows it, wherever it stands in the models."""

    extraction: Extraction
    shapes: dict[str, Shape]
    flops: float
    kind: str
    models: list[str]


def main() -> int:
    """Parse the command line and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="this model only; may be repeated")
    parser.add_argument("--alone", action="store_true", help="without what follows the convolutions")
    parser.add_argument("--rows", action="store_true", help="a row for each convolution, too")
    arguments = parser.parse_args()
    known = captures(arguments.models, arguments.captures)
    found: dict[object, Found] = {}
    for path in sorted(arguments.models.glob("*.onnx")):
        if arguments.only and path.stem not in arguments.only:
            continue
        try:
            collect(path, known.get(path.stem, {}), arguments.alone, found)
        except GraphoptError as error:
            print(f"{path.stem}: {error}", file=sys.stderr)
    rows = list(timed(list(found.values())))
    if arguments.rows:
        print("| convolution | stock µs | kernel µs | ratio |\n|---|---|---|---|")
        for one, stock, kernel in sorted(rows, key=lambda row: row[1] / row[2]):
            print(f"| {described(one)} | {stock * 1e6:.1f} | {kernel * 1e6:.1f} | {stock / kernel:.2f} |")
        print()
    print_table(rows)
    return 0


def collect(path: Path, shapes: dict[str, object], alone: bool, found: dict[object, Found]) -> None:
    """Add the convolutions of a model that a kernel can compute."""
    capture = capture_model(models.load(path), path.stem, shapes.get("shapes", {}), ranges=shapes.get("ranges"))  # type: ignore[arg-type]
    graph = capture.graph
    sets = [] if alone else regions.grow(graph, [capture], fusible(capture), allowed=regions.epilogue).regions
    trimmed = [regions.without_last_reorders(graph, nodes) for nodes in sets]
    following = {index: nodes for nodes in trimmed for index in nodes}
    for index, node in enumerate(graph.nodes):
        operator = operators.find(node)
        if operator is None or not isinstance(operator.lowering, Convolving):
            continue
        extraction = extract(graph, following.get(index, (index,)))
        if lowerable(extraction.body) is not None:
            continue
        members = dict(zip(extraction.body.inputs, extraction.inputs, strict=True))
        for formal, at in zip(extraction.body.nodes, extraction.nodes, strict=True):
            members |= dict(zip(formal.outputs, graph.nodes[at].outputs, strict=True))
        sizes = {formal: capture.shape(name) for formal, name in members.items() if name}
        if any(size is None or 0 in size for size in sizes.values()):
            continue
        observed = {formal: size for formal, size in sizes.items() if size is not None}
        key = (extraction.identity, tuple(sorted(observed.items())))
        if key not in found:
            cost = operators.cost(capture, index)
            assert cost is not None
            found[key] = Found(extraction, observed, cost.flops, kind(capture, index), [])
        found[key].models.append(path.stem)


def fusible(capture: Capture):  # type: ignore[no-untyped-def]
    """The kernel generator's judgement on sets of nodes."""

    def reason(nodes: tuple[int, ...]) -> str | None:
        if any(operators.find(capture.graph.nodes[index]) is None for index in nodes):
            return "unknown"
        return lowerable(extract(capture.graph, nodes).body)

    return reason


def kind(capture: Capture, index: int) -> str:
    """The class of a convolution."""
    node = capture.graph.nodes[index]
    w = capture.shape(node.inputs[1]) or ()
    y = capture.shape(node.outputs[0]) or ()
    groups = int(node.attributes.get("group", 1))  # type: ignore[arg-type]
    strides = integers(node, "strides") or (1,)
    layout = "blocked" if node.domain else "plain"
    if node.domain == "com.microsoft":
        layout = "plain"
    sort = "depthwise" if groups > 1 and w[1] == 1 else "grouped" if groups > 1 else "few channels" if w[1] <= 4 else ""
    pixels = prod(y[2:])
    size = "up to 64 pixels" if pixels <= 64 else "up to 1024 pixels" if pixels <= 1024 else "more pixels"
    stride = "stride 2+" if max(strides) > 1 else ""
    kernel = "x".join(map(str, w[2:]))
    return ", ".join(part for part in (layout, f"{kernel} {sort}".strip(), stride, size) if part)


def described(one: Found) -> str:
    """A convolution in words."""
    body = one.extraction.body
    node = next(n for n in body.nodes if isinstance(operators.find(n).lowering, Convolving))  # type: ignore[union-attr]
    shapes = " ".join("x".join(map(str, one.shapes[name])) for name in (*node.inputs[:2], node.outputs[0]))
    rest = " ".join(n.op_type for n in body.nodes if n is not node)
    attributes = " ".join(
        f"{k[0]}{'x'.join(map(str, v))}"
        for k, v in sorted(node.attributes.items())
        if k in ("strides", "pads", "dilations") and isinstance(v, tuple) and set(v) - {0 if k == "pads" else 1}
    )
    groups = node.attributes.get("group", 1)
    activation = text(node, "activation", "")
    tail = f"{'g' + str(groups) if groups != 1 else ''} {attributes} {activation} {rest}"
    layout = "blocked" if node.domain == DOMAIN else "plain"
    return f"{layout} {shapes} {' '.join(tail.split())} ({len(one.models)}: {one.models[0]})"


def timed(found: Sequence[Found]) -> Iterator[tuple[Found, float, float]]:
    """(convolution, seconds stock, seconds as a kernel)."""
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(found), 64):
            chunk = found[start : start + 64]
            fused = [
                FusedOperator(f"convolution{start + n}", one.extraction.body, (one.shapes,))
                for n, one in enumerate(chunk)
            ]
            library = build_library(fused, Path(folder), f"kernels{start}")
            for number, one in enumerate(chunk):
                yield one, *against(one, f"convolution{start + number}", library)


def against(one: Found, name: str, library: Path) -> tuple[float, float]:
    """Seconds of the nodes and of the kernel, taking turns."""
    copies = int(min(MOST_COPIES, max(1, 2e8 // max(one.flops, 1))))
    pair = [opened(one, copies, None, name), opened(one, copies, library, name)]
    best = [float("inf")] * 2
    rounds = 1
    for turn in range(TURNS + 2):
        for which, run in enumerate(pair):
            seconds = timeit(run, number=rounds) / rounds
            if turn > 1:
                best[which] = min(best[which], seconds)
            elif turn == 1:
                rounds = max(1, int(TURN_SECONDS / max(seconds, 1e-6)))
    return best[0] / copies, best[1] / copies


def opened(one: Found, copies: int, library: Path | None, name: str) -> Run:
    """So many copies in a session, as nodes of onnxruntime or as calls of a kernel."""
    body = one.extraction.body
    random = np.random.default_rng(0)
    nodes = []
    for copy in range(copies):
        renamed = {y: f"{y}_{copy}" for node in body.nodes for y in node.outputs}
        if library is not None:
            nodes.append(helper.make_node(name, list(body.inputs), [renamed[y] for y in body.outputs], domain=FUSED))
            continue
        for node in body.nodes:
            attributes: dict[str, Any] = {k: v for k, v in node.attributes.items() if v != ()}
            operands, results = ([renamed.get(x, x) for x in names] for names in (node.inputs, node.outputs))
            nodes.append(helper.make_node(node.op_type, operands, results, domain=node.domain, **attributes))
    feeds = {
        x: random.standard_normal(one.shapes[x]).astype(np.float32) for x in body.inputs if not body.tensors[x].constant
    }
    constants = {
        x: (random.standard_normal(one.shapes[x]) / 8).astype(np.float32)
        for x in sorted(body.inputs)
        if body.tensors[x].constant
    }
    inner = {t.name: t.value for t in body.tensors.values() if t.value is not None and t.name not in body.inputs}
    constants |= {x: np.asarray(value) for x, value in inner.items()}
    results = [f"{y}_{copy}" for copy in range(copies) for y in body.outputs]
    version = max((node.version for node in body.nodes if not node.domain), default=17)
    return bound(session(model_of(nodes, feeds, constants, results, version), 1, library), feeds)


def print_table(rows: Sequence[tuple[Found, float, float]]) -> None:
    """One row per class; ``share`` counts each convolution as often as it stands in the models."""
    classes: dict[str, list[tuple[Found, float, float]]] = defaultdict(list)
    for row in rows:
        classes[row[0].kind].append(row)
    total = sum(len(one.models) * stock for one, stock, _ in rows)
    print("| class | different | share of time | stock GFLOP/s | kernel GFLOP/s | ratio | of single ones |")
    print("|---|---|---|---|---|---|---|")
    weight = {name: sum(len(o.models) * s for o, s, _ in members) for name, members in classes.items()}
    for name in sorted(classes, key=lambda name: -weight[name]):
        members = classes[name]
        kernel = sum(len(o.models) * k for o, _, k in members)
        flops = sum(len(o.models) * o.flops for o, _, _ in members)
        ratios = [s / k for _, s, k in members]
        print(
            f"| {name} | {len(members)} | {weight[name] / total:.1%} | {flops / weight[name] / 1e9:.0f}"
            f" | {flops / kernel / 1e9:.0f}"
            f" | {weight[name] / kernel:.2f} | {min(ratios):.2f}–{max(ratios):.2f} |"
        )
    print(f"| all | {len(rows)} | 100% | | | {total / sum(len(o.models) * k for o, _, k in rows):.2f} | |")


if __name__ == "__main__":
    sys.exit(main())
