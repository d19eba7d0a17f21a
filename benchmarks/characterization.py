#!/usr/bin/env python3
"""Print the tables of docs/characterization.md: the paper's numbers beside ours, and a row for each model of a fleet.

    python benchmarks/characterization.py [MODELS [--captures FILE] [--view raw] [--profile FILE]]

Without MODELS: Table 1 of Park et al. (2018) beside what the sample graphs, and networks built as published, give; and
the shares of time by class for the kinds of models in the sample fleet. MODELS and ``--captures`` are those of
``benchmarks/corpus.py``; ``benchmarks/fetch_models.py`` gets such models. ``--profile`` is what ``graphopt profile
MODELS --view VIEW -o FILE`` measured.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnx  # noqa: E402
from corpus import captures as captures_of  # noqa: E402

from graphopt import corpus, machine, models  # noqa: E402
from graphopt.capture import capture_model  # noqa: E402
from graphopt.characterization.characterize import Characterization, Intensity, Model, characterize, intensity  # noqa: E402
from graphopt.characterization.classes import OperatorClass  # noqa: E402
from graphopt.characterization.layers import Kind, layers  # noqa: E402
from graphopt.characterization.liveness import liveness  # noqa: E402
from graphopt.characterization.measured import measured_seconds  # noqa: E402
from graphopt.characterization.parameters import parameter_elements  # noqa: E402
from graphopt.errors import GraphoptError  # noqa: E402
from graphopt.graph import Capture  # noqa: E402
from graphopt.observation import observe  # noqa: E402
from graphopt.report.numbers import count, seconds, significant  # noqa: E402
from tests import networks  # noqa: E402

CONVOLUTIONS = (Kind.CONVOLUTION, Kind.GROUP_CONVOLUTION)
DOMAINS = {
    "recommendation": ("dlrm", "dcn_v2", "wide_and_deep"),
    "vision": (
        *("resnet50", "resnext101_32x4d", "regnet_y_1_6gf", "mobilenet_v3_large", "swin_tiny"),
        *("faster_rcnn_shuffle", "resnext3d_101"),
    ),
    "language": ("seq2seq_gru", "seq2seq_lstm", "bert_base", "xlm_r_base", "llama_blocks"),
    "speech": ("conformer_small",),
}
"""What the sample graphs stand for (sample_graphs/README.md)."""


def main() -> int:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="?", help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--view", choices=["executed", "portable", "raw"], default="raw")
    parser.add_argument("--machine", default=machine.DEFAULT)
    parser.add_argument("--profile", type=Path, help="a file of 'graphopt profile'")
    arguments = parser.parse_args()
    try:
        if arguments.models is None:
            print("\n".join([*paper(), "", *sample_shares(arguments)]))
        else:
            print("\n".join(fleet(arguments)))
    except GraphoptError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


# ------------------------------------------------------------------ beside the paper


def paper() -> Iterable[str]:
    """Rows of Table 1: first the paper's, below it ours."""
    yield "| model | | parameters | live activations | ops / weight | least | ops / (weight + activation) | least |"
    yield "|---|---|---|---|---|---|---|---|"
    loaded = corpus.load(ROOT / "sample_graphs", view="raw").captures
    sample = {(c.graph.name, *sorted(c.input_shapes().values())): c for c in loaded}

    def one(name: str) -> Capture:
        return next(capture for key, capture in sample.items() if key[0] == name)

    yield "| ResNet-50 | paper | 25 M | 2 M | 303 | 100 | 164 | 25 |"
    published = _observed(networks.resnet((3, 4, 6, 3), stride_first=True), "resnet50")
    yield _row("", "stride in the 1 × 1 convolution", published, None, CONVOLUTIONS)
    yield _row("", "sample graph: stride in the 3 × 3 convolution", one("resnet50"), None, CONVOLUTIONS)
    yield "| ResNeXt-101-32x4d | paper | 43 M | 2.4 M | 380 | 100 | 188 | 28 |"
    folded = _observed(networks.resnet((3, 4, 23, 3), groups=32, width=128), "resnext101")
    yield _row("", "convolutions", folded, CONVOLUTIONS, CONVOLUTIONS)
    yield _row("", "all layers", folded, None, CONVOLUTIONS)
    yield "| Faster-RCNN-Shuffle | paper | 6 M | 13.2 M | 3,500 | 2,500 | 145 | 4 |"
    yield _row("", "convolutions, 320 × 480", one("faster_rcnn_shuffle"), CONVOLUTIONS, CONVOLUTIONS)
    yield "| ResNeXt3D-101 | paper | 21 M | 58 M | 22,000 | 2,000 | 172 | 6 |"
    yield _row("", "convolutions, 8 frames of 112 × 112", one("resnext3d_101"), CONVOLUTIONS, CONVOLUTIONS)
    yield "| seq2seq | paper | 100 M – 1 B | > 100 K | 2 – 20 | | 2 – 20 | |"
    for capture in loaded:
        if capture.graph.name.startswith("seq2seq"):
            recurrent = (Kind.RECURRENT,)
            batch = next(layer for layer in layers(capture) if layer.kind is Kind.RECURRENT).matrices[1].m
            yield _row("", f"{capture.graph.name}, batch {batch}, recurrent layers", capture, recurrent, recurrent)
    yield "| recommendation, FCs | paper | 1 – 10 M | > 10 K | 20 – 200 | | 20 – 200 | |"
    for capture in loaded:
        if capture.graph.name in DOMAINS["recommendation"]:
            batch = next(iter(capture.input_shapes().values()))[0]
            yield _row("", f"{capture.graph.name}, batch {batch}", capture, (Kind.FC,), (Kind.FC,))
    yield "| recommendation, embeddings | paper | > 10 B | > 10 K | 1 – 2 | | 1 – 2 | |"
    for name in ("dlrm", "dcn_v2"):
        yield _row("", name, one(name), (Kind.EMBEDDING,), (Kind.EMBEDDING,))


