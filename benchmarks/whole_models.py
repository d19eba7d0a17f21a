#!/usr/bin/env python3
"""Hold predictions for whole models against docs/results.md: time in stock onnxruntime, and what ``apply`` gains.

    python benchmarks/whole_models.py MODELS [--captures FILE] [--results docs/results.md] [--machine NAME]

MODELS and ``--captures`` are those of ``benchmarks/corpus.py``, which wrote the results. Nothing is timed or compiled
here. Predicted is the executed view: all its operators, and the same with the disjoint kernels that save most by
prediction. ``apply`` tries these and others, keeps what measures faster, and also rewrites raw models; so its gain is
another number, and only the order of the models is compared with it. Models with operators of unknown time (Loops whose
trips are not known) are left out of the errors.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from corpus import captures as captures_of
from scipy.stats import spearmanr

from graphopt import kernels, machine, models, roofline
from graphopt.capture import capture_model
from graphopt.errors import GraphoptError
from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.passes.candidates import find_candidates
from graphopt.passes.select import Candidate, select


def main() -> None:
    """Parse the command line, predict, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of .onnx files")
    parser.add_argument("--captures", type=Path, help="captures.toml, or a JSON list of models with their inputs")
    parser.add_argument("--results", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--machine", default=machine.DEFAULT, help="machine file or name")
    arguments = parser.parse_args()
    hardware = machine.load(arguments.machine)
    inputs = captures_of(arguments.models, arguments.captures)
    rows = []
    print("| model | stock ms, predicted | measured | ratio, predicted | measured |\n|---|---|---|---|---|")
    for name, (stock, ratio) in measured(arguments.results).items():
        known = inputs.get(name, {})
        try:
            model = models.load(arguments.models / f"{name}.onnx")
            capture = capture_model(model, name, known.get("shapes", {}), ranges=known.get("ranges", {}))
        except GraphoptError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        before, after, unknown = predicted(capture, hardware)
        if not unknown:
            rows.append((before, stock, before / after, ratio))
        text = f"{before * 1e3:.3g}" + (f" + {unknown} unknown" if unknown else "")
        print(f"| {name} | {text} | {stock * 1e3:.3g} | {before / after:.2f} | {ratio:.2f} |", flush=True)
    print(f"\n{summary(np.array(rows))}")


def measured(results: Path) -> dict[str, tuple[float, float]]:
    """Seconds in stock onnxruntime and the ratio to those of the written model, by model, on one thread."""
    lines = results.read_text(encoding="utf-8").split("## 1 thread", 1)[1].split("\n## ")[0].splitlines()
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    columns = tables[0]
    return {
        row[0]: (float(row[columns.index("stock ms")]) / 1e3, float(row[columns.index("ratio")].split("**")[1]))
        for row in tables[2:]
    }


def predicted(capture: Capture, hardware: Machine) -> tuple[float, float, int]:
    """Seconds of a model as it is, and with the kernels that save most; operators that neither counts."""
    call = hardware.per_call.value if hardware.per_call is not None else 0.0
    whole = roofline.capture_seconds(capture, hardware)
    before = whole.seconds + call
    found = find_candidates(capture.graph, [capture], hardware, kernels.lowerable).occurrences
    candidates = [Candidate(tuple(sorted(one.extraction.nodes)), one.saving) for one in found]
    saved = sum(found[index].saving for index in select(capture.graph, candidates))
    return before, before - saved, whole.unknown


def summary(rows: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> str:
    """The error of the time, and how well the order of both agrees."""
    error = np.abs(rows[:, 0] / rows[:, 1] - 1.0)
    ranks = [float(spearmanr(rows[:, i], rows[:, i + 1]).statistic) for i in (0, 2)]
    means = [float(np.exp(np.log(rows[:, i]).mean())) for i in (2, 3)]
    return (
        f"{len(rows)} models. Time in stock onnxruntime: mean error {error.mean():.1%}, median {np.median(error):.1%}, "
        f"rank correlation {ranks[0]:.3f}. Gain: geometric mean {means[0]:.2f} predicted, {means[1]:.2f} measured, "
        f"rank correlation {ranks[1]:.3f}."
    )


if __name__ == "__main__":
    main()