def _observed(model: onnx.ModelProto, name: str) -> Capture:
    seen = observe(model, {}, name=name)
    return Capture(seen.graph, seen.shapes)


def _row(name: str, what: str, capture: Capture, average: Sequence[Kind] | None, least: Sequence[Kind]) -> str:
    found = layers(capture)
    over = intensity(layer for layer in found if average is None or layer.kind in average)
    low = intensity(layer for layer in found if layer.kind in least)
    assert over is not None and low is not None
    live = f"{count(liveness(capture).elements)} ({count(liveness(capture, in_place=True).elements)} in place)"
    cells = [name, what, count(parameter_elements(capture)), live, *_numbers(over, low)]
    return f"| {' | '.join(cells)} |"


def _numbers(over: Intensity, low: Intensity) -> list[str]:
    return [
        *(significant(over.weights), significant(low.least_weights)),
        *(significant(over.whole), significant(low.least_whole)),
    ]


# ------------------------------------------------------------------ where time goes


def sample_shares(arguments: argparse.Namespace) -> Iterable[str]:
    """Shares of time of the sample fleet, and of each kind of models in it, in the executed view."""
    captures = corpus.load(ROOT / "sample_graphs", view="executed").captures
    found = _characterized(captures, "executed", arguments)
    of = {name: domain for domain, names in DOMAINS.items() for name in names}
    return shares(found, lambda model: of[model.name])


def shares(found: Characterization, domain: Any) -> Iterable[str]:
    """A column for each domain, weighted by executions; measured shares where there are any, else predicted ones."""
    domains = list(dict.fromkeys(domain(model) for model in found.models))
    measured = any(model.measured for model in found.models)
    groups = [found.models, *([m for m in found.models if domain(m) == name] for name in domains)]
    parts = [Characterization(found.view, found.machine, tuple(group)).shares(measured=measured) for group in groups]
    source = "measured" if measured else f"predicted for {found.machine}"
    yield f"| operator class ({source}, {found.view} view) | all | {' | '.join(domains)} |"
    yield "|---" * (2 + len(domains)) + "|"
    for name in OperatorClass:
        if any(name in part for part in parts):
            yield f"| {name.value} | {' | '.join(f'{100 * part.get(name, 0.0):.1f} %' for part in parts)} |"


def _characterized(captures: Sequence[Capture], view: Any, arguments: argparse.Namespace) -> Characterization:
    measured = None
    if arguments.profile is not None:
        measured = measured_seconds(captures, json.loads(arguments.profile.read_text(encoding="utf-8")), view)
    return characterize(captures, machine.load(arguments.machine), view=view, measured=measured)


# ------------------------------------------------------------------ a fleet


def fleet(arguments: argparse.Namespace) -> Iterable[str]:
    """A row for each model, each run once, and shares by domain."""
    known = captures_of(arguments.models, arguments.captures)
    captures = []
    for path in sorted(arguments.models.glob("*.onnx")):
        entry: Mapping[str, Any] = known.get(path.stem, {"shapes": {}, "ranges": {}})
        ranges = {name: (low, high) for name, (low, high) in entry["ranges"].items()}
        model = models.load(path)
        shapes = models.default_shapes(model, {name: tuple(shape) for name, shape in entry["shapes"].items()})
        captures.append(capture_model(model, path.stem, shapes, 1, arguments.view, ranges))
        print(path.stem, file=sys.stderr)
    found = _characterized(captures, arguments.view, arguments)
    yield (
        "| model | batch | parameters | live activations | ops / weight | least | ops / (w + a) | least | "
        "predicted | largest classes |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in found.models:
        yield f"| {' | '.join(_model_cells(row))} |"
    yield ""
    # Every model counts alike, whatever its size: its shares are averaged.
    alike = _alike(found)
    domains = _domains(arguments.captures)
    yield from shares(alike, lambda model: domains.get(model.name, "other"))


def _model_cells(model: Model) -> list[str]:
    value = model.intensity.get("all")
    numbers = _numbers(value, value) if value is not None else ["–"] * 4
    total = sum(model.times.values()) or 1.0
    largest = sorted(model.times.items(), key=lambda pair: -pair[1])[:2]
    classes = ", ".join(f"{name.value} {100 * time / total:.0f} %" for name, time in largest)
    unknown = f" + {model.unknown_operators} unknown" if model.unknown_operators else ""
    sizes = [str(model.batch), count(model.parameters), count(model.live)]
    return [model.name, *sizes, *numbers, seconds(model.seconds) + unknown, classes]


def _alike(found: Characterization) -> Characterization:
    from dataclasses import replace

    def scaled(times: Mapping[OperatorClass, float] | None) -> dict[OperatorClass, float] | None:
        whole = sum(times.values()) if times else 0.0
        return {name: value / whole for name, value in times.items()} if times and whole else None

    rows = tuple(replace(m, times=scaled(m.times) or {}, measured=scaled(m.measured)) for m in found.models)
    return Characterization(found.view, found.machine, rows)


def _domains(file: Path | None) -> dict[str, str]:
    """Domain by model: of a JSON list of models, and of models.toml."""
    import tomllib

    rows = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))["model"]
    found = {row["id"]: row["domain"] for row in rows}
    if file is not None and file.suffix == ".json":
        found |= {row["id"]: row["domain"] for row in json.loads(file.read_text(encoding="utf-8"))}
    return found


if __name__ == "__main__":
    raise SystemExit(main())
